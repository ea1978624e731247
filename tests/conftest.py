"""Every test runs strictly: float64 allowed, no silent promotion, annotated shapes checked."""

import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jaxtyping.install_import_hook("jaxnn", "beartype.beartype")
