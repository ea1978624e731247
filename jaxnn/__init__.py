"""jaxnn: neural networks in JAX with every backward pass derived and written by hand."""

from jaxnn.combinators import batch_first, parallel, residual, serial
from jaxnn.interop.layouts import convert_convention
from jaxnn.interop.recurrent import (
    recurrent_from_flax,
    recurrent_from_keras,
    recurrent_from_torch,
    recurrent_to_flax,
    recurrent_to_keras,
    recurrent_to_torch,
)
from jaxnn.layer import Layer, as_layer
from jaxnn.layers.attention import MultiHeadAttention, TransformerBlock
from jaxnn.layers.convolution import Conv, ConvTranspose
from jaxnn.layers.dropout import Dropout
from jaxnn.layers.embedding import Embedding
from jaxnn.layers.linear import Linear
from jaxnn.layers.mlp import mlp
from jaxnn.layers.normalisation import BatchNorm, GroupNorm, LayerNorm, RMSNorm
from jaxnn.layers.recurrent import GRU, LSTM, RNN, Bidirectional
from jaxnn.op import Op, definitions
from jaxnn.ops.activations.gated import geglu, glu, swiglu
from jaxnn.ops.activations.piecewise import (
    celu,
    elu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    relu,
    relu6,
    selu,
)
from jaxnn.ops.activations.smooth import gelu, identity, mish, sigmoid, silu, softplus, tanh
from jaxnn.ops.activations.softmax import log_softmax, softmax
from jaxnn.ops.attention import attention
from jaxnn.ops.batch_norm import batch_norm, batch_norm_inference
from jaxnn.ops.convolution import conv, conv_transpose
from jaxnn.ops.dropout import dropout
from jaxnn.ops.embedding import embedding
from jaxnn.ops.linear import linear
from jaxnn.ops.losses.classification import multiclass_hinge, negative_log_likelihood
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy,
    cross_entropy,
    sigmoid_cross_entropy,
)
from jaxnn.ops.losses.ctc import ctc_loss
from jaxnn.ops.losses.divergences import cosine_distance, kl_divergence
from jaxnn.ops.losses.focal import focal_loss
from jaxnn.ops.losses.linear_softmax_cross_entropy import linear_softmax_cross_entropy
from jaxnn.ops.losses.regression import (
    absolute_error,
    half_squared_error,
    huber_loss,
    log_cosh,
    squared_error,
)
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy
from jaxnn.ops.normalisation import group_norm, layer_norm, rms_norm
from jaxnn.ops.pooling import avg_pool, global_avg_pool, max_pool
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn
from jaxnn.ops.rotary import rotary_embedding
from jaxnn.ops.shape import flatten, reshape
from jaxnn.teaching import jacobians
from jaxnn.teaching.least_squares import least_squares
from jaxnn.training.checkpoint import load_params, save_params
from jaxnn.training.fit import History, NonFiniteError, fit
from jaxnn.training.metrics import accuracy, evaluate
from jaxnn.training.steps import epoch_of, sgd_update, train_epoch, train_step, value_and_grad

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm",
    "Bidirectional",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "Embedding",
    "GroupNorm",
    "History",
    "Layer",
    "LayerNorm",
    "Linear",
    "MultiHeadAttention",
    "NonFiniteError",
    "Op",
    "RMSNorm",
    "TransformerBlock",
    "absolute_error",
    "accuracy",
    "as_layer",
    "attention",
    "avg_pool",
    "batch_first",
    "batch_norm",
    "batch_norm_inference",
    "binary_cross_entropy",
    "celu",
    "conv",
    "conv_transpose",
    "convert_convention",
    "cosine_distance",
    "cross_entropy",
    "ctc_loss",
    "definitions",
    "dropout",
    "elu",
    "embedding",
    "epoch_of",
    "evaluate",
    "fit",
    "flatten",
    "focal_loss",
    "geglu",
    "gelu",
    "global_avg_pool",
    "glu",
    "group_norm",
    "gru",
    "half_squared_error",
    "hard_sigmoid",
    "hard_swish",
    "huber_loss",
    "identity",
    "jacobians",
    "kl_divergence",
    "layer_norm",
    "leaky_relu",
    "least_squares",
    "linear",
    "linear_softmax_cross_entropy",
    "load_params",
    "log_cosh",
    "log_softmax",
    "lstm",
    "max_pool",
    "mish",
    "mlp",
    "multiclass_hinge",
    "negative_log_likelihood",
    "parallel",
    "recurrent_from_flax",
    "recurrent_from_keras",
    "recurrent_from_torch",
    "recurrent_to_flax",
    "recurrent_to_keras",
    "recurrent_to_torch",
    "relu",
    "relu6",
    "reshape",
    "residual",
    "reverse_sequences",
    "rms_norm",
    "rnn",
    "rotary_embedding",
    "save_params",
    "selu",
    "serial",
    "sgd_update",
    "sigmoid",
    "sigmoid_cross_entropy",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "squared_error",
    "swiglu",
    "tanh",
    "train_epoch",
    "train_step",
    "value_and_grad",
]
