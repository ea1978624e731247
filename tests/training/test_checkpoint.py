"""Parameters in a file: what goes in comes out, and damage is named."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxnn


@pytest.fixture
def params():
    params = jaxnn.mlp((5, 6, 3)).init(jax.random.key(0))
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
def test_what_goes_in_comes_out(tmp_path, params, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    jaxnn.save_params(tmp_path / "p", params)
    loaded = jaxnn.load_params(tmp_path / "p", like=jax.eval_shape(lambda: params))
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype
        assert jnp.array_equal(a, b)


def test_other_programs_can_read_the_file(tmp_path, params):
    jaxnn.save_params(str(tmp_path / "p"), params)
    tensors = safetensors.numpy.load_file(tmp_path / "p")
    assert sorted(tensors) == ["[0]['b']", "[0]['w']", "[2]['b']", "[2]['w']"]
    np.testing.assert_array_equal(tensors["[0]['w']"], params[0]["w"])


def test_a_crash_leaves_the_old_file(tmp_path, params, monkeypatch):
    path = tmp_path / "p"
    jaxnn.save_params(path, params)
    before = path.read_bytes()

    def crash(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space left"):
        jaxnn.save_params(path, jax.tree.map(jnp.zeros_like, params))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p"]


def saved(tmp_path, params):
    jaxnn.save_params(tmp_path / "p", params)
    return tmp_path / "p"


def truncated(tmp_path, params):
    path = saved(tmp_path, params)
    path.write_bytes(path.read_bytes()[:-7])
    return path


def without_a_leaf(params):
    return ({"w": params[0]["w"]}, *params[1:])


BAD = {
    "there is no file": (
        FileNotFoundError,
        lambda t, p: jaxnn.load_params(t / "nowhere", p),
    ),
    "there is no folder": (
        FileNotFoundError,
        lambda t, p: jaxnn.save_params(t / "nowhere" / "p", p),
    ),
    "is truncated or not a safetensors file": (
        ValueError,
        lambda t, p: jaxnn.load_params(truncated(t, p), p),
    ),
    r"holds params\[0\]\['b'\], which `like` does not have": (
        ValueError,
        lambda t, p: jaxnn.load_params(saved(t, p), without_a_leaf(p)),
    ),
    r"does not hold params\[0\]\['b'\]": (
        ValueError,
        lambda t, p: jaxnn.load_params(saved(t, without_a_leaf(p)), p),
    ),
    r"params\[0\]\['b'\] is float32\[6\] in .* but float32\[7\] was expected": (
        ValueError,
        lambda t, p: jaxnn.load_params(
            saved(t, p), (p[0] | {"b": jnp.zeros(7, jnp.float32)}, *p[1:])
        ),
    ),
    r"params\[0\]\['b'\] is float32\[6\] in .* but float16\[6\] was expected": (
        ValueError,
        lambda t, p: jaxnn.load_params(
            saved(t, p), (p[0] | {"b": jnp.zeros(6, jnp.float16)}, *p[1:])
        ),
    ),
    r"params\['a'\] is not an array of numbers": (
        TypeError,
        lambda t, p: jaxnn.save_params(t / "p", {"a": "text"}),
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_damage_is_named_in_one_sentence(tmp_path, params, words):
    error, call = BAD[words]
    with pytest.raises(error, match=words) as caught:
        call(tmp_path, params)
    assert "\n" not in str(caught.value)
