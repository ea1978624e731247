"""The examples in docstrings run, and every op's docstring holds its derivation."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnn
from jaxnn.catalogue import ENTRIES

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(jaxnn.__path__, "jaxnn.")
    if not module.name.endswith("__main__")
)
NAMES = {"jaxnn": jaxnn, "jax": jax, "jnp": jnp, "optax": optax}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        for example in doctest.DocTestFinder().find(module, name, globs=dict(NAMES)):
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


PARTS = {
    "Shapes:": "the shapes, with their legend",
    "Backward": "the derivation of the backward",
    "Saves ": "what forward saves, and why",
    "Raises:": "the errors, in a section Raises",
    "Reference:": "a reference",
    ">>> ": "an example that runs",
}


def missing_parts(docstring):
    lines = (docstring or "").splitlines()
    found = {part for part in PARTS if any(line.strip().startswith(part) for line in lines)}
    summary = [] if lines and lines[0].strip() else ["a summary line"]
    return summary + [what for part, what in PARTS.items() if part not in found]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
def test_every_op_is_explained(entry):
    missing = missing_parts(entry.op.__doc__)
    assert not missing, f"the docstring of {entry.op.__name__} lacks {', '.join(missing)}"


def test_a_bare_docstring_is_told_all_that_it_lacks():
    assert missing_parts("Softsign, y = x/(1 + |x|).") == list(PARTS.values())
    assert missing_parts(None) == ["a summary line", *PARTS.values()]


def test_every_public_name_has_a_docstring():
    assert [name for name in jaxnn.__all__ if not getattr(jaxnn, name).__doc__] == []
