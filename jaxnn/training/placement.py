"""The placement of a run's arrays: minibatches sharded like the data, parameters beside them."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

Placement = tuple[NamedSharding | None, ...]


def placements(data) -> Placement:
    """The sharding of each leaf of some examples over several devices; `None` if it has none.

    It is hashable. While tracing, when arrays do not know it, only explicit axes of a mesh count.
    """
    return tuple(map(_placement, jax.tree.leaves(data)))


def take(tree, rows, placed: Placement):
    """Rows of arrays, each at most once and none out of range, sharded as the whole arrays are."""
    leaves, structure = jax.tree.flatten(tree)
    taken = [_rows(leaf, rows, sharding) for leaf, sharding in zip(leaves, placed, strict=True)]
    return jax.tree.unflatten(structure, taken)


def warn_of_idle_devices(placed: Placement, batch_size: int) -> None:
    """Warn if a minibatch cannot be split evenly over the devices."""
    parts = max((_parts(sharding) for sharding in placed if sharding is not None), default=1)
    if batch_size % parts:
        warnings.warn(
            f"batch_size {batch_size} is not a multiple of the {parts} devices that the examples "
            "are sharded over, so each of them computes the whole minibatch",
            stacklevel=3,
        )


def beside(placed: Placement, tree):
    """A tree of parameters on the devices of the data, whole on each unless it is sharded there."""
    meshes = [sharding.mesh for sharding in placed if sharding is not None]
    if not meshes:
        return tree
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def put(leaf):
        there = isinstance(leaf, jax.Array) and leaf.sharding.device_set == everywhere.device_set
        return leaf if there else _replicated(leaf, everywhere)

    return jax.tree.map(put, tree)


def without_aliases(tree):
    """The same tree, with repeated arrays copied, so that it can be donated."""
    seen = set()

    def distinct(leaf):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
            return leaf
        if id(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(distinct, tree)


def put_examples(tree, sharding: Sharding | None, leading: int = 0):
    """Examples of this process on the devices; those of all processes make one array each.

    Args:
        tree: arrays of the host.
        sharding: the sharding of the examples; `None` for JAX's default device.
        leading: the number of axes before that of the examples.
    """
    if sharding is None:
        return jax.tree.map(jnp.asarray, tree)

    def put(leaf):
        placed = sharding
        if isinstance(sharding, NamedSharding):
            spec = (None,) * leading + tuple(sharding.spec[: jnp.ndim(leaf) - leading])
            placed = NamedSharding(sharding.mesh, PartitionSpec(*spec))
        if jax.process_count() == 1 or isinstance(leaf, jax.Array):
            return jax.device_put(leaf, placed)
        return jax.make_array_from_process_local_data(placed, leaf)

    return jax.tree.map(put, tree)


def _replicated(leaf, everywhere):
    """An array that each process has, whole on every device of all processes."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, everywhere)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _replicated(jax.random.key_data(leaf), everywhere)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])


def _placement(leaf) -> NamedSharding | None:
    if isinstance(leaf, jax.core.Tracer):
        sharding = jax.typeof(leaf).sharding
        return sharding if any(sharding.spec) else None
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) and sharding.num_devices > 1 else None


def _rows(array, rows, sharding):
    chosen = partial(array.at[rows].get, mode="promise_in_bounds", unique_indices=True)
    if sharding is None:
        return chosen()
    if rows.shape[0] % _parts(sharding):  # too few for all devices: each computes all of them
        sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
    if AxisType.Explicit in sharding.mesh.axis_types:
        return chosen(out_sharding=sharding)
    return jax.lax.with_sharding_constraint(chosen(), sharding)


def _parts(sharding) -> int:
    """The number of devices over which the examples are split."""
    if not sharding.spec or sharding.spec[0] is None:
        return 1
    axes = sharding.spec[0]
    axes = (axes,) if isinstance(axes, str) else axes
    size = 1
    for axis in axes:
        size *= sharding.mesh.shape[axis]
    return size
