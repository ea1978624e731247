"""Arrays of every dtype of JAX, as tensors of the few dtypes that a safetensors file holds."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Sharding

from jaxnn.training.checkpoint.safetensors_file import DTYPES, Tensor

HELD = {dtype.name: dtype for dtype in DTYPES.values()}
AS_BYTES = {
    np.dtype(dtype).name: np.dtype(dtype)
    for dtype in (
        np.complex128,
        ml_dtypes.int2,
        ml_dtypes.int4,
        ml_dtypes.uint2,
        ml_dtypes.uint4,
        ml_dtypes.float4_e2m1fn,
        ml_dtypes.float8_e3m4,
        ml_dtypes.float8_e4m3,
        ml_dtypes.float8_e4m3b11fnuz,
    )
}
KEY = "key "


def stored(name: str, leaf: Any) -> tuple[Tensor, str | None]:
    """A leaf as a tensor, and the dtype or kind of key that the tensor encodes, if any.

    A dtype that safetensors lacks is encoded as bytes along a new last axis, and a typed PRNG key
    as its key data.

    Raises:
        TypeError: it is not an array, or has a dtype that no file can hold.
        ValueError: this process cannot see all of the array.
    """
    leaf = require_array(name, leaf)
    if is_key(leaf):
        data, stands_for = key_data(name, leaf)
        return Tensor(np.dtype(np.uint32), data.shape, data), stands_for
    dtype = leaf.dtype.name
    if dtype in HELD:
        return Tensor(HELD[dtype], leaf.shape, leaf), None
    size = AS_BYTES[dtype].itemsize
    return Tensor(np.dtype(np.uint8), (*leaf.shape, size), leaf), dtype


def is_key(leaf: Any) -> bool:
    """Whether an array is one of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def key_data(name: str, keys: jax.Array) -> tuple[jax.Array, str]:
    """The data of typed PRNG keys, and the kind of key that they encode."""
    implementation = jax.random.key_impl(keys)
    if not isinstance(implementation, str):
        raise TypeError(f"leaf {name!r} is a key of an unregistered generator")
    return jax.random.key_data(keys), KEY + implementation


def require_array(name: str, leaf: Any) -> Any:
    """The leaf, if it is an array whose values this process can see and a file can hold.

    Raises:
        TypeError: it is not an array, or has a dtype that no file can hold.
        ValueError: this process cannot see all of it.
    """
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(f"leaf {name!r} is a tracer: save outside jit and other transformations")
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise TypeError(f"leaf {name!r} must be an array, got {type(leaf).__name__}")
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"leaf {name!r} is a masked array, whose mask would be lost")
    if leaf.dtype == jax.dtypes.float0:
        raise TypeError(
            f"leaf {name!r} has dtype float0, the empty gradient of integers: replace it with None"
        )
    if not is_key(leaf) and leaf.dtype.name not in HELD | AS_BYTES:
        raise TypeError(f"leaf {name!r} has dtype {leaf.dtype}, which cannot be saved")
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            raise ValueError(f"leaf {name!r} was deleted, as donated arrays are")
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            raise ValueError(
                f"leaf {name!r} is sharded over several processes: jaxnn.save_sharded saves it, "
                "through Orbax"
            )
    return leaf


def meaning(dtype: np.dtype, shape: Sequence[int], stands_for: str | None) -> tuple[Any, tuple]:
    """The dtype and shape of the array that a tensor of this dtype and shape encodes."""
    if stands_for is None:
        return dtype, tuple(shape)
    if stands_for.startswith(KEY):
        key = jax.eval_shape(lambda: jax.random.key(0, impl=stands_for.removeprefix(KEY)))
        data = jax.eval_shape(jax.random.key_data, key)
        return key.dtype, tuple(shape[: len(shape) - data.ndim])
    return AS_BYTES[stands_for], tuple(shape[:-1])


def restored(
    tensor: np.ndarray | jax.Array, stands_for: str | None, sharding: Sharding | None = None
) -> jax.Array:
    """The array that a tensor encodes, on the devices of a sharding if there is one."""
    implementation = None
    if stands_for is not None and stands_for.startswith(KEY):
        implementation = stands_for.removeprefix(KEY)
    elif stands_for is not None:
        dtype, shape = meaning(tensor.dtype, tensor.shape, stands_for)
        tensor = tensor.reshape(-1).view(dtype).reshape(shape)
    array = jnp.asarray(tensor) if sharding is None else jax.device_put(tensor, sharding)
    return array if implementation is None else jax.random.wrap_key_data(array, impl=implementation)
