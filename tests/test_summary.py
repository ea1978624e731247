"""The table of a network's layers: its figures, and the table itself."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn

NET = jaxnn.serial(
    jaxnn.Linear(64, 128),
    jaxnn.residual(jaxnn.serial(jaxnn.relu, jaxnn.Dropout(0.5))),
    jaxnn.Linear(128, 10, use_bias=False),
)
X = jax.ShapeDtypeStruct((32, 64), jnp.float64)


def test_the_figures_of_each_layer():
    summary = jaxnn.summary(NET, X)
    assert [row.layer for row in summary.rows] == [
        "Linear(64, 128)",
        "Residual",
        "Serial",
        "relu",
        "Dropout(0.5)",
        "Linear(128, 10, use_bias=False)",
    ]
    assert [row.depth for row in summary.rows] == [0, 0, 1, 2, 2, 0]
    first, *_, last = summary.rows
    assert first.output == "float64[32,128]"
    assert (first.parameters, last.parameters) == (64 * 128 + 128, 1280)
    assert first.saved_bytes == 32 * 64 * 8  # x; the parameters exist anyway
    assert last.flops == 2 * 32 * 128 * 10
    assert summary.total.parameters == 64 * 128 + 128 + 1280


def test_an_array_that_two_layers_save_counts_once():
    """relu saves its output, which is the input that the next layer saves."""
    net = jaxnn.mlp((64, 128, 10))
    each = [row.saved_bytes for row in jaxnn.summary(net, X).rows]
    assert jaxnn.summary(net, X).total.saved_bytes == sum(each) - 32 * 128 * 8


def test_the_table_reads_well():
    lines = str(jaxnn.summary(NET, X)).splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "bytes", "saved", "flops"]
    assert lines[-1].startswith("total")
    assert lines[4].startswith("  Serial")


def test_nothing_is_computed_and_bad_input_gets_a_sentence():
    huge = jaxnn.mlp((10**6, 10**6))
    assert jaxnn.summary(huge, jax.ShapeDtypeStruct((10**6, 10**6), jnp.float64)).total.flops > 1e18
    with pytest.raises(
        ValueError, match=r"layer 0 \(Linear\): linear: .*last axis of x must be 64"
    ):
        jaxnn.summary(NET, jnp.ones((32, 63)))
