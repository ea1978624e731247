"""Trees of arrays in files: what goes in comes out, and damage is named."""

import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import jaxnn

DTYPES = [
    *("bool", "int2", "int4", "int8", "int16", "int32", "int64"),
    *("uint2", "uint4", "uint8", "uint16", "uint32", "uint64"),
    *("float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
]
BITS = {"bool": 1, "int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4}


class Moments(NamedTuple):
    mu: jax.Array
    nu: jax.Array


@jax.tree_util.register_dataclass
@dataclass
class Affine:
    scale: jax.Array
    shift: jax.Array


@pytest.fixture
def params():
    params = jaxnn.mlp((5, 6, 3)).init(jax.random.key(0))
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


def random_bits(dtype, shape, random):
    """An array of any bit patterns that the dtype has, NaNs with payloads among them."""
    dtype = np.dtype(dtype)
    if dtype.name in ("int2", "int4"):
        return random.integers(-(2 ** (BITS[dtype.name] - 1)), 2, shape).astype(dtype)
    data = np.frombuffer(random.bytes(int(np.prod(shape)) * dtype.itemsize), np.uint8)
    return (data & (2 ** BITS.get(dtype.name, 8) - 1)).astype(np.uint8).view(dtype).reshape(shape)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_rank_comes_back_bit_for_bit(tmp_path, dtype):
    random = np.random.default_rng(0)
    full = [random_bits(dtype, (2, 3, 1, 5, 2)[:rank], random) for rank in range(6)]
    empty = [random_bits(dtype, (*(3, 1, 2, 2)[:rank], 0), random) for rank in range(5)]
    tree = {"numpy": full + empty, "jax": [jnp.asarray(a) for a in full + empty]}
    jaxnn.save_params(tmp_path / "p", tree)
    assert_same(jaxnn.load_params(tmp_path / "p"), tree)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    assert_same(jaxnn.load_params(tmp_path / "p", like), tree)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_come_back(tmp_path, implementation):
    key = jax.random.key(3, impl=implementation)
    tree = (key, jax.random.split(key, (2, 3)))
    jaxnn.save_params(tmp_path / "p", tree)
    assert_same(jaxnn.load_params(tmp_path / "p"), tree)
    assert_same(jaxnn.load_params(tmp_path / "p", jax.eval_shape(lambda: tree)), tree)
    with pytest.raises(
        ValueError,
        match=r"'0' is key<.*> but uint32\[\d\] was expected".replace(" but", r"\[\] in .* but"),
    ):
        jaxnn.load_params(tmp_path / "p", jax.tree.map(jax.random.key_data, tree))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6.0)[::-2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6).reshape(2, 3).astype(">i4").T,
        np.array(3, ">f2"),
        np.broadcast_to(np.float32(2), (3, 2)),
        np.float32(3),
    ],
)
def test_numpy_arrays_of_any_layout_keep_their_values(tmp_path, array):
    jaxnn.save_params(tmp_path / "p", {"a": array})
    loaded = jaxnn.load_params(tmp_path / "p", {"a": array})["a"]
    assert loaded.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64, np.complex128])
def test_wide_numbers_are_kept_in_the_file_and_never_narrowed(tmp_path, dtype):
    wide = {"w": random_bits(dtype, (3,), np.random.default_rng(0))}
    with jax.enable_x64(False):
        jaxnn.save_params(tmp_path / "p", wide)
        for like in (None, wide):
            with pytest.raises(ValueError, match=r"'w' is .*64 in|.*128 in .*jax_enable_x64"):
                jaxnn.load_params(tmp_path / "p", like)
    assert_same(jaxnn.load_params(tmp_path / "p"), wide)


def test_other_programs_read_the_file_and_a_person_the_names(tmp_path, params):
    tree = {"net": params, "opt": Moments(jnp.ones(2), Affine(jnp.zeros(()), jnp.int4(3)))}
    jaxnn.save_params(str(tmp_path / "p"), tree)
    tensors = safetensors.numpy.load_file(tmp_path / "p")
    names = ["net.0.b", "net.0.w", "net.2.b", "net.2.w", "opt.mu", "opt.nu.scale", "opt.nu.shift"]
    assert sorted(tensors) == names
    np.testing.assert_array_equal(tensors["net.0.w"], params[0]["w"])
    assert (tensors["opt.nu.shift"].dtype, tensors["opt.nu.shift"].shape) == (np.uint8, (1,))


def test_without_like_dicts_tuples_and_lists_come_back(tmp_path):
    one = jnp.ones(2)
    tree = {"a": [one, None, (one, {}, ())], "b": {3: one, 7: (one,)}, "": one, "c.d": one}
    jaxnn.save_params(tmp_path / "p", tree)
    assert_same(jaxnn.load_params(tmp_path / "p"), tree)
    jaxnn.save_params(tmp_path / "p", [Moments(one, Affine(one, one))])
    fields = [{"mu": one, "nu": {"scale": one, "shift": one}}]
    assert_same(jaxnn.load_params(tmp_path / "p"), fields)
    jaxnn.save_params(tmp_path / "p", one)
    assert_same(jaxnn.load_params(tmp_path / "p"), one)


def test_files_of_other_programs_load(tmp_path):
    one = np.ones(2, np.float32)
    tensors = {"encoder.0.w": one, "encoder.0.b": one, "scale": one}
    safetensors.numpy.save_file(tensors, tmp_path / "p", {"format": "pt"})
    tree = {"encoder": {"0": {"w": one, "b": one}}, "scale": one}
    assert_same(jaxnn.load_params(tmp_path / "p"), tree)
    like = {"encoder": ({"w": one, "b": one},), "scale": one}
    assert_same(jaxnn.load_params(tmp_path / "p", like), like)
    assert jaxnn.load_metadata(tmp_path / "p") == {"format": "pt"}


def test_files_of_before_load(tmp_path, params):
    tree = (*params, Moments(jnp.ones(2), {"it's": jnp.zeros(3)}))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    tensors = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    assert "[0]['w']" in tensors
    safetensors.numpy.save_file(tensors, tmp_path / "p")
    assert_same(jaxnn.load_params(tmp_path / "p", like=tree), tree)
    assert_same(jaxnn.load_params(tmp_path / "p")["0"]["w"], params[0]["w"])


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def assert_flips_are_refused(path, bits):
    content = path.read_bytes()
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(ValueError, match="cannot be loaded"):
            jaxnn.load_params(path)
    path.write_bytes(content)
    jaxnn.load_params(path)


FLIPPED = {"w": jnp.zeros((5, 7)), "b": [jnp.full(3, 0x20, jnp.uint8), jax.random.key(0)]}


def test_a_thousand_flipped_bits_are_refused(tmp_path):
    jaxnn.save_params(tmp_path / "p", FLIPPED, metadata={"epoch": "7"})
    content = (tmp_path / "p").read_bytes()
    start = content.index(b'"jaxnn.stands_for"')
    bits = random.Random(0).sample(range(8 * start, 8 * len(content)), 700)
    assert_flips_are_refused(tmp_path / "p", bits + random.Random(1).sample(range(8 * start), 300))


@pytest.mark.thorough
def test_every_flipped_bit_is_refused(tmp_path):
    jaxnn.save_params(tmp_path / "p", FLIPPED, metadata={"epoch": "7"})
    assert_flips_are_refused(tmp_path / "p", range(8 * (tmp_path / "p").stat().st_size))


def test_an_edited_header_is_refused(tmp_path):
    """Valid JSON with other names, shapes or metadata; without either of the checksums."""
    jaxnn.save_params(tmp_path / "p", {"w": jnp.zeros((2, 3))}, metadata={"epoch": "7"})
    content = (tmp_path / "p").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    data = content[-48:]
    for edit in (
        lambda h: h.update(v=h.pop("w")),
        lambda h: h["w"].update(shape=[3, 2]),
        lambda h: h["__metadata__"].update(epoch="8"),
        lambda h: h["__metadata__"].pop("jaxnn.sha256"),
        lambda h: h["__metadata__"].pop("jaxnn.data_sha256"),
    ):
        edited = json.loads(json.dumps(header))
        edit(edited)
        text = json.dumps(edited).encode()
        (tmp_path / "p").write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(ValueError, match="checksum"):
            jaxnn.load_params(tmp_path / "p")


def test_metadata_is_checked_without_the_data(tmp_path):
    path = tmp_path / "p"
    jaxnn.save_params(path, {"w": jnp.zeros(3)}, metadata={"epoch": "7", "note": "é"})
    assert jaxnn.load_metadata(path) == {"epoch": "7", "note": "é"}
    content = path.read_bytes()
    path.write_bytes(flipped(content, 8 * content.index(b'"7"') + 8))
    with pytest.raises(ValueError, match=r"load_metadata: .* checksum"):
        jaxnn.load_metadata(path)


def test_partial_loading(tmp_path):
    saved = {"a": jnp.ones(2), "b": jnp.full(3, 2.0), "c": jnp.ones(1)}
    jaxnn.save_params(tmp_path / "p", saved)
    load = partial(jaxnn.load_params, tmp_path / "p", partial=True)
    like = {"b": jax.ShapeDtypeStruct((3,), jnp.float64), "new": jnp.full(4, 5.0)}
    assert_same(load(like), {"b": saved["b"], "new": like["new"]})
    with pytest.raises(ValueError, match=r"does not hold 'new', and .* cannot be kept"):
        load(jax.eval_shape(lambda: like))
    with pytest.raises(ValueError, match="holds no leaf of `like`"):
        load({"new": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"'b' is float64\[3\] in .* float64\[4\] was expected"):
        load({"b": jnp.ones(4)})


def test_renaming(tmp_path):
    saved = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "step": jnp.ones(())}
    jaxnn.save_params(tmp_path / "p", saved)
    load = partial(jaxnn.load_params, tmp_path / "p", {"w": jnp.zeros((2, 3)), "b": jnp.ones(3)})
    expected = {"w": saved["dense"]["kernel"], "b": saved["dense"]["bias"]}
    names = {"dense.kernel": "w", "dense.bias": "b", "step": None}
    assert_same(load(rename=names), expected)
    assert_same(load(rename=names.get), expected)
    with pytest.raises(ValueError, match="holds 'step', which `like` does not have"):
        load(rename={"dense.kernel": "w", "dense.bias": "b"})
    with pytest.raises(ValueError, match=r"rename has 'dense.w', which the file does not hold"):
        load(rename={"dense.w": "w"})
    with pytest.raises(ValueError, match="gives two tensors the name 'w'"):
        load(rename=lambda name: "w")
    with pytest.raises(TypeError, match="rename must give a string or None, got 3"):
        load(rename=lambda name: 3)
    with pytest.raises(TypeError, match="partial and rename need `like`"):
        jaxnn.load_params(tmp_path / "p", rename=names)


def test_loaded_arrays_take_the_sharding_of_like(tmp_path):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = {"w": jnp.ones(2), "k": jax.random.key(0)}
    jaxnn.save_params(tmp_path / "p", tree)
    assert not jaxnn.load_params(tmp_path / "p", tree)["w"].committed
    committed = jaxnn.load_params(tmp_path / "p", jax.device_put(tree, device))
    assert committed["w"].committed
    assert committed["k"].committed


@pytest.mark.parametrize("exception", [OSError("no space left"), KeyboardInterrupt()])
def test_a_crash_leaves_the_old_file(tmp_path, params, monkeypatch, exception):
    path = tmp_path / "p"
    jaxnn.save_params(path, params)
    before = path.read_bytes()

    def crash(source, target):
        raise exception

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(type(exception)):
        jaxnn.save_params(path, jax.tree.map(jnp.zeros_like, params))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p"]


def test_links_and_modes_are_kept(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to("folder/target")
    umask = os.umask(0o027)
    try:
        jaxnn.save_params(link, {"w": jnp.ones(2)})
    finally:
        os.umask(umask)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    jaxnn.save_params(link, {"w": jnp.zeros(2)})
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]
    assert os.listdir(tmp_path / "folder") == ["target"]
    assert_same(jaxnn.load_params(target), {"w": jnp.zeros(2)})


def test_the_temporary_file_is_new_and_reaches_the_disk_with_its_folder(tmp_path, monkeypatch):
    """No link at a name that one can guess is followed: each save has another, made exclusively."""
    names, synced, fsync, replace = [], [], os.fsync, os.replace

    def recorded_fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def recorded_replace(source, target):
        names.append(str(source))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    jaxnn.save_params(tmp_path / "p", {"w": jnp.ones(2)})
    jaxnn.save_params(tmp_path / "p", {"w": jnp.ones(2)})
    assert len(set(names)) == 2
    assert synced == [names[0], str(tmp_path), names[1], str(tmp_path)]
    (tmp_path / "victim").write_text("text")
    planted = tmp_path / ".p.00.partial"
    planted.symlink_to("victim")
    monkeypatch.setattr("secrets.token_hex", lambda n: "00")
    with pytest.raises(FileExistsError):
        jaxnn.save_params(tmp_path / "p", {"w": jnp.ones(2)})
    assert (tmp_path / "victim").read_text() == "text"


def written_and_read(path, writers, reads):
    """How often reads found one whole tree, while others wrote."""
    trees = [[np.full(n + 1, n, np.float32) for _ in range(20)] for n in range(writers)]
    jaxnn.save_params(path, trees[0])
    done = threading.Event()

    def write(tree):
        while not done.is_set():
            jaxnn.save_params(path, tree)

    threads = [threading.Thread(target=write, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    try:
        for _ in range(reads):
            leaves = jaxnn.load_params(path)
            assert {(*a.shape, float(a[0])) for a in leaves} in [
                {(n + 1, float(n))} for n in range(writers)
            ]
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("reads", [50, pytest.param(1000, marks=pytest.mark.thorough)])
def test_four_writers_tear_no_file(tmp_path, reads):
    written_and_read(tmp_path / "p", 4, reads)
    assert os.listdir(tmp_path) == ["p"]


def test_process_0_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    jaxnn.save_params(tmp_path / "p", {"w": jnp.ones(2)})
    assert os.listdir(tmp_path) == []


def saved(tmp_path, params):
    jaxnn.save_params(tmp_path / "p", params)
    return tmp_path / "p"


def truncated(tmp_path, params, keep):
    path = saved(tmp_path, params)
    path.write_bytes(path.read_bytes()[:keep])
    return path


def foreign(tmp_path, tensors):
    safetensors.numpy.save_file(tensors, tmp_path / "p")
    return tmp_path / "p"


def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def without_a_leaf(params):
    return ({"w": params[0]["w"]}, *params[1:])


BAD = {
    "load_params: there is no file": (
        FileNotFoundError,
        lambda t, p: jaxnn.load_params(t / "nowhere", p),
    ),
    "load_metadata: there is no file": (
        FileNotFoundError,
        lambda t, p: jaxnn.load_metadata(t / "nowhere"),
    ),
    "save_params: there is no folder": (
        FileNotFoundError,
        lambda t, p: jaxnn.save_params(t / "nowhere" / "p", p),
    ),
    "folder is not a regular file": (ValueError, lambda t, p: jaxnn.save_params(folder(t), p)),
    "p cannot be loaded: its data has not|it has .* bytes of data": (
        ValueError,
        lambda t, p: jaxnn.load_params(truncated(t, p, -7), p),
    ),
    "is truncated, damaged or not": (
        ValueError,
        lambda t, p: jaxnn.load_params(truncated(t, p, 100), p),
    ),
    "is truncated, damaged or not a safe": (
        ValueError,
        lambda t, p: jaxnn.load_params(truncated(t, p, 0), p),
    ),
    r"holds '0\.b', which `like` does not have": (
        ValueError,
        lambda t, p: jaxnn.load_params(saved(t, p), without_a_leaf(p)),
    ),
    r"does not hold '0\.b'": (
        ValueError,
        lambda t, p: jaxnn.load_params(saved(t, without_a_leaf(p)), p),
    ),
    r"'0\.b' is float32\[6\] in .* but float32\[7\] was expected": (
        ValueError,
        lambda t, p: jaxnn.load_params(
            saved(t, p), (p[0] | {"b": jnp.zeros(7, jnp.float32)}, *p[1:])
        ),
    ),
    r"'0\.b' is float32\[6\] in .* but float16\[6\] was expected": (
        ValueError,
        lambda t, p: jaxnn.load_params(
            saved(t, p), (p[0] | {"b": jnp.zeros(6, jnp.float16)}, *p[1:])
        ),
    ),
    "leaf 'a' of `like` must be an array": (
        TypeError,
        lambda t, p: jaxnn.load_params(saved(t, {"a": jnp.ones(1)}), {"a": 1.0}),
    ),
    "keys that are neither strings nor integers": (
        ValueError,
        lambda t, p: jaxnn.load_params(saved(t, {(1, 2): jnp.ones(1)})),
    ),
    "'a.b' and another tensor would have the same place": (
        ValueError,
        lambda t, p: jaxnn.load_params(foreign(t, {"a.b": np.ones(1), "a": np.ones(1)})),
    ),
    "two leaves have the name 'a.b'": (
        ValueError,
        lambda t, p: jaxnn.save_params(t / "p", {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}),
    ),
    "no leaf can have the name '__metadata__'": (
        ValueError,
        lambda t, p: jaxnn.save_params(t / "p", {"__metadata__": jnp.ones(1)}),
    ),
    "is not valid Unicode": (
        ValueError,
        lambda t, p: jaxnn.save_params(t / "p", {"\ud800": jnp.ones(1)}),
    ),
    "key 'jaxnn.tree' of the metadata begins with 'jaxnn.'": (
        ValueError,
        lambda t, p: jaxnn.save_params(t / "p", p, metadata={"jaxnn.tree": ""}),
    ),
    "metadata must map text to text, got 'epoch': 7": (
        TypeError,
        lambda t, p: jaxnn.save_params(t / "p", p, metadata={"epoch": 7}),
    ),
    "leaf 'a' is a tracer": (
        TypeError,
        lambda t, p: jax.jit(lambda a: jaxnn.save_params(t / "p", {"a": a}))(jnp.ones(1)),
    ),
}


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("words", BAD)
def test_damage_is_named_in_one_sentence(tmp_path, params, words):
    error, call = BAD[words]
    with pytest.raises(error, match=words) as caught:
        call(tmp_path, params)
    assert "\n" not in str(caught.value)


NO_ARRAYS = {
    "int": 1,
    "float": 1.0,
    "bool": True,
    "str": "text",
    "object": object(),
    "ShapeDtypeStruct": jax.ShapeDtypeStruct((2,), jnp.float32),
    "dtype <U4": np.array("text"),
    "dtype object": np.array([None]),
    "dtype datetime64": np.zeros(2, "M8[s]"),
    "dtype float128": np.zeros(2, np.longdouble),
    "dtype int1": np.zeros(2, ml_dtypes.int1),
    "dtype uint1": np.zeros(2, ml_dtypes.uint1),
    "dtype float6_e2m3fn": np.zeros(2, ml_dtypes.float6_e2m3fn),
    "dtype float6_e3m2fn": np.zeros(2, ml_dtypes.float6_e3m2fn),
    "dtype float0": np.zeros(2, jax.dtypes.float0),
    "masked array": np.ma.masked_array([1.0, 2.0], [False, True]),
}


@pytest.mark.parametrize("words", NO_ARRAYS)
def test_what_no_file_holds_is_refused(tmp_path, words):
    with pytest.raises(TypeError, match=f"save_params: leaf 'a.0' .*{words}") as caught:
        jaxnn.save_params(tmp_path / "p", {"a": [NO_ARRAYS[words]]})
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


SAVE_ON_FOUR_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import jaxnn
assert not any(name.startswith("orbax") for name in sys.modules)
jax.config.update("jax_enable_x64", True)
four, two = (jax.make_mesh((n,), ("d",), devices=jax.devices()[:n]) for n in (4, 2))
spread, half = NamedSharding(four, P("d")), NamedSharding(two, P(None, "d"))
params = {
    "a/b": [jax.device_put(jnp.arange(24.).reshape(4, 6), spread), jnp.ones((), jnp.int4)],
    "a/": jax.device_put(jax.random.split(jax.random.key(3), 4), spread),
    "a": jnp.arange(3, dtype=jnp.bfloat16),
}
folder, file = sys.argv[1:]
jaxnn.save_sharded(folder, params)
jaxnn.save_params(file, params)
like = jax.eval_shape(lambda: params)
like["a/b"][0] = jax.ShapeDtypeStruct((4, 6), float, sharding=half)
like["a/"] = jax.ShapeDtypeStruct((4,), like["a/"].dtype, sharding=NamedSharding(two, P("d")))
for loaded in (jaxnn.load_sharded(folder, like), jaxnn.load_params(file, like)):
    assert loaded["a/b"][0].sharding == half and loaded["a/"].sharding.mesh == two
    assert len(loaded["a/"].sharding.device_set) == 2
    np.testing.assert_array_equal(loaded["a/b"][0], np.arange(24.).reshape(4, 6))
    keys = jax.random.key_data(loaded["a/"])
    np.testing.assert_array_equal(keys, jax.random.key_data(params["a/"]))
"""


def test_saved_on_four_devices_loads_on_two_and_on_one(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    forced = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", SAVE_ON_FOUR_DEVICES, folder, file],
        env=os.environ | forced,
        check=True,
    )
    params = {
        "a/b": [jnp.arange(24.0).reshape(4, 6), jnp.ones((), jnp.int4)],
        "a/": jax.random.split(jax.random.key(3), 4),
        "a": jnp.arange(3, dtype=jnp.bfloat16),
    }
    assert len(jax.devices()) == 1
    for like in (params, jax.eval_shape(lambda: params)):
        loaded = jaxnn.load_sharded(folder, like)
        assert_same(loaded, params)
        assert not any(leaf.committed for leaf in jax.tree.leaves(loaded))
    assert_same(jaxnn.load_params(file), params)
    for words, change in (
        (r"'a' is bfloat16\[3\] in .* but float32\[3\]", {"a": jnp.ones(3, jnp.float32)}),
        (r"'a' is bfloat16\[3\] in .* but bfloat16\[4\]", {"a": jnp.ones(4, jnp.bfloat16)}),
        (r"'a/' is key<fry>\[4\] in .* but uint32", {"a/": jax.random.key_data(params["a/"])}),
        (r"does not hold 'c'", {"c": jnp.ones(1)}),
    ):
        with pytest.raises(ValueError, match=words):
            jaxnn.load_sharded(folder, params | change)
    with pytest.raises(ValueError, match="holds 'a', which `like` does not have"):
        jaxnn.load_sharded(folder, {key: params[key] for key in ("a/b", "a/")})
    with pytest.raises(FileExistsError, match=r"save_sharded: .* exists: choose a new folder"):
        jaxnn.save_sharded(folder, params)


BAD_SHARDED = {
    "there is no folder": (
        FileNotFoundError,
        lambda t: jaxnn.load_sharded(t / "nowhere", jnp.ones(1)),
    ),
    "save_sharded did not write": (
        ValueError,
        lambda t: jaxnn.load_sharded(folder(t), jnp.ones(1)),
    ),
    "leaf 'a' must be a jax.Array, got float": (
        TypeError,
        lambda t: jaxnn.save_sharded(t / "f", {"a": 1.0}),
    ),
    "leaf 'a' is empty": (ValueError, lambda t: jaxnn.save_sharded(t / "f", {"a": jnp.ones(0)})),
    "params has no leaves": (ValueError, lambda t: jaxnn.save_sharded(t / "f", {})),
}


@pytest.mark.parametrize("words", BAD_SHARDED)
def test_sharded_states_that_are_refused(tmp_path, words):
    error, call = BAD_SHARDED[words]
    with pytest.raises(error, match=words) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"save_sharded: .* need Orbax: pip install 'jaxnn\[orb"):
        jaxnn.save_sharded(tmp_path / "f", {"a": jnp.ones(1)})
    with pytest.raises(ImportError, match=r"load_sharded: .* need Orbax: pip install 'jaxnn\[orb"):
        jaxnn.load_sharded(tmp_path / "f", {"a": jnp.ones(1)})


TWO_PROCESSES = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
process, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import NamedSharding, PartitionSpec as P
import jaxnn
mesh = jax.make_mesh((4,), ("d",))
whole, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P("d"))
values = np.arange(8, dtype=np.float32)
key = jax.random.wrap_key_data(jax.device_put(np.array([1, 2], np.uint32), whole))
params = {"w": jax.device_put(values, whole), "key": key}
jaxnn.save_params(folder + "/file", params)
sync_global_devices("saved")
like = params | {"w": jax.ShapeDtypeStruct((8,), np.float32, sharding=spread)}
loaded = jaxnn.load_params(folder + "/file", like)
try:
    jaxnn.save_params(folder + "/other", loaded)
except ValueError as error:
    assert "leaf 'w' is sharded over several processes: jaxnn.save_sharded" in str(error)
jaxnn.save_sharded(folder + "/folder", loaded)
for tree in (loaded, jaxnn.load_sharded(folder + "/folder", loaded)):
    assert tree["w"].sharding == spread and tree["key"].is_fully_replicated
    for shard in tree["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, values[shard.index])
    np.testing.assert_array_equal(jax.random.key_data(tree["key"]), [1, 2])
"""


@pytest.mark.thorough
def test_two_processes(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(process), str(port), str(tmp_path)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for process in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
