"""Every op of the catalogue at every case: the checker finds nothing, and memory is in budget."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn.catalogue import ENTRIES
from jaxnn.gradcheck import check
from jaxnn.gradcheck.memory import residual_bytes, temporary_bytes
from tests.thorough import OF_EVERY_KIND

FLOAT32_TOLERANCE = 1e-5
SAVED_IN_FULL = {  # whatever the dtype of x
    jaxnn.max_pool,  # the places of the maxima
    jaxnn.ctc_loss,  # log-probabilities summed over the frames
}
NUMERICAL = ("finite", "value", "gradient", "linearity", "one_entry")


def cases(kind, *dtypes):
    """Each case in each dtype, most of them for the thorough suite only; see `in_the_suite`."""
    return [
        pytest.param(
            *(entry, case, dtype),
            id=f"{entry.op.__name__}-{case.name}-{jnp.dtype(dtype)}".replace(" ", "_"),
            marks=() if in_the_suite(entry, kind, case, dtype) else pytest.mark.thorough,
        )
        for entry in ENTRIES
        for case in getattr(entry, kind)
        for dtype in dtypes
    ]


def in_the_suite(entry, kind, case, dtype):
    """All audit cases in float64, and the first case of each kind, of some ops in every dtype."""
    if dtype == jnp.float64:
        return True
    first = case is getattr(entry, kind)[0]
    return first and (dtype == jnp.float32 or entry.op.__name__ in OF_EVERY_KIND)


def laws_of(entry, case, dtype):
    """Those about numbers in every dtype, the others where they cost least; all once."""
    if dtype == jnp.float64:  # duality: tests/test_transformations.py
        once = ("second_order",) if case is entry.cases[0] else ()
        return (*NUMERICAL, "halves", *once)
    if dtype == jnp.float32:
        return None if case is entry.cases[0] else (*NUMERICAL, "export", "vmap")
    return NUMERICAL


@pytest.mark.parametrize(
    ("entry", "case", "dtype"),
    cases("cases", jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16),
)
def test_laws(entry, case, dtype):
    op, args = entry.op, case.arguments(1, dtype)
    laws = laws_of(entry, case, dtype)
    second_order = laws is not None and "second_order" in laws
    report = check(op, *args, second_order=second_order, laws=laws, **case.options)
    report.raise_if_failed()
    if dtype == jnp.float32:
        assert all(row.error <= FLOAT32_TOLERANCE for row in report.rows if row.verdict == "right")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("entry", "case"),
    [
        pytest.param(entry, case, id=f"{entry.op.__name__}-{case.name}".replace(" ", "_"))
        for entry in ENTRIES
        for case in entry.cases[1:]
    ],
)
def test_second_order_of_the_other_cases(entry, case):
    args = case.arguments(1, jnp.float64)
    laws = ("second_order",)
    check(entry.op, *args, second_order=True, laws=laws, **case.options).raise_if_failed()


@pytest.mark.smoke
@pytest.mark.thorough  # the laws above include it
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_one_case_of_each_op(entry):
    case = entry.cases[0]
    args = case.arguments(1, jnp.float32)
    check(entry.op, *args, laws=("value", "gradient"), **case.options).raise_if_failed()


@pytest.mark.parametrize(("entry", "case", "dtype"), cases("hard", jnp.float32, jnp.float16))
def test_hard_inputs(entry, case, dtype):
    args = case.arguments(1, dtype)
    assert not check(entry.op, *args, laws=NUMERICAL, **case.options).findings


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_temporary_memory_is_no_more_than_that_of_autodiff(entry):
    case = entry.benchmark
    args = jax.eval_shape(lambda: case.arguments(1, jnp.float32))
    ours, theirs = temporary_bytes(entry.op.bind(**case.options), *args)
    assert ours <= theirs


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_saved_bytes_are_in_budget(entry):
    """In float32 the budget of the catalogue, and in half precision nothing large is widened."""
    case, op = entry.benchmark, entry.op.bind(**entry.benchmark.options)
    with jax.enable_x64(False):
        args = jax.eval_shape(lambda: case.arguments(1, jnp.float32))
        halved = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                a.shape, jnp.bfloat16 if a.dtype == "float32" else a.dtype
            ),
            args,
        )
        assert residual_bytes(op, *args) == entry.saves
        if entry.saves > 10**6:
            assert residual_bytes(op, *halved) < 0.75 * entry.saves or entry.op in SAVED_IN_FULL


def test_the_catalogue_is_complete():
    ops = {name for name in jaxnn.__all__ if isinstance(getattr(jaxnn, name), jaxnn.Op)}
    assert ops == {entry.op.__name__ for entry in ENTRIES}


def test_audit_sizes_hide_nothing():
    square_by_nature = {("rnn", "['u']"), ("rnn_cell", "['u']")}  # hidden units to hidden units
    broadcast = {"where", "pos_weight"}  # may have the size 1
    for entry in ENTRIES:
        for case in entry.cases:
            arguments = case.arguments(1, jnp.float32)
            named = dict(zip(entry.op.arguments, arguments, strict=False))
            for name in broadcast & named.keys():
                del named[name]
            for path, array in jax.tree_util.tree_leaves_with_path(list(named.values())):
                key = jax.tree_util.keystr(path[1:])
                if (entry.op.__name__, key) not in square_by_nature:
                    assert len(set(array.shape)) == array.ndim
                    assert not {1, 2} & set(array.shape)
