"""Trees of arrays in files: one safetensors file, or a folder for large and sharded ones."""

from jaxnn.training.checkpoint.parameters import load_metadata, load_params, save_params
from jaxnn.training.checkpoint.sharded import load_sharded, save_sharded

__all__ = ["load_metadata", "load_params", "load_sharded", "save_params", "save_sharded"]
