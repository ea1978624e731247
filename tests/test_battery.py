"""Every law over every op of the catalogue."""

import jax
import jax.numpy as jnp
import pytest

from jaxnn.catalogue import ENTRIES
from jaxnn.gradcheck import LAWS

DTYPES = [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16]
EVERY_DTYPE = ["structure", "value", "gradient", "linearity", "residual_bytes"]
FLOAT64_ONLY = ["export", "one_example", "determinism", "vmap", "second_order"]


def cases(kind):
    return [
        pytest.param(entry.op, case, id=f"{entry.op.__name__}-{case.name}".replace(" ", "_"))
        for entry in ENTRIES
        for case in getattr(entry, kind)
    ]


def assert_obeys(op, case, dtype, laws):
    arguments = case.arguments(jax.random.key(1), dtype)
    findings = [
        finding for law in laws for finding in LAWS[law](op.bind(**case.options), arguments, 2)
    ]
    assert not findings


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "case"), cases("cases"))
def test_laws(op, case, dtype):
    laws = EVERY_DTYPE + (FLOAT64_ONLY if dtype == jnp.float64 else [])
    assert_obeys(op, case, dtype, laws)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "case"), cases("hard"))
def test_hard_inputs(op, case, dtype):
    assert_obeys(op, case, dtype, ["structure", "hard_inputs"])


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_memory(entry):
    case = entry.benchmark
    shapes = jax.eval_shape(lambda key: case.arguments(key, jnp.float32), jax.random.key(0))
    op = entry.op.bind(**case.options)
    assert not LAWS["temporary_memory"](op, shapes, 0)
    assert not LAWS["residual_bytes"](op, shapes, 0)


def test_the_catalogue_is_complete():
    import jaxnn

    ops = {name for name in jaxnn.__all__ if isinstance(getattr(jaxnn, name), jaxnn.Op)}
    assert ops == {entry.op.__name__ for entry in ENTRIES}


def test_audit_sizes_hide_nothing():
    for entry in ENTRIES:
        for case in entry.cases:
            for array in jax.tree.leaves(case.arguments(jax.random.key(1), jnp.float32)):
                sizes = array.shape
                assert len(set(sizes)) == len(sizes)
                assert not {1, 2} & set(sizes)
