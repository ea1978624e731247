"""The list of all ops: every import here is a name of `jaxnn`, documented and tested."""

from jaxnn.op import Op
from jaxnn.ops.activations.gated import (
    geglu as geglu,
    glu as glu,
    reglu as reglu,
    swiglu as swiglu,
)
from jaxnn.ops.activations.maxout import maxout as maxout
from jaxnn.ops.activations.parametric import (
    dynamic_tanh as dynamic_tanh,
    prelu as prelu,
)
from jaxnn.ops.activations.piecewise import (
    celu as celu,
    elu as elu,
    hard_shrink as hard_shrink,
    hard_sigmoid as hard_sigmoid,
    hard_swish as hard_swish,
    hard_tanh as hard_tanh,
    leaky_relu as leaky_relu,
    relu as relu,
    relu6 as relu6,
    relu_squared as relu_squared,
    selu as selu,
    soft_shrink as soft_shrink,
    threshold as threshold,
)
from jaxnn.ops.activations.smooth import (
    gelu as gelu,
    identity as identity,
    log_sigmoid as log_sigmoid,
    mish as mish,
    quick_gelu as quick_gelu,
    sigmoid as sigmoid,
    silu as silu,
    softplus as softplus,
    softsign as softsign,
    squareplus as squareplus,
    tanh as tanh,
    tanh_shrink as tanh_shrink,
)
from jaxnn.ops.activations.softmax import (
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    softmax as softmax,
)
from jaxnn.ops.activations.sparsemax import sparsemax as sparsemax
from jaxnn.ops.attention import attention as attention
from jaxnn.ops.batch_norm import (
    batch_norm as batch_norm,
    batch_norm_inference as batch_norm_inference,
)
from jaxnn.ops.convolution import (
    conv as conv,
    conv_transpose as conv_transpose,
)
from jaxnn.ops.dropout import (
    alpha_dropout as alpha_dropout,
    dropout as dropout,
)
from jaxnn.ops.embedding import (
    embedding as embedding,
    embedding_bag as embedding_bag,
)
from jaxnn.ops.gaussian import (
    gaussian_kl as gaussian_kl,
    gaussian_sample as gaussian_sample,
)
from jaxnn.ops.images import (
    pad as pad,
    upsample as upsample,
)
from jaxnn.ops.joining import (
    add as add,
    concatenate as concatenate,
    multiply as multiply,
)
from jaxnn.ops.linear import linear as linear
from jaxnn.ops.losses.classification import (
    multiclass_hinge as multiclass_hinge,
    negative_log_likelihood as negative_log_likelihood,
)
from jaxnn.ops.losses.contrastive import (
    info_nce as info_nce,
    nt_xent as nt_xent,
)
from jaxnn.ops.losses.cosine import (
    cosine_embedding as cosine_embedding,
    cosine_similarity as cosine_similarity,
)
from jaxnn.ops.losses.cross_entropy import (
    binary_cross_entropy as binary_cross_entropy,
    cross_entropy as cross_entropy,
    sigmoid_cross_entropy as sigmoid_cross_entropy,
)
from jaxnn.ops.losses.ctc import ctc_loss as ctc_loss
from jaxnn.ops.losses.divergences import (
    cosine_distance as cosine_distance,
    jensen_shannon as jensen_shannon,
    kl_divergence as kl_divergence,
)
from jaxnn.ops.losses.focal import focal_loss as focal_loss
from jaxnn.ops.losses.likelihood import (
    gaussian_nll as gaussian_nll,
    poisson_nll as poisson_nll,
)
from jaxnn.ops.losses.linear_softmax_cross_entropy import (
    linear_softmax_cross_entropy as linear_softmax_cross_entropy,
)
from jaxnn.ops.losses.margin import (
    hinge as hinge,
    hinge_embedding as hinge_embedding,
    margin_ranking as margin_ranking,
    triplet_margin as triplet_margin,
)
from jaxnn.ops.losses.poly import poly_loss as poly_loss
from jaxnn.ops.losses.regression import (
    absolute_error as absolute_error,
    half_squared_error as half_squared_error,
    huber_loss as huber_loss,
    log_cosh as log_cosh,
    quantile_loss as quantile_loss,
    smooth_l1 as smooth_l1,
    squared_error as squared_error,
)
from jaxnn.ops.losses.softmax_cross_entropy import softmax_cross_entropy as softmax_cross_entropy
from jaxnn.ops.losses.sparsemax import sparsemax_loss as sparsemax_loss
from jaxnn.ops.normalisation import (
    group_norm as group_norm,
    instance_norm as instance_norm,
    layer_norm as layer_norm,
    rms_norm as rms_norm,
)
from jaxnn.ops.pooling import (
    adaptive_avg_pool as adaptive_avg_pool,
    adaptive_max_pool as adaptive_max_pool,
    avg_pool as avg_pool,
    global_avg_pool as global_avg_pool,
    global_max_pool as global_max_pool,
    max_pool as max_pool,
)
from jaxnn.ops.recurrent.cells import (
    gru_cell as gru_cell,
    lstm_cell as lstm_cell,
    rnn_cell as rnn_cell,
)
from jaxnn.ops.recurrent.gru import gru as gru
from jaxnn.ops.recurrent.lstm import lstm as lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences as reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn as rnn
from jaxnn.ops.rotary import rotary_embedding as rotary_embedding
from jaxnn.ops.segment import (
    segment_max as segment_max,
    segment_mean as segment_mean,
    segment_sum as segment_sum,
)
from jaxnn.ops.shape import (
    flatten as flatten,
    reshape as reshape,
)
from jaxnn.ops.weight_norm import (
    l2_normalize as l2_normalize,
    weight_norm as weight_norm,
)

NAMES = [name for name, member in list(globals().items()) if isinstance(member, Op)]
