"""Every public function, called wrongly: it gives the right value or says in a sentence why not.

The subjects are valid calls (`subjects.py`, `layers.py`, `functions.py`), the faults what is put
in the place of one or two of their arguments (`faults.py`), and `judge.py` tells right from wrong.
"""

from collections import Counter
from functools import cache
from itertools import chain

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.catalogue import ENTRIES
from tests.fuzz import functions, layers
from tests.fuzz.judge import RIGHT, SILENT, UNWORDED, WORDED, judge
from tests.fuzz.subjects import (
    answer,
    calls_of,
    subjects_of_backwards,
    subjects_of_ops,
    users_settings,
)

SHARDS = 16
CALLS = 51_000  # of all shards together
ELSEWHERE = {  # called wrongly in the tests of their own
    *("save_params", "load_params", "load_metadata", "save_sharded", "load_sharded"),
    *("LogCSV", "LogJSONLines", "LogTensorBoard", "EarlyStopping", "KeepBest", "epoch_of"),
    *("Layer", "Op", "op", "layer", "as_layer", "definitions", "jacobians"),
    *("Training", "TrainingInterrupted", "NonFiniteError", "mixed", "column", "row"),
}
pytestmark = pytest.mark.usefixtures("unannotated")


@cache
def subjects():
    with users_settings():
        makers = (
            subjects_of_ops(ENTRIES),
            subjects_of_backwards(ENTRIES),
            layers.subjects_of_constructors(),
            layers.subjects_of_methods(),
            functions.subjects_of_functions(),
        )
        return tuple(chain(*makers))


def base_name(subject):
    return subject.name.split(" ")[0].split(".")[0]


def wrong_answers(chosen, calls_each, seed, **which):
    """Each answer that is neither right nor worded, and how many answers of each kind there are."""
    kinds, wrong = Counter(), []
    for i, subject in chosen:
        for call in calls_of(subject, np.random.default_rng([seed, i]), calls_each, **which):
            kind, why = answer(subject, call)
            kinds[kind] += 1
            if kind in (SILENT, UNWORDED):
                wrong.append(f"{kind}: {subject.name}, {call.label}: {why:.300}")
    return kinds, wrong


def report(kinds, wrong):
    table = ", ".join(f"{kinds[kind]} {kind}" for kind in (RIGHT, WORDED, UNWORDED, SILENT))
    return "\n".join([table, *wrong])


def test_nonsense_gets_a_sentence():
    with users_settings():
        ops = list(subjects_of_ops(ENTRIES))[::9]
        chosen = list(enumerate([*ops, *layers.subjects_of_constructors()]))
    kinds, wrong = wrong_answers(chosen, calls_each=35, seed=1, share_of_nonsense=1.0)
    assert not wrong, report(kinds, wrong)
    assert kinds[WORDED] > 2000


@pytest.mark.thorough
@pytest.mark.parametrize("shard", range(SHARDS))
def test_any_wrong_call_gives_the_right_value_or_a_sentence(shard):
    chosen = list(enumerate(subjects()))
    kinds, wrong = wrong_answers(chosen[shard::SHARDS], -(-CALLS // len(chosen)), seed=2)
    assert not wrong, report(kinds, wrong)


@pytest.mark.thorough
def test_no_public_function_is_missing():
    """Ops come from the catalogue; what is called here otherwise is named here."""
    called = set(map(base_name, subjects()))
    missing = set(jaxnn.__all__) - called - {entry.op.__name__ for entry in ENTRIES}
    assert missing <= ELSEWHERE, sorted(missing - ELSEWHERE)


def raised(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "nonsense", "truth", "kind"),
    [
        (lambda: 2.0, False, lambda: 2.0, RIGHT),
        (lambda: 2.0, True, lambda: 2.0, SILENT),
        (lambda: 2.0, False, lambda: 3.0, SILENT),
        (lambda: jnp.ones(2), False, lambda: np.ones(3), SILENT),
        (lambda: jnp.ones(2), False, lambda: np.array([1, np.nan]), SILENT),
        (lambda: 2.0, False, raised(ValueError("no such value")), SILENT),
        (lambda: jaxnn.relu("x"), True, None, WORDED),
        (raised(ValueError("x is wrong")), True, None, WORDED),
        (raised(ValueError("this is wrong")), True, None, UNWORDED),
        (raised(ValueError("x is wrong\nand y is too")), True, None, UNWORDED),
        (raised(KeyError("x")), True, None, UNWORDED),
        (lambda: jnp.asarray("x"), True, None, UNWORDED),
        (lambda: jnp.reshape(jnp.ones(3), (2, 2)), True, None, UNWORDED),
    ],
)
def test_the_judge(call, nonsense, truth, kind):
    assert judge(call, nonsense, {"x", "relu", "reshape"}, truth).kind == kind
