"""Linear layers split over devices: equal to one device, with the exchanges of the derivation.

The process has one device, so most checks run in a child process with four:

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m tests.test_tensor_parallel

prints a line for each check that fails.
"""

import os
import re
import subprocess
import sys
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxnn
from jaxnn import tensor_parallel

P = PartitionSpec
PLAIN = jaxnn.serial(jaxnn.Linear(6, 8), jaxnn.tanh, jaxnn.Linear(8, 10))
SPLIT = jaxnn.serial(jaxnn.column(PLAIN.layers[0]), jaxnn.tanh, jaxnn.row(PLAIN.layers[2]))
SPECS = {"w": P(None, "model"), "b": P("model")}, (), {"w": P("model", None), "b": P()}


MAIN_CHECKS = [
    *("float64 on a mesh", "in shard_map", "training", "exchanges", "flops"),
    *("planted: dx is not summed", "planted: b on each device"),
]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(MAIN_CHECKS, id="main"),
        pytest.param([], id="all", marks=pytest.mark.thorough),
    ],
)
def test_four_devices_equal_one(names):
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    child = subprocess.run(
        [sys.executable, "-m", "tests.test_tensor_parallel", *names],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_without_a_mesh_it_is_the_layer():
    params = SPLIT.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, PLAIN.init(jax.random.key(0)))
    x = jnp.ones((4, 6))
    results = [net.fwd(params, x) for net in (SPLIT, PLAIN)]
    gradients = [net.bwd(saved, y) for net, (y, saved) in zip((SPLIT, PLAIN), results, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


def test_it_prints_and_passes_lengths_on():
    assert repr(SPLIT) == "Serial(Column(Linear(6, 8)), tanh, Row(Linear(8, 10)))"
    x = jaxnn.Padded(jnp.ones((2, 3, 6)), jnp.array([3, 1]))
    assert SPLIT.apply(SPLIT.init(jax.random.key(0)), x).lengths is x.lengths


@pytest.mark.usefixtures("unannotated")
def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="column: layer must be a Linear, got relu"):
        jaxnn.column(jaxnn.relu)
    with pytest.raises(TypeError, match="row: axis must be the name of a mesh axis, got 1"):
        jaxnn.row(PLAIN.layers[0], axis=1)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"axes \('data',\), but none is 'mod"):
        SPLIT.init(jax.random.key(0))


def random_arrays(dtype=np.float64):
    """Parameters with biases, x and dy."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.standard_normal(shape).astype(dtype)

    params = (
        {"w": normal(6, 8), "b": normal(8)},
        (),
        {"w": normal(8, 10), "b": normal(10)},
    )
    return params, normal(4, 6), normal(4, 10)


def value_and_gradients(net, params, x, dy):
    y, residuals = net.fwd(params, x)
    return y, net.bwd(residuals, dy)


def differentiated(net, params, x, dy):
    """The same by `jax.grad`, which runs the ops' backward and transposes the exchanges."""
    y = net.apply(params, x)
    return y, jax.grad(lambda params, x: jnp.sum(dy * net.apply(params, x)), (0, 1))(params, x)


def truth(params, x, dy):
    """By the formula, with NumPy."""
    first, _, second = params
    hidden = np.tanh(x @ first["w"] + first["b"])
    dz = (dy @ second["w"].T) * (1 - hidden**2)
    dfirst = {"w": x.T @ dz, "b": dz.sum(0)}
    dsecond = {"w": hidden.T @ dy, "b": dy.sum(0)}
    return hidden @ second["w"] + second["b"], ((dfirst, (), dsecond), dz @ first["w"].T)


def error(found, expected):
    """The largest, relative to the array, or absolute where that is small."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(
        float(abs(np.asarray(a) - np.asarray(b)).max() / max(abs(b).max(), 1)) for a, b in pairs
    )


def mesh_of(kind=AxisType.Auto):
    return jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind, kind))


def placed(mesh, params, x, dy):
    def put(tree, specs):
        return jax.tree.map(
            lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), tree, specs
        )

    return put(params, SPECS), put(x, P("data", None)), put(dy, P("data", None))


def on_a_mesh(function, kind, dtype=np.float64):
    """The error under `jax.set_mesh`."""
    mesh, arrays = mesh_of(kind), random_arrays(dtype)
    with jax.set_mesh(mesh):
        found = jax.jit(partial(function, SPLIT))(*placed(mesh, *arrays))
    return error(found, truth(*jax.tree.map(np.float64, arrays)))


def in_shard_map(function, *, check_vma=True):
    """The error where the caller splits the arrays."""
    arrays, rows = random_arrays(), P("data") if check_vma else P()
    spread = jax.shard_map(
        partial(function, SPLIT),
        mesh=mesh_of(),
        in_specs=(SPECS, rows, rows),
        out_specs=(rows, (SPECS, rows)),
        check_vma=check_vma,
    )
    return error(jax.jit(spread)(*arrays), truth(*arrays))


def inside_of_data():
    """The error in `shard_map` over "data" alone, where the layers split the rest."""
    mesh, arrays = mesh_of(), random_arrays()
    with jax.set_mesh(mesh):
        spread = jax.shard_map(
            partial(value_and_gradients, SPLIT),
            in_specs=(P(), P("data"), P("data")),
            out_specs=(P("data"), (P(), P("data"))),
            axis_names={"data"},
        )
        return error(jax.jit(spread)(*arrays), truth(*arrays))


def initial_parameters():
    """Whether `init` gives those of one device, placed, on a mesh and inside `shard_map`."""
    mesh, key = mesh_of(), jax.random.key(0)
    parts = jax.shard_map(SPLIT.init, mesh=mesh, in_specs=P(), out_specs=SPECS)(key)
    with jax.set_mesh(mesh):
        params = SPLIT.init(key)
        jitted = jax.jit(SPLIT.init)(key)
    specs = [tuple(leaf.sharding.spec) for leaf in jax.tree.leaves(params)]
    assert specs == [("model",), (None, "model"), (), ("model", None)], specs
    return max(error(found, PLAIN.init(key)) for found in (parts, params, jitted))


def training():
    """The difference to one device after Adam, by `train_step` and by `fit`, in float32."""
    params, x, target = random_arrays(np.float32)
    optimizer, loss = optax.adam(0.01), jaxnn.squared_error

    def trained(net, params, x, target):
        step, opt_state, start = (
            jaxnn.train_step(net, loss, optimizer),
            optimizer.init(params),
            params,
        )
        for _ in range(3):
            params, opt_state, value = step(params, opt_state, x, target)
        fitted = jaxnn.fit(
            net,
            loss,
            start,
            (x, target),
            epochs=2,
            batch_size=2,
            optimizer=optimizer,
            progress=False,
        )
        return params, value, fitted.params

    expected = trained(PLAIN, *jax.tree.map(jnp.asarray, (params, x, target)))
    mesh = mesh_of()
    with jax.set_mesh(mesh):
        found = trained(SPLIT, *placed(mesh, params, x, target))
    for result in found[0], found[2]:
        local = result[0]["w"].addressable_shards[0].data.shape
        assert local == (6, 4), f"a device holds {local} of W"
    return error(found, expected)


ALL_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(.*?replica_groups=(\{\{.*?\}\}|\S+?), ")
GROUPS = {"{{0,1},{2,3}}": "model", "[2,2]<=[4]": "model"}
GROUPS |= {"{{0,2},{1,3}}": "data", "[2,2]<=[2,2]T(1,0)": "data"}


def exchanged(function, *args):
    """How many arrays are added up over each axis, and the flops of a device."""
    program = jax.jit(function).lower(*args).compile()
    text, count = program.as_text(), {"data": 0, "model": 0}
    for shapes, groups in ALL_REDUCE.findall(text):
        count[GROUPS[groups]] += len(re.findall(r"\w+\[[\d,]*\]", shapes))
    others = re.findall(r"(all-gather|all-to-all|reduce-scatter|collective-permute)\S*\(", text)
    assert not others, others
    return count, program.cost_analysis()["flops"]


def exchanges():
    """Forward one sum, of y; backward one, of dx, and none if nobody asks for dx."""
    mesh = mesh_of()
    with jax.set_mesh(mesh):
        params, x, dy = placed(mesh, *random_arrays())
        residuals = jax.jit(lambda *args: SPLIT.fwd(*args)[1])(params, x)
        forward, _ = exchanged(lambda *args: SPLIT.fwd(*args)[0], params, x)
        backward, _ = exchanged(SPLIT.bwd, residuals, dy)
        first_layer, _ = exchanged(lambda *args: SPLIT.bwd(*args)[0], residuals, dy)
    assert forward == {"data": 0, "model": 1}, forward
    assert backward == {"data": 4, "model": 1}, backward
    assert first_layer == {"data": 4, "model": 0}, first_layer
    return 0.0


def quarter_of_the_flops():
    """The flops of a device over those of one device alone, minus ¼."""
    layers = jaxnn.Linear(64, 128), jaxnn.relu, jaxnn.Linear(128, 64)
    split = jaxnn.serial(jaxnn.column(layers[0]), layers[1], jaxnn.row(layers[2]))
    params, x = split.init(jax.random.key(0)), jnp.ones((64, 64))
    _, alone = exchanged(partial(value_and_gradients, jaxnn.serial(*layers)), params, x, x)
    mesh = mesh_of()
    with jax.set_mesh(mesh):
        _, ours = exchanged(partial(value_and_gradients, split), *placed(mesh, params, x, x))
    return max(ours / alone - 0.26, 0.0)


def attention_of_whole_heads():
    """The error of attention between columns and a row, and that only y and dx are added up."""
    heads, size = 4, 3
    project = [jaxnn.Linear(6, heads * size) for _ in range(3)]
    output = jaxnn.Linear(heads * size, 6)

    def attend(qkv):
        q, k, v = (a.reshape(*a.shape[:-1], heads, size) for a in qkv)
        y, residuals = jaxnn.attention.fwd(q, k, v)
        return y.reshape(*y.shape[:-2], heads * size), residuals

    def back(residuals, dy):
        gradients = jaxnn.attention.bwd(residuals, dy.reshape(*dy.shape[:-1], heads, size))
        return (), tuple(d.reshape(dy.shape) for d in gradients[:3])

    between = jaxnn.layer(
        lambda key: (), lambda params, x: attend(x)[0], lambda params, x, key: attend(x), back
    )

    def network(columns, row):
        return jaxnn.serial(jaxnn.parallel(*columns, combine=None), between, row)

    plain, split = network(project, output), network(map(jaxnn.column, project), jaxnn.row(output))
    random = np.random.default_rng(1)
    x, dy = random.standard_normal((2, 4, 5, 6))
    params = plain.init(jax.random.key(0))
    expected = value_and_gradients(plain, params, x, dy)
    mesh = mesh_of()
    with jax.set_mesh(mesh):
        params = split.init(jax.random.key(0))
        x, dy = (jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, dy))
        run = partial(value_and_gradients, split)
        count, _ = exchanged(run, params, x, dy)
        assert count["model"] == 4, count  # y, and dx through each of three columns
        return error(jax.jit(run)(params, x, dy), expected)


def float16_of_all_devices():
    """The error in `shard_map` of float16 where one device alone overflows."""
    net = jaxnn.mixed(PLAIN, "float16")
    params, x, dy = random_arrays(np.float32)
    dy[:2] *= 1e-9  # the rows of one device
    spread = jax.shard_map(
        partial(value_and_gradients, net),
        mesh=mesh_of(),
        in_specs=(P(), P("data"), P("data")),
        out_specs=(P("data"), (P(), P("data"))),
    )
    _, (dparams, _) = jax.jit(spread)(params, x, 1e9 * dy)
    _, (expected, _) = truth(*jax.tree.map(np.float64, (params, x, 1e9 * dy)))
    return error(dparams, expected)


def refused(message, function, *args):
    """That a call raises a sentence."""
    with pytest.raises(ValueError, match=re.escape(message)):
        function(*args)
    return 0.0


def uneven():
    with jax.set_mesh(mesh_of()):
        layer = jaxnn.column(jaxnn.Linear(4, 5))
        message = "column: the 2 devices of axis 'model' do not divide 5 outputs"
        return refused(message, layer.init, jax.random.key(0))


def whole_parameters_in_shard_map():
    spread = jax.shard_map(SPLIT.apply, mesh=mesh_of(), in_specs=P(), out_specs=P())
    message = "params['w'] must be the part of one device, (6, 4), got shape (6, 8)"
    return refused(message, spread, *random_arrays()[:2])


def planted(where, name, mistake):
    """That a mistake shows: as a difference, or in the types of JAX where those are checked."""
    try:
        with mock.patch.object(where, name, mistake):
            jax.clear_caches()
            difference = in_shard_map(value_and_gradients, check_vma=False)
            try:
                with_types = on_a_mesh(value_and_gradients, AxisType.Auto)
            except ValueError:
                with_types = np.inf
    finally:
        jax.clear_caches()
    return 0.0 if min(difference, with_types) > 1e-3 else np.inf


def no_sum_of_dx(self, residuals, dy):
    return jaxnn.linear.bwd_input(residuals, dy)


def bias_on_each_device(self, y, b):
    return jax.lax.psum(y + b[None], self.axis)


def sum_of_dw(self, residuals, dy):
    dparams = jaxnn.linear.bwd_params(residuals, dy)
    return jax.tree.map(lambda d: d * jax.lax.axis_size("model"), dparams)


CHECKS = {
    "float64 on a mesh": (partial(on_a_mesh, value_and_gradients, AxisType.Auto), 1e-12),
    "explicit axes": (partial(on_a_mesh, value_and_gradients, AxisType.Explicit), 1e-12),
    "float32 on a mesh": (
        partial(on_a_mesh, value_and_gradients, AxisType.Auto, np.float32),
        1e-6,
    ),
    "jax.grad on a mesh": (partial(on_a_mesh, differentiated, AxisType.Auto), 1e-12),
    "in shard_map": (partial(in_shard_map, value_and_gradients), 1e-12),
    "in shard_map, unchecked": (
        partial(in_shard_map, value_and_gradients, check_vma=False),
        1e-12,
    ),
    "jax.grad in shard_map": (partial(in_shard_map, differentiated), 1e-12),
    "in shard_map over data": (inside_of_data, 1e-12),
    "initial parameters": (initial_parameters, 0),
    "training": (training, 1e-6),
    "exchanges": (exchanges, 0),
    "flops": (quarter_of_the_flops, 0),
    "attention": (attention_of_whole_heads, 1e-12),
    "float16 of all devices": (float16_of_all_devices, 2.5e-3),
    "uneven parts": (uneven, 0),
    "whole parameters in shard_map": (whole_parameters_in_shard_map, 0),
    "planted: dx is not summed": (
        partial(planted, tensor_parallel.Column, "part_bwd_input", no_sum_of_dx),
        0,
    ),
    "planted: b on each device": (
        partial(planted, tensor_parallel.Row, "_sum", bias_on_each_device),
        0,
    ),
    "planted: dW is summed": (
        partial(planted, tensor_parallel.Column, "part_bwd_params", sum_of_dw),
        0,
    ),
}


def main(names):
    """The number of checks that fail."""
    failed = 0
    for name, (check, tolerance) in CHECKS.items():
        if names and name not in names:
            continue
        try:
            difference = check()
            fault = "" if difference <= tolerance else f"off by {difference:.1e}"
        except Exception as exception:
            fault = f"{type(exception).__name__}: {exception}"
        if fault:
            failed += 1
            print(f"{name}: {fault}", flush=True)
    return failed


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(bool(main(sys.argv[1:])))
