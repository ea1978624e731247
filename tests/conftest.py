"""Every test runs strictly: float64 allowed, no silent promotion, annotated shapes checked."""

import itertools
import os

import jax
import jaxtyping
import pytest

# Compiling takes most of the time of the suite. The thorough suite sets the flags to nothing, so
# that it tries the code that users get.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("jaxnn", "beartype.beartype")

TESTS_BETWEEN_CLEARINGS = 100  # compiled programs of more tests would take gigabytes
FINISHED = itertools.count(1)


def pytest_xdist_auto_num_workers(config):
    """One process for named files, where starting workers would take longer than the tests."""
    return 0 if all(".py" in argument for argument in config.args) else None


@pytest.fixture(autouse=True)
def bounded_memory():
    """A worker forgets its compiled programs now and then."""
    yield
    if next(FINISHED) % TESTS_BETWEEN_CLEARINGS == 0:
        jax.clear_caches()


@pytest.fixture
def unannotated():
    """Without run-time checks of annotations: the library's own words for bad input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def standard_promotion():
    """The promotion of dtypes that users have, which some of optax relies on."""
    with jax.numpy_dtype_promotion("standard"):
        yield
