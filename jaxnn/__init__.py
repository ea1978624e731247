"""jaxnn: neural networks in JAX with every backward pass derived and written by hand."""

from typing import TYPE_CHECKING

from jaxnn import curvature, ops, per_example
from jaxnn.autodiff import autodiff
from jaxnn.combinators import batch_first, each, parallel, pick, residual, serial, shared
from jaxnn.generate import generate
from jaxnn.interop.layouts import convert_convention
from jaxnn.interop.recurrent import (
    recurrent_from_flax,
    recurrent_from_keras,
    recurrent_from_torch,
    recurrent_to_flax,
    recurrent_to_keras,
    recurrent_to_torch,
)
from jaxnn.interop.torch import params_from_torch, params_to_torch, state_from_torch
from jaxnn.layer import Layer, as_layer, layer
from jaxnn.layers.activations import DynamicTanh, PReLU
from jaxnn.layers.attention import MultiHeadAttention, TransformerBlock
from jaxnn.layers.batch_norm import BatchNorm
from jaxnn.layers.channels_first import channels_first
from jaxnn.layers.convolution import Conv, ConvTranspose
from jaxnn.layers.dropout import Dropout
from jaxnn.layers.embedding import Embedding
from jaxnn.layers.gaussian import GaussianSample
from jaxnn.layers.linear import Linear
from jaxnn.layers.mlp import mlp
from jaxnn.layers.normalisation import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from jaxnn.layers.recurrent import GRU, LSTM, RNN, Bidirectional
from jaxnn.mixed import mixed
from jaxnn.op import Op, op
from jaxnn.padded import Padded
from jaxnn.remat import remat
from jaxnn.reversible import reversible
from jaxnn.stacked import stacked
from jaxnn.summary import summary
from jaxnn.teaching import jacobians
from jaxnn.teaching.least_squares import least_squares
from jaxnn.tensor_parallel import column, row
from jaxnn.tied import tied
from jaxnn.training.callbacks import (
    EarlyStopping,
    KeepBest,
    LogCSV,
    LogJSONLines,
    LogTensorBoard,
)
from jaxnn.training.checkpoint import (
    load_metadata,
    load_params,
    load_sharded,
    save_params,
    save_sharded,
)
from jaxnn.training.data import validation_split
from jaxnn.training.evaluate import evaluate, predict
from jaxnn.training.fit import fit
from jaxnn.training.gradient import value_and_grad
from jaxnn.training.metrics import accuracy, confusion_matrix, top_k_accuracy
from jaxnn.training.state import NonFiniteError, Training, TrainingInterrupted
from jaxnn.training.steps import epoch_of, sgd_update, train_epoch, train_step
from jaxnn.transformations import definitions

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxnn.ops import *  # noqa: F403
else:
    globals().update({name: getattr(ops, name) for name in ops.NAMES})

__all__ = [
    "validation_split",
    "predict",
    "top_k_accuracy",
    "confusion_matrix",
    "TrainingInterrupted",
    "Training",
    "LogTensorBoard",
    "LogJSONLines",
    "LogCSV",
    "KeepBest",
    "EarlyStopping",
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm",
    "Bidirectional",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "DynamicTanh",
    "Embedding",
    "GaussianSample",
    "GroupNorm",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "MultiHeadAttention",
    "NonFiniteError",
    "Op",
    "PReLU",
    "Padded",
    "RMSNorm",
    "TransformerBlock",
    "accuracy",
    "as_layer",
    "autodiff",
    "batch_first",
    "channels_first",
    "column",
    "convert_convention",
    "curvature",
    "definitions",
    "each",
    "epoch_of",
    "evaluate",
    "fit",
    "generate",
    "jacobians",
    "layer",
    "least_squares",
    "load_metadata",
    "load_params",
    "load_sharded",
    "mixed",
    "mlp",
    "op",
    "parallel",
    "params_from_torch",
    "params_to_torch",
    "per_example",
    "pick",
    "recurrent_from_flax",
    "recurrent_from_keras",
    "recurrent_from_torch",
    "recurrent_to_flax",
    "recurrent_to_keras",
    "recurrent_to_torch",
    "remat",
    "residual",
    "reversible",
    "row",
    "save_params",
    "save_sharded",
    "serial",
    "sgd_update",
    "shared",
    "stacked",
    "state_from_torch",
    "summary",
    "tied",
    "train_epoch",
    "train_step",
    "value_and_grad",
    *ops.NAMES,
]
