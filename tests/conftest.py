"""Every test runs strictly: float64 allowed, no silent promotion, annotated shapes checked."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("jaxnn", "beartype.beartype")


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
