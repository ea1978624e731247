"""The list of all ops: what is imported here is a name of `jaxnn`, documented and tested."""

from jaxnn.op import Op
from jaxnn.ops.activations.gated import (
    geglu as geglu,
    glu as glu,
    swiglu as swiglu,
)
from jaxnn.ops.activations.piecewise import (
    celu as celu,
    elu as elu,
    hard_sigmoid as hard_sigmoid,
    hard_swish as hard_swish,
    leaky_relu as leaky_relu,
    relu as relu,
    relu6 as relu6,
    selu as selu,
)
from jaxnn.ops.activations.smooth import (
    gelu as gelu,
    identity as identity,
    mish as mish,
    sigmoid as sigmoid,
    silu as silu,
    softplus as softplus,
    tanh as tanh,
)
from jaxnn.ops.activations.softmax import (
    log_softmax as log_softmax,
    softmax as softmax,
)
from jaxnn.ops.attention import attention as attention
from jaxnn.ops.batch_norm import (
    batch_norm as batch_norm,
    batch_norm_inference as batch_norm_inference,
)
from jaxnn.ops.convolution import (
    conv as conv,
    conv_transpose as conv_transpose,
)
from jaxnn.ops.dropout import dropout as dropout
from jaxnn.ops.embedding import embedding as embedding
from jaxnn.ops.linear import linear as linear
from jaxnn.ops.losses.classification import (
    multiclass_hinge as multiclass_hinge,
    negative_log_likelihood as negative_log_likelihood,
)
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy as binary_cross_entropy,
    cross_entropy as cross_entropy,
    sigmoid_cross_entropy as sigmoid_cross_entropy,
)
from jaxnn.ops.losses.ctc import ctc_loss as ctc_loss
from jaxnn.ops.losses.divergences import (
    cosine_distance as cosine_distance,
    kl_divergence as kl_divergence,
)
from jaxnn.ops.losses.focal import focal_loss as focal_loss
from jaxnn.ops.losses.linear_softmax_cross_entropy import (
    linear_softmax_cross_entropy as linear_softmax_cross_entropy,
)
from jaxnn.ops.losses.regression import (
    absolute_error as absolute_error,
    half_squared_error as half_squared_error,
    huber_loss as huber_loss,
    log_cosh as log_cosh,
    squared_error as squared_error,
)
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from jaxnn.ops.normalisation import (
    group_norm as group_norm,
    layer_norm as layer_norm,
    rms_norm as rms_norm,
)
from jaxnn.ops.pooling import (
    avg_pool as avg_pool,
    global_avg_pool as global_avg_pool,
    max_pool as max_pool,
)
from jaxnn.ops.recurrent.gru import gru as gru
from jaxnn.ops.recurrent.lstm import lstm as lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences as reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn as rnn
from jaxnn.ops.rotary import rotary_embedding as rotary_embedding
from jaxnn.ops.shape import (
    flatten as flatten,
    reshape as reshape,
)

NAMES = [name for name, member in list(globals().items()) if isinstance(member, Op)]
