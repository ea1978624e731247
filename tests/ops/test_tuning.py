"""Constants for GPUs and paths taken there, as if there was a GPU; the numbers stay the same."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn
from jaxnn.catalogue import ENTRIES
from jaxnn.gradcheck import check
from jaxnn.ops._common.tiling import Band, tiles_of

OPS = [
    jaxnn.glu,
    jaxnn.layer_norm,
    jaxnn.sparsemax,
    jaxnn.embedding_bag,
    jaxnn.attention,
    jaxnn.linear_softmax_cross_entropy,
]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_tiles_are_longer_on_a_gpu(monkeypatch):
    q = jnp.zeros((2, 3000, 4, 1))

    def rows(**size):
        return tiles_of(q, q, band=Band(), block=None, **size).rows

    assert rows() == 334  # nine of no more than √(2²⁰/8) = 362
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rows() == 1000  # three of no more than 1024
    assert rows(scores=2**17) == 125


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_an_op_with_a_path_of_its_own_on_a_gpu(op):
    (entry,) = [entry for entry in ENTRIES if entry.op == op]
    case = entry.cases[0]
    args = case.arguments(1, jnp.float64)
    check(op, *args, laws=("value", "gradient"), **case.options).raise_if_failed()
