"""Layers that are recomputed: gradients, statistics, masks, and the memory that they keep."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.memory_plan import Cost, cheapest

X = jax.random.normal(jax.random.key(1), (7, 6))
TARGET = jax.random.normal(jax.random.key(2), (7, 6))
KEY = jax.random.key(3)
BLOCK = jaxnn.residual(
    jaxnn.serial(
        jaxnn.Linear(6, 5), jaxnn.BatchNorm(5), jaxnn.tanh, jaxnn.Dropout(0.3), jaxnn.Linear(5, 6)
    )
)
PLAIN = jaxnn.serial(BLOCK, jaxnn.LayerNorm(6), BLOCK, BLOCK)


def assert_close(actual, expected, rtol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), actual, expected
    )


def trained(net, params, state, key=KEY):
    return jax.jit(jaxnn.value_and_grad(net, jaxnn.squared_error))(params, state, X, TARGET, key)


def temporary_bytes(net, params, x):
    gradient = jax.jit(jaxnn.value_and_grad(net, jaxnn.squared_error))
    return gradient.lower(params, x, x).compile().memory_analysis().temp_size_in_bytes


def by_definition(net, params):
    """The loss and its gradient by `jax.grad` of the definitions, in the training form."""

    def loss(params):
        y, _ = net.fwd(params, X, KEY)
        return jaxnn.squared_error(y, TARGET).mean()

    with jaxnn.definitions():
        return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    "form",
    ["nested", *(pytest.param(form, marks=pytest.mark.thorough) for form in ("each", "whole"))],
)
def test_the_gradients_and_the_state_are_those_of_the_layer(form):
    net = {
        "each": jaxnn.serial(*map(jaxnn.remat, PLAIN.layers)),
        "whole": jaxnn.remat(PLAIN),
        "nested": jaxnn.remat(jaxnn.serial(jaxnn.remat(BLOCK), *PLAIN.layers[1:])),
    }[form]
    params, state = PLAIN.init(KEY), PLAIN.init_state()
    value, grads, after = trained(net, params, state)
    assert_close((value, grads), by_definition(PLAIN, params))
    assert_close(after, trained(PLAIN, params, state)[2])
    assert_close(net.apply(params, X, after), PLAIN.apply(params, X, after))


def test_statistics_of_the_state_are_saved_and_no_large_residuals():
    layer = jaxnn.remat(BLOCK)
    saved = layer.fwd(BLOCK.init(KEY), X, KEY)[1]
    assert max(a.size for a in jax.tree.leaves(saved.statistics)) == 5
    assert saved.x is X


def test_padded_sequences_keep_their_lengths():
    inner = jaxnn.serial(jaxnn.Linear(6, 6), jaxnn.tanh)
    layer, params = jaxnn.remat(inner), inner.init(KEY)
    x = jaxnn.Padded(jnp.stack([X, -X, X]), jnp.array([7, 3, 5]))
    y, residuals = jax.jit(layer.fwd)(params, x)
    np.testing.assert_array_equal(y.lengths, x.lengths)
    dy = jax.random.normal(KEY, y.values.shape)
    assert_close(layer.bwd(residuals, dy), inner.bwd(inner.fwd(params, x)[1], dy))


@pytest.mark.thorough
def test_a_block_extends_position_by_position():
    block = jaxnn.TransformerBlock(6, 2, causal=True)
    layer, params = jaxnn.remat(block), block.init(KEY)
    cache = layer.init_cache(2, 7, X.dtype)
    x = jnp.stack([X, -X])
    first, cache = layer.extend(params, x[:, :4], cache)
    second, _ = layer.extend(params, x[:, 4:], cache)
    assert_close(jnp.concatenate([first, second], 1), block.apply(params, x), rtol=1e-10)


@pytest.mark.thorough
def test_gradients_of_each_example_and_second_derivatives():
    plain = jaxnn.serial(jaxnn.Linear(6, 6), jaxnn.tanh)
    params = plain.init(KEY)

    def gradient(net, x, target):
        return jaxnn.value_and_grad(net, jaxnn.squared_error)(params, x[None], target[None])

    mapped = [
        jax.vmap(lambda x, t, net=net: gradient(net, x, t))(X, TARGET)
        for net in (plain, jaxnn.remat(plain))
    ]
    assert_close(*mapped)

    def curvature(net, params):
        grads = jaxnn.value_and_grad(net, jaxnn.squared_error)(params, X, TARGET)[1]
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

    assert_close(*(jax.grad(curvature, 1)(net, params) for net in (plain, jaxnn.remat(plain))))


DEEP = [jaxnn.residual(jaxnn.serial(jaxnn.Linear(16, 64), jaxnn.gelu, jaxnn.Linear(64, 16)))] * 6
LONG = jnp.cos(jnp.arange(128.0 * 16)).reshape(128, 16)


def test_the_compiled_memory_falls():
    plain = jaxnn.serial(*DEEP)
    params = jax.eval_shape(plain.init, KEY)
    each = jaxnn.serial(*map(jaxnn.remat, DEEP))
    assert temporary_bytes(each, params, LONG) < 0.5 * temporary_bytes(plain, params, LONG)


def test_a_budget_is_kept_and_more_of_it_recomputes_less():
    plain = jaxnn.serial(*DEEP)
    params = jax.eval_shape(plain.init, KEY)
    full = temporary_bytes(plain, params, LONG)
    recomputed = []
    for fraction in (0.45, 0.7, 1.2):
        net = jaxnn.remat(plain, budget_bytes=int(fraction * full))
        assert temporary_bytes(net, params, LONG) <= 1.05 * fraction * full
        units = net.plan(params, LONG).units
        recomputed.append(sum(2 * (u.stop - u.start) - 1 for u in units if u.remat))
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[0] > recomputed[1] > recomputed[2] == 0


def test_every_plan_has_the_gradients_and_the_masks_of_the_network():
    params, state = PLAIN.init(KEY), PLAIN.init_state()
    expected = trained(PLAIN, params, state)
    with pytest.raises(ValueError, match=r"the least possible .* is [\d,]+") as refusal:
        jaxnn.remat(PLAIN, budget_bytes=1).fwd(params, X, KEY)
    least = int(str(refusal.value).rsplit(" ", 1)[1].replace(",", ""))
    plans = []
    for budget in (least, 3 * least):
        net = jaxnn.remat(PLAIN, budget_bytes=budget)
        assert_close(trained(net, params, state), expected)
        plans.append(net.plan(params, X, KEY))
    assert plans[0] != plans[-1]
    with pytest.raises(ValueError, match="too small"):
        jaxnn.remat(PLAIN, budget_bytes=least - 1).fwd(params, X, KEY)


def test_the_plan_is_the_cheapest_of_all_that_fit():
    def cost(i, saved, flops):
        return Cost({i: 10}, {("r", i): saved}, dy=10, bwd=20, remat=40, flops=flops)

    costs = [cost(i, *pair) for i, pair in enumerate([(90, 5.0), (30, 9.0), (70, 2.0), (50, 7.0)])]
    for budget in (80, 110, 150, 200, 260, 300):
        fitting = []
        for kinds in itertools.product([False, True], repeat=4):
            held, peak = 0, 0
            for c, remat in zip(costs, kinds, strict=True):
                held += 10 if remat else sum(c.saved.values())
                peak = max(peak, held + 10 + (40 if remat else 20))
            if peak <= budget:
                fitting.append(sum(c.flops for c, r in zip(costs, kinds, strict=True) if r))
        units = cheapest(costs, budget)
        if fitting:
            flops = [c.flops for c in costs]
            found = sum(
                2 * sum(flops[u.start : u.stop]) - flops[u.stop - 1] for u in units if u.remat
            )
            assert found <= min(fitting)


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("budget", [0, -5, 2.5, True, "1GB"])
def test_a_budget_that_is_no_size_is_refused(budget):
    with pytest.raises(ValueError, match="budget_bytes must be a positive integer"):
        jaxnn.remat(PLAIN, budget_bytes=budget)


def test_a_budget_inside_shard_map_is_refused():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    net = jaxnn.remat(jaxnn.serial(jaxnn.tanh), budget_bytes=10**6)
    spec = jax.sharding.PartitionSpec("d")
    run = jax.shard_map(lambda x: net.fwd(((),), x)[0], mesh=mesh, in_specs=spec, out_specs=spec)
    with pytest.raises(ValueError, match=r"impossible inside jax\.shard_map"):
        run(X)


def test_errors_name_the_layer_of_the_network():
    net = jaxnn.serial(jaxnn.Linear(6, 5), jaxnn.relu, jaxnn.Linear(6, 5))
    with pytest.raises(ValueError, match=r"layer 2 \(Linear\)"):
        jaxnn.remat(net, budget_bytes=10**6).fwd(net.init(KEY), X)


def test_the_summary_and_the_representation_show_the_layer():
    layer = jaxnn.remat(jaxnn.serial(jaxnn.Linear(6, 6), jaxnn.relu))
    assert repr(layer) == "Remat(Serial(Linear(6, 6), relu))"
    assert jaxnn.summary(layer, X).total.saved_bytes == X.nbytes + KEY.nbytes
    assert layer == jaxnn.remat(layer.layer)
    assert hash(layer) == hash(jaxnn.remat(layer.layer))
    assert jaxnn.remat(jaxnn.Linear(6, 6)).position_wise
