"""Benchmarks: the hand-written gradients against autodiff and other libraries, in time and memory.

python -m experiments.benchmark SUITE
"""

import os

# Before JAX starts: it would take most of an accelerator's memory, and leave little to the
# processes that are measured beside this one
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
