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


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.op.__name__)
@pytest.mark.parametrize("part", ["Shapes", "Backward", "Keeps", "Raises:", "Source:", ">>> "])
def test_every_op_is_explained(entry, part):
    assert part in entry.op.__doc__


@pytest.mark.parametrize("name", jaxnn.__all__)
def test_every_public_name_has_a_docstring(name):
    assert getattr(jaxnn, name).__doc__
