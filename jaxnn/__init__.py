"""jaxnn: neural networks in JAX with every backward pass derived and written by hand."""

from jaxnn import jacobians
from jaxnn.checkpoint import load_params, save_params
from jaxnn.combinators import mlp, parallel, residual, serial
from jaxnn.convention import convert_convention
from jaxnn.fitting import History, NonFiniteError, fit
from jaxnn.layer import Layer, as_layer
from jaxnn.layers.linear import Linear
from jaxnn.least_squares import least_squares
from jaxnn.metrics import accuracy, evaluate
from jaxnn.op import Op, definitions
from jaxnn.ops.activations import (
    elu,
    gelu,
    identity,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from jaxnn.ops.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    sigmoid_cross_entropy,
)
from jaxnn.ops.linear import linear
from jaxnn.ops.regression_losses import (
    absolute_error,
    half_squared_error,
    huber,
    squared_error,
)
from jaxnn.ops.softmax import log_softmax, softmax
from jaxnn.ops.softmax_cross_entropy import softmax_cross_entropy
from jaxnn.train import epoch_of, sgd_update, train_epoch, train_step, value_and_grad

__all__ = [
    "History",
    "Layer",
    "Linear",
    "NonFiniteError",
    "Op",
    "absolute_error",
    "accuracy",
    "as_layer",
    "binary_cross_entropy",
    "convert_convention",
    "cross_entropy",
    "definitions",
    "elu",
    "epoch_of",
    "evaluate",
    "fit",
    "gelu",
    "half_squared_error",
    "huber",
    "identity",
    "jacobians",
    "leaky_relu",
    "least_squares",
    "linear",
    "load_params",
    "log_softmax",
    "mlp",
    "parallel",
    "relu",
    "residual",
    "save_params",
    "serial",
    "sgd_update",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "squared_error",
    "tanh",
    "train_epoch",
    "train_step",
    "value_and_grad",
]
