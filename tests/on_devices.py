"""Every op of the catalogue on the forced devices of this process; see `test_meshes`.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python tests/on_devices.py [OP ...]

prints a line for each op and each way to spread it whose value or gradient is not that of one
device, or which sends more bytes between devices than autodiff of the definition. Every array is
tiled twice along every axis, so that two devices can share any of them.
"""

import re
import sys
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxnn
from jaxnn.catalogue import ENTRIES

TOLERANCE = 1e-12
PARAMETERS = {"params", "statistics", "class_weights"}
SECOND_AXIS = {"rnn", "gru", "lstm", "reverse_sequences"}  # their batch is the second axis of x
FIXED = {"key", "positions"}  # not spread
SPACE = {"conv", "conv_transpose", "max_pool", "avg_pool", "global_avg_pool", "group_norm"}
SPACE |= {
    "instance_norm",
    "global_max_pool",
    "adaptive_max_pool",
    "adaptive_avg_pool",
    "upsample",
    "pad",
}
# Their second axis is one of space, not of the batch.


def is_floating(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def is_spec(leaf):
    return isinstance(leaf, PartitionSpec)


def is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def doubled(leaf):
    return leaf if is_key(leaf) else jnp.tile(leaf, (2,) * leaf.ndim)


def doubled_rows(leaf):
    return jnp.concatenate([leaf, leaf])


def specs(entry, args, spread):
    """A `PartitionSpec` for each array: the batch over "data", the parameters over "model"."""

    def of(name, leaf):
        axes = [None] * leaf.ndim
        if name in PARAMETERS and "model" in spread and leaf.ndim:
            axes[-1] = "model"
        elif name not in PARAMETERS | FIXED and "data" in spread and leaf.ndim:
            axes[1 if entry.op.__name__ in SECOND_AXIS and leaf.ndim == 3 else 0] = "data"
        return PartitionSpec(*axes)

    return tuple(
        jax.tree.map(lambda leaf, name=name: of(name, leaf), arg)
        for name, arg in zip(entry.op.arguments, args, strict=False)
    )


def gradients(function, weights, args):
    """The value and the gradient of Σ w·y for each floating-point array, by `jax.grad`."""
    leaves, tree = jax.tree.flatten(args)
    places = [i for i, leaf in enumerate(leaves) if is_floating(leaf)]

    def total(moved):
        filled = list(leaves)
        for i, leaf in zip(places, moved, strict=True):
            filled[i] = leaf
        y = jax.tree.leaves(function(*jax.tree.unflatten(tree, filled)))
        return sum(jnp.sum(w * a) for w, a in zip(weights, y, strict=True)), y

    grads, y = jax.grad(total, has_aux=True)([leaves[i] for i in places])
    return y, grads


def gradients_by_hand(op, weights, args):
    """The same from `fwd` and `bwd`."""
    y, residuals = op.fwd(*args)
    leaves, tree = jax.tree.flatten(y)
    dy = [w.astype(a.dtype) + 0 * a for w, a in zip(weights, leaves, strict=True)]
    found = op.bwd(residuals, jax.tree.unflatten(tree, dy))
    grads = [
        d
        for arg, grad in zip(args, found, strict=True)
        if grad is not None
        for a, d in zip(jax.tree.leaves(arg), jax.tree.leaves(grad), strict=True)
        if is_floating(a)
    ]
    return leaves, grads


def both_ways(op, weights, args):
    return gradients(op, weights, args), gradients_by_hand(op, weights, args)


def compiled(function, *args):
    return jax.jit(function).lower(*args).compile({"xla_backend_optimization_level": 0})


def evaluated(function, *args):
    return compiled(function, *args)(*args)


COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def collectives(program):
    """`(kind, bytes)` of each exchange between devices in a compiled program."""
    widths = {"f64": 8, "f32": 4, "s64": 8, "s32": 4, "u32": 4, "pred": 1, "u8": 1}
    found = []
    for shapes, kind in COLLECTIVE.findall(program.as_text()):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        sizes = [widths[t] * prod(int(n) for n in dims.split(",") if n) for t, dims in arrays]
        found.append((kind, sum(sizes)))
    return found


def error(found, truth):
    errors = [
        np.abs(np.asarray(a) - np.asarray(b)).max(initial=0) / max(np.abs(b).max(initial=0), 1)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True)
    ]
    return max(errors)


def placed(args, spec_tree, mesh):
    shardings = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        spec_tree,
        is_leaf=is_spec,
    )
    return jax.device_put(args, shardings)


def on_mesh(entry, op, args, weights, kind, spread, mesh_shape):
    mesh = jax.make_mesh(mesh_shape, ("data", "model"), axis_types=(kind,) * 2)
    args = placed(args, specs(entry, args, spread), mesh)
    with jax.set_mesh(mesh):
        return evaluated(partial(both_ways, op), weights, args)


def inner_specs(entry, args):
    """The second axis of the batch over "data", where arrays have one."""

    def of(name, leaf):
        axes = [None] * leaf.ndim
        if name not in PARAMETERS | FIXED and leaf.ndim > 2:
            axes[1] = "data"
        return PartitionSpec(*axes)

    return tuple(
        jax.tree.map(lambda leaf, name=name: of(name, leaf), arg)
        for name, arg in zip(entry.op.arguments, args, strict=False)
    )


def exchanged_bytes(entry, op, args, weights, spec_tree):
    """The bytes between devices for value and gradient, by hand and by autodiff."""
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(AxisType.Auto,))
    args = placed(args, spec_tree, mesh)
    programs = (
        compiled(partial(gradients_by_hand, op), weights, args),
        compiled(partial(gradients, op.definition), weights, args),
    )
    return [sum(size for _, size in collectives(program)) for program in programs]


def shards(entry, args, n):
    """The arguments of each of n devices, where the batch is spread."""
    placed = specs(entry, args, {"data"})

    def part(leaf, spec, k):
        if "data" not in spec:
            return leaf
        return jnp.split(leaf, n, list(spec).index("data"))[k]

    return [jax.tree.map(lambda leaf, s, k=k: part(leaf, s, k), args, placed) for k in range(n)]


def in_shard_map(entry, op, args, n):
    """The gradients inside `shard_map`, and the truth: each shard alone, parameters summed."""
    mesh = jax.make_mesh((n,), ("data",), axis_types=(AxisType.Auto,))
    in_specs = specs(entry, args, {"data"})
    parts = shards(entry, args, n)
    shapes = jax.tree.leaves(jax.eval_shape(op, *parts[0]))
    weights = [jnp.asarray(np.random.default_rng(5).standard_normal(s.shape)) for s in shapes]
    floating = [
        spec
        for leaf, spec in zip(
            jax.tree.leaves(args),
            jax.tree.leaves(in_specs, is_leaf=is_spec),
            strict=True,
        )
        if is_floating(leaf)
    ]

    def on_a_device(weights, args):
        return [grads for _, grads in both_ways(op, weights, args)]

    spread = jax.shard_map(
        on_a_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), in_specs),
        out_specs=[floating, floating],
    )
    found = evaluated(spread, weights, args)
    alone = partial(gradients, op.definition)
    each = [evaluated(alone, weights, part)[1] for part in parts]
    truth = [
        sum(shares) if "data" not in spec else jnp.concatenate(shares, list(spec).index("data"))
        for spec, *shares in zip(floating, *each, strict=True)
    ]
    return found, [truth, truth]


def trials(entry):
    """`(name, trial)` of each way to spread an op; a trial says what is wrong, or ""."""
    n = len(jax.devices())
    case = next((case for case in entry.cases if "two batch axes" in case.name), entry.cases[0])
    op, args = entry.op.bind(**case.options), case.arguments(1, jnp.float64)
    double = doubled_rows if entry.op.__name__ == "reshape" else doubled
    args = jax.tree.map(double, args)
    shapes = jax.tree.leaves(jax.eval_shape(op, *args))
    weights = [jnp.asarray(np.random.default_rng(4).standard_normal(s.shape)) for s in shapes]
    true = evaluated(partial(gradients, op.definition), weights, args)

    def compared(found, truth):
        off = error(found, truth)
        return "" if off <= TOLERANCE else f"off by {off:.1e}"

    def mesh_trial(kind, way):
        shape = (2, 1) if way == ("data",) else (n // 2, 2)
        return compared(on_mesh(entry, op, args, weights, kind, way, shape), (true, true))

    def exchange_trial(spec_tree):
        ours, theirs = exchanged_bytes(entry, op, args, weights, spec_tree)
        return "" if ours <= theirs else f"exchanges {ours} bytes, autodiff {theirs}"

    for kind in (AxisType.Auto, AxisType.Explicit):
        for way in [("data",), ("model",)] if n == 2 else [("data", "model")]:
            yield f"{kind.name} {' and '.join(way)}", partial(mesh_trial, kind, way)
    spread = jax.tree.leaves(specs(entry, args, {"data"}), is_leaf=is_spec)
    if any("data" in spec for spec in spread):  # else each device does the same
        yield "shard_map", lambda: compared(*in_shard_map(entry, op, args, 2))
    if n == 2 and entry.op.__name__ != "reshape":
        yield "batch exchange", partial(exchange_trial, specs(entry, args, {"data"}))
        spread = any(
            "data" in spec for spec in jax.tree.leaves(inner_specs(entry, args), is_leaf=is_spec)
        )
        if spread and entry.op.__name__ not in SPACE:
            yield "inner batch exchange", partial(exchange_trial, inner_specs(entry, args))


def tensor_parallel():
    """What is wrong with a column-parallel linear layer before a row-parallel one, or ""."""
    mesh = jax.make_mesh((len(jax.devices()),), ("model",), axis_types=(AxisType.Auto,))
    random = np.random.default_rng(0)
    column = {"w": random.standard_normal((6, 8)), "b": random.standard_normal(8)}
    row = {"w": random.standard_normal((8, 4)), "b": random.standard_normal(4)}
    column_specs = {"w": PartitionSpec(None, "model"), "b": PartitionSpec("model")}
    row_specs = {"w": PartitionSpec("model", None), "b": PartitionSpec()}
    params = placed((column, row), (column_specs, row_specs), mesh)
    x = placed(random.standard_normal((5, 6)), PartitionSpec(), mesh)

    def value_and_gradient(params, x):
        net = jaxnn.serial(jaxnn.Linear(6, 8), jaxnn.tanh, jaxnn.Linear(8, 4))
        y, residuals = net.fwd((params[0], (), params[1]), x)
        return y, net.bwd(residuals, y)

    kinds = [kind for kind, _ in collectives(compiled(value_and_gradient, params, x))]
    return "" if kinds == ["all-reduce"] * 2 else f"{kinds} and not two all-reduces"


def main(names):
    failed = 0
    if not names and (fault := tensor_parallel()):
        failed += 1
        print(f"column-parallel then row-parallel: {fault}", flush=True)
    for entry in ENTRIES:
        if names and entry.op.__name__ not in names:
            continue
        for name, trial in trials(entry):
            try:
                fault = trial()
            except Exception as exception:
                fault = f"{type(exception).__name__}: {str(exception).splitlines()[0][:160]}"
            if fault:
                failed += 1
                print(f"{entry.op.__name__}, {name}: {fault}", flush=True)
    return failed


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(bool(main(sys.argv[1:])))
