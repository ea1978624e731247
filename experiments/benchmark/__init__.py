"""Benchmarks: the hand-written gradients against autodiff and other libraries, in time and memory.

python -m experiments.benchmark SUITE
"""
