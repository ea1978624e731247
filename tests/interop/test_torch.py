"""Weights from PyTorch: the recorded outputs and gradients of its modules, and the errors."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxnn
from jaxnn import params_from_torch, params_to_torch, state_from_torch
from jaxnn.layers.normalisation import InstanceNorm

FILE = Path(__file__).with_name("torch.safetensors")
ULPS = 8  # of the largest entry; the two libraries sum in different orders


def encoder(**options):
    gelu = jaxnn.gelu.bind(approximate=False)
    return jaxnn.TransformerBlock(6, 3, hidden=8, activation=gelu, **options)


def conv(*sizes, layer=jaxnn.Conv, **options):
    return jaxnn.channels_first(layer(*sizes, **options))


DECODER = jaxnn.serial(
    jaxnn.TransformerBlock(6, 3, hidden=8, cross=True, activation=jaxnn.relu), jaxnn.pick(0)
)
ROOT = {(): ""}
RECURRENT = {(): "recurrent"}
CASES = {
    "linear": (jaxnn.Linear(5, 4), ROOT),
    "linear_without_bias": (jaxnn.Linear(5, 4, use_bias=False), ROOT),
    "conv1d": (conv(4, 6, (3,), stride=2, padding=1, groups=2), ROOT),
    "conv2d": (conv(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), ROOT),
    "conv_transpose2d": (
        conv(
            *(4, 6, (3, 4)),
            layer=jaxnn.ConvTranspose,
            stride=(2, 3),
            padding=1,
            output_padding=(1, 0),
            groups=2,
        ),
        ROOT,
    ),
    "layer_norm": (jaxnn.LayerNorm(5), ROOT),
    "rms_norm": (jaxnn.RMSNorm(5), ROOT),
    "group_norm": (jaxnn.channels_first(jaxnn.GroupNorm(3, 6)), ROOT),
    "batch_norm": (jaxnn.channels_first(jaxnn.BatchNorm(4)), ROOT),
    "embedding": (jaxnn.Embedding(6, 4), ROOT),
    "prelu": (jaxnn.PReLU(), ROOT),
    "prelu_of_channels": (jaxnn.channels_first(jaxnn.PReLU(4)), ROOT),
    "attention": (jaxnn.MultiHeadAttention(6, 3), {(): "attention"}),
    "attention_to_context": (jaxnn.MultiHeadAttention(6, 3, context_dim=4), {(): "attention"}),
    "rnn": (jaxnn.RNN(4, 3), RECURRENT),
    "gru": (jaxnn.GRU(4, 3), RECURRENT),
    "lstm": (
        jaxnn.serial(jaxnn.LSTM(4, 3), jaxnn.LSTM(3, 3)),
        {(0,): "recurrent", (1,): ("recurrent", 1)},
    ),
    "lstm_bidirectional": (jaxnn.Bidirectional(jaxnn.LSTM, 4, 3), RECURRENT),
    "encoder_layer": (encoder(), ROOT),
    "decoder_layer": (DECODER, {(0,): ""}),
}


@pytest.fixture(scope="module")
def recording():
    return load_file(FILE)


def of(recording, case, part):
    """The entries of a case whose names begin with `part`, by the rest of the name."""
    start = f"{case}/{part}"
    return {n.removeprefix(start): a for n, a in recording.items() if n.startswith(start)}


def assert_close(actual, expected):
    assert actual.dtype == expected.dtype
    scale = np.abs(expected).max() * np.finfo(expected.dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ULPS * scale)


@partial(jax.jit, static_argnums=0)
def y_and_dx(net, params, x, dy):
    y, residuals = net.fwd(params, x)
    return y, net.bwd_input(residuals, dy)[1]


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_module_is_computed(recording, case):
    """Its output in inference, and where that needs no state the gradients of its inputs."""
    net, names = CASES[case]
    tensors = of(recording, case, "tensors/")
    params = params_from_torch(net, tensors, names)
    x = tuple(map(jnp.asarray, of(recording, case, "x").values()))
    x = x if len(x) > 1 else x[0]
    (y,), (dy,) = (list(of(recording, case, part).values()) for part in ("y", "dy"))
    state = state_from_torch(net, tensors, names) if net.stateful else None
    if state is None:
        actual, dxs = y_and_dx(net, params, x, jnp.asarray(dy))
        assert_close(actual, y)
        expected = of(recording, case, "dx").values()
        for actual, dx in zip(jax.tree.leaves(dxs), expected, strict=True):
            assert_close(actual, dx)
    else:
        assert_close(net.apply(params, x, state), y)
    back = params_to_torch(net, params, names, state=state)
    assert {n: (a.shape, a.dtype) for n, a in back.items()} == {
        n: (a.shape, a.dtype) for n, a in tensors.items()
    }
    again = params_from_torch(net, back, names)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    for name in () if any("bias_ih" in name for name in tensors) else tensors:
        np.testing.assert_array_equal(back[name], tensors[name])


def test_the_recording_is_what_pytorch_computes(recording):
    pytest.importorskip("torch")
    from record_torch import record

    repeated = record()
    assert repeated.keys() == recording.keys()
    for name, array in repeated.items():
        if name.split("/")[1].startswith(("y", "dx")):
            assert_close(array, recording[name])
        else:
            np.testing.assert_array_equal(array, recording[name])


# --- attention as others store it ---------------------------------------------------------------


def random_params(net, dtype=np.float32):
    """Params of random numbers, as NumPy arrays."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(random.standard_normal(leaf.shape), dtype), shapes)


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_separate_projections_with_grouped_heads():
    layer = jaxnn.MultiHeadAttention(8, 4, kv_heads=2, use_bias=False)
    params = random_params(layer)
    for out in ("o_proj", "out_proj"):
        ends = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": out}
        tensors = {f"attn.{end}.weight": params[n]["w"].T for n, end in ends.items()}
        assert_same(params_from_torch(layer, tensors, {(): "attn"}), params)
        named = {(): {n: f"attn.{end}" for n, end in ends.items()}}
        assert_same(params_from_torch(layer, tensors, named), params)
        assert_same(params_to_torch(layer, params, named), tensors)


def test_the_layout_of_gpt2():
    """One matrix makes queries, keys and values, and linear layers store (I, O)."""
    net = jaxnn.serial(
        jaxnn.Embedding(9, 8),
        jaxnn.TransformerBlock(8, 4, hidden=6),
        jaxnn.Linear(8, 9, use_bias=False),
    )
    net = jaxnn.tied(net, (-1, "w"), to=(0, "w"), transpose=True)
    params = random_params(net)
    (norm1, attention), (norm2, fc, _, proj) = params[1]
    tensors = {
        "wte.weight": params[0]["w"],
        "h.0.ln_1.weight": norm1["scale"],
        "h.0.ln_1.bias": norm1["bias"],
        "h.0.attn.bias": np.tri(7, dtype=bool),  # not a parameter but a causal mask
        "h.0.attn.c_attn.weight": np.concatenate([attention[n]["w"] for n in "qkv"], axis=1),
        "h.0.attn.c_attn.bias": np.concatenate([attention[n]["b"] for n in "qkv"]),
        "h.0.attn.c_proj.weight": attention["o"]["w"],
        "h.0.attn.c_proj.bias": attention["o"]["b"],
        "h.0.ln_2.weight": norm2["scale"],
        "h.0.ln_2.bias": norm2["bias"],
        "h.0.mlp.c_fc.weight": fc["w"],
        "h.0.mlp.c_fc.bias": fc["b"],
        "h.0.mlp.c_proj.weight": proj["w"],
        "h.0.mlp.c_proj.bias": proj["b"],
    }
    names = {
        (0,): "wte",
        (1, 0, 0): "h.0.ln_1",
        (1, 0, 1): "h.0.attn",
        (1, 1, 0): "h.0.ln_2",
        (1, 1, 1): "h.0.mlp.c_fc",
        (1, 1, 3): "h.0.mlp.c_proj",
    }
    options = {"conv1d": ("c_attn", "c_proj", "c_fc")}
    read = params_from_torch(net, tensors, names, ignore=["attn.bias"], **options)
    assert_same(read, params)
    names |= {(2,): "lm_head"}
    names[1, 0, 1] = {"qkv": "h.0.attn.c_attn", "o": "h.0.attn.c_proj"}
    written = params_to_torch(net, params, names, **options)
    np.testing.assert_array_equal(written["lm_head.weight"], tensors["wte.weight"])
    assert_same(written | {"h.0.attn.bias": tensors["h.0.attn.bias"]}, tensors | written)
    assert_same(params_from_torch(net, written, names, **options), params)
    written["lm_head.weight"] += 1
    with pytest.raises(ValueError, match=r"'lm_head.weight' gives an array at \(2, 'w'\)"):
        params_from_torch(net, written, names, **options)
    with pytest.raises(
        ValueError,
        match=r"needs \(24, 8\); if it is stored as \(I, O\), match 'h\.0\.attn",
    ):
        params_from_torch(net, tensors, names, ignore=["attn.bias"], conv1d=["c_fc"])


def test_a_transformer_block_may_be_named_layer_by_layer(recording):
    net, names = CASES["encoder_layer"]
    tensors = of(recording, "encoder_layer", "tensors/")
    parts = {(0, 0): "norm1", (0, 1): "self_attn", (1, 0): "norm2"}
    parts |= {(1, 1): "linear1", (1, 3): "linear2"}
    expected = params_from_torch(net, tensors, names)
    assert_same(params_from_torch(net, tensors, parts), expected)
    with_dropout = params_from_torch(encoder(dropout=0.5), tensors, names)
    assert_same(jax.tree.leaves(with_dropout), jax.tree.leaves(expected))


# --- everything else ----------------------------------------------------------------------------


def test_dtypes_are_kept_and_the_arrays_are_copies():
    layer = jaxnn.Linear(3, 4)
    for dtype in (jnp.bfloat16, np.float16, np.float64):
        tensors = {"weight": np.ones((4, 3), dtype), "bias": np.zeros(4, dtype)}
        params = params_from_torch(layer, tensors, ROOT)
        assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype(dtype)}
        tensors["weight"][:] = 2
        tensors["bias"][:] = 2
        assert_same(params, {"w": np.ones((3, 4), dtype), "b": np.zeros(4, dtype)})
        assert params_to_torch(layer, params, ROOT)["weight"].flags.writeable


def test_cells_have_no_number_and_reversed_layers_an_ending():
    layer = jaxnn.GRU(4, 3, reverse=True)
    params = random_params(layer)
    written = params_to_torch(layer, params, {(): ("rnn", 2)})
    assert sorted(written)[0] == "rnn.bias_hh_l2_reverse"
    assert_same(params_from_torch(layer, written, {(): ("rnn", 2)}), params)
    cell = params_to_torch(jaxnn.GRU(4, 3), params, {(): ("cell", None)})
    assert sorted(cell)[0] == "cell.bias_hh"


def test_recurrent_params_without_biases_have_none_in_any_format():
    for layer in (jaxnn.GRU(4, 3), jaxnn.LSTM(4, 3)):
        params = jax.tree.map(jnp.asarray, random_params(layer))
        weights = {name: params[name] for name in ("w", "u")}
        there = jaxnn.recurrent_to_torch(layer.op, weights)
        assert sorted(there) == ["weight_hh", "weight_ih"]
        assert_same(jaxnn.recurrent_from_torch(layer.op, there), weights)
        there = jaxnn.recurrent_to_keras(layer.op, weights)
        assert sorted(there) == ["kernel", "recurrent_kernel"]
        assert_same(jaxnn.recurrent_from_keras(layer.op, there), weights)
        back = jaxnn.recurrent_from_flax(layer.op, jaxnn.recurrent_to_flax(layer.op, weights))
        assert_same(back, {n: a if n in "wu" else jnp.zeros_like(a) for n, a in params.items()})
    params = {"w": jnp.ones((4, 9)), "u": jnp.ones((3, 9)), "b_u": jnp.arange(3.0)}
    there = jaxnn.recurrent_to_torch(jaxnn.gru, params)
    assert_same(jaxnn.recurrent_from_torch(jaxnn.gru, there), params | {"b": jnp.zeros(9)})
    with pytest.raises(ValueError, match="recurrent_from_torch: there is no 'bias_hh'"):
        jaxnn.recurrent_from_torch(jaxnn.gru, {n: a for n, a in there.items() if n != "bias_hh"})


def test_other_layers_are_named_array_by_array():
    net = jaxnn.serial(jaxnn.DynamicTanh(3, use_bias=False), InstanceNorm(4))
    params = random_params(net)
    names = {(0, "alpha"): "t.alpha", (0, "scale"): "t.gamma", (1,): "norm", (1, "bias"): "shift"}
    tensors = {"t.alpha": params[0]["alpha"], "t.gamma": params[0]["scale"]}
    tensors |= {"norm.weight": params[1]["scale"], "shift": params[1]["bias"]}
    assert_same(params_from_torch(net, tensors, names), params)
    assert_same(params_to_torch(net, params, names), tensors)
    bare = jaxnn.layer(
        *(lambda key: jnp.ones(3), abs, abs, abs), init_state=lambda: {"n": jnp.zeros(3)}
    )
    assert_same(params_from_torch(bare, {"s": np.ones(3)}, {(): "s"}), np.ones(3))
    state = state_from_torch(bare, {"n": np.ones(3)}, {("n",): "n"})
    assert_same(state, {"n": np.ones(3)})


def test_layers_may_share_a_tensor_and_whole_layers_may_be_tied():
    net = jaxnn.serial(jaxnn.Linear(3, 3), jaxnn.tanh, jaxnn.Linear(3, 3))
    w, b = np.arange(9.0).reshape(3, 3), np.arange(3.0)
    tensors = {"fc.weight": w, "fc.bias": b}
    read = params_from_torch(net, tensors, {(0,): "fc", (2,): "fc"})
    assert_same(read, ({"w": w.T, "b": b}, (), {"w": w.T, "b": b}))
    changed = (*read[:2], {"w": read[2]["w"], "b": read[2]["b"] + 1})
    with pytest.raises(ValueError, match=r"two arrays that differ have the name 'fc\.bias'"):
        params_to_torch(net, changed, {(0,): "fc", (2,): "fc"})
    tied = jaxnn.residual(jaxnn.tied(net, (2,), to=(0,)))
    assert_same(params_from_torch(tied, tensors, {(0,): "fc"}), ({"w": w.T, "b": b}, (), ()))
    written = params_to_torch(tied, (*read[:1], (), ()), {(0,): "fc", (2,): "fc2"})
    assert_same(written, tensors | {"fc2.weight": w, "fc2.bias": b})


def test_statistics_of_batch_norm_count_as_used():
    net = jaxnn.serial(jaxnn.BatchNorm(3, use_scale=False, use_bias=False), jaxnn.Linear(3, 4))
    statistics = {"bn.running_mean": np.ones(3), "bn.running_var": np.full(3, 2.0)}
    tensors = {"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)} | statistics
    tensors["bn.num_batches_tracked"] = np.array(5)
    names = {(0,): "bn", (1,): "fc"}
    params = params_from_torch(net, tensors, names)
    assert params[0] == {}
    state = state_from_torch(net, tensors, names)
    assert_same(state, ({"mean": np.ones(3), "var": np.full(3, 2.0)}, ()))
    written = params_to_torch(net, params, names, state=state)
    assert_same(written | {"bn.num_batches_tracked": np.array(5)}, tensors)
    with pytest.raises(ValueError, match=r"names has nothing for the BatchNorm at \(0,\)"):
        state_from_torch(net, tensors, {(1,): "fc"})
    del tensors["bn.running_var"]
    with pytest.raises(ValueError, match=r"no tensor 'bn.running_var', which the BatchNorm at"):
        state_from_torch(net, tensors, names)


TENSORS = {"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)}
NET = jaxnn.serial(jaxnn.Linear(3, 4), jaxnn.relu)
FC = {(0,): "fc"}
ATTENTION = jaxnn.MultiHeadAttention(6, 3)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("net", "tensors", "names", "sentence"),
    [
        (NET, TENSORS, {}, r"names has nothing for the Linear at \(0,\)$"),
        (NET, TENSORS, FC | {(1,): "x"}, r"names has \(1,\), where the network has no layer with"),
        (NET, TENSORS, {(0,): 3}, r"names\[\(0,\)\], for the Linear, must be a prefix, got 3"),
        (NET, TENSORS, FC | {(0, "b"): ("x", 1)}, r"must be the name of a tensor, got \('x', 1\)"),
        (
            NET,
            TENSORS,
            {(0,): "fc1"},
            r"there is no tensor 'fc1\.weight', which the Linear at \(0,\) needs; the closest name "
            r"is 'fc\.weight'$",
        ),
        (
            NET,
            TENSORS | {"fc.bias": np.ones(3)},
            FC,
            r"tensor 'fc\.bias' has shape \(3,\), but the Linear at \(0,\) needs \(4,\)$",
        ),
        (
            NET,
            TENSORS | {"fc.weight": np.ones((3, 4))},
            FC,
            r"has shape \(3, 4\), but the Linear at \(0,\) needs \(4, 3\); if it is stored as",
        ),
        (
            NET,
            TENSORS | {"x.y": np.ones(4)},
            FC,
            r"there is one unused tensor, 'x\.y'; add its layer to names",
        ),
        (
            NET,
            TENSORS | {"x.y": np.ones(4), "z": np.ones(4)},
            FC,
            r"2 tensors are not used, the first is 'x\.y'; add",
        ),
        (
            NET,
            TENSORS | {"fc.bias": [1.0] * 4},
            FC,
            r"'fc\.bias' must be a NumPy or JAX array, got list",
        ),
        (NET, TENSORS | {"fc.bias": np.ones(4, int)}, FC, r"must be floating point, got int64"),
        (jaxnn.DynamicTanh(3), {}, ROOT, r"there is no rule for the DynamicTanh at \(\), so names"),
        (jaxnn.LSTM(3, 4), {}, {(): ("rnn", "1")}, r"a pair of a prefix and the number of the lay"),
        (ATTENTION, {}, {(): {"q": "q"}}, r"or a dict of prefixes for q, k, v and o, or for qkv"),
        (ATTENTION, {}, {(): "a"}, r"no tensor 'a\.in_proj_weight', which the MultiHeadAttention"),
        (encoder(), {}, {(): 3}, r"names\[\(\)\], for the TransformerBlock, must be a prefix"),
    ],
)
def test_what_does_not_fit_is_one_sentence(net, tensors, names, sentence):
    with pytest.raises((TypeError, ValueError), match=r"^params_from_torch: .*" + sentence):
        params_from_torch(net, tensors, names)


def test_ignored_tensors_match_by_name_or_ending():
    tensors = TENSORS | {"h.3.attn.bias": np.ones(3), "rotary.inv_freq": np.ones(3)}
    params_from_torch(NET, tensors, FC, ignore=["attn.bias", "rotary.*"])
    with pytest.raises(ValueError, match=r"one unused tensor, 'h\.3\.attn\.bias'"):
        params_from_torch(NET, tensors, FC, ignore=["tn.bias", "rotary.*"])


def test_params_that_are_not_those_of_the_network_are_refused():
    params = ({"w": jnp.ones((3, 4)), "b": jnp.ones(3)}, ())
    with pytest.raises(ValueError, match=r"params do not fit the network at \(0, 'b'\): there"):
        params_to_torch(NET, params, FC)
