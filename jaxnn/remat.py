"""Recomputing residuals in the backward instead of saving them."""

from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax

from jaxnn.combinators import Around, Serial
from jaxnn.layer import BuiltLayer, Layer, as_layer, require_sizes
from jaxnn.memory_plan import (
    Cost,
    Kinds,
    Numbered,
    Plan,
    cheapest,
    costs_of,
    gradient_like,
    least_budget,
    temporary_bytes,
)
from jaxnn.op import Op
from jaxnn.recomputed import Remat


class PlannedResiduals(NamedTuple):
    """The plan, and the residuals of its network."""

    plan: Plan
    saved: Any


@dataclass(frozen=True, repr=False)
class RematWithin(Around):
    """A network that recomputes as much as a memory budget requires; see `remat`.

    Attributes:
        layer: the network.
        budget_bytes: the memory of its forward and backward.
    """

    layer: Layer
    budget_bytes: int = field(kw_only=True)

    @property
    def position_wise(self) -> bool:  # type: ignore[override]
        """Whether the network is."""
        return self.layer.position_wise

    def apply(self, params, x, state=None):
        """The output of the network."""
        return self.layer.apply(params, x, state)

    def fwd(self, params, x, key=None):
        """The output of the network, and the residuals of the plan."""
        plan = self.plan(params, x, key)
        y, saved = self.run(plan, params, x, key)
        return y, PlannedResiduals(plan, saved)

    def bwd(self, residuals, dy):
        """The chain rule, unit by unit."""
        plan, saved = residuals
        dparams, dx = plan.net(self._layers()).bwd(saved, dy)
        return self._whole(plan.flat(dparams)), dx

    def bwd_input(self, residuals, dy):
        """The same in two halves, unit by unit."""
        plan, saved = residuals
        return plan.net(self._layers()).bwd_input(saved, dy)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """The gradients of each layer's parameters."""
        plan, saved = residuals
        if isinstance(weights, tuple | dict):
            weights = plan.grouped(self._entries(weights))
        dparams = plan.net(self._layers()).bwd_params(saved, deltas, weights, axis)
        return self._whole(plan.flat(dparams))

    def bwd_examples(self, residuals, deltas, axis=0):
        """The gradients of each layer's parameters, example by example."""
        plan, saved = residuals
        return self._whole(plan.flat(plan.net(self._layers()).bwd_examples(saved, deltas, axis)))

    def update_state(self, state, residuals):
        """The state of the network after a training step."""
        if not self.stateful:
            return state
        plan, saved = residuals
        grouped = plan.grouped(self._entries(state))
        return self._whole(plan.flat(plan.net(self._layers()).update_state(grouped, saved)))

    def extend(self, params, x, cache):
        """The output of the network for the next positions."""
        return self.layer.extend(params, x, cache)

    def plan(self, params, x, key=None) -> Plan:
        """The units with the least to recompute whose compiled program fits.

        Raises:
            ValueError: the budget is too small, or this is the inside of `shard_map`.
        """
        if jax.sharding.get_abstract_mesh().manual_axes:
            raise ValueError(
                "remat: budget_bytes needs to compile the network, which is impossible inside "
                "jax.shard_map; there, use remat(block) for each block"
            )
        return _planned(self, *map(Kinds.of, (params, x, key)))

    def run(self, plan: Plan, params, x, key):
        """The output, and the residuals of the plan."""
        return plan.net(self._layers()).fwd(plan.grouped(self._entries(params)), x, key)

    def costs(self, params, x, key) -> list[Cost]:
        """The cost of each layer."""
        jax.eval_shape(self.layer.fwd, params, x, key)  # an error here names its layer
        return costs_of(self._layers(), self._entries(params), x, key)

    def _layers(self) -> tuple[Layer, ...]:
        net = _opened(self.layer)
        if isinstance(net, Serial):
            return tuple(Numbered(layer, i) for i, layer in enumerate(net.layers))
        return (net,)

    def _entries(self, whole) -> tuple:
        return whole if isinstance(_opened(self.layer), Serial) else (whole,)

    def _whole(self, entries: tuple):
        return entries if isinstance(_opened(self.layer), Serial) else entries[0]

    def __repr__(self) -> str:
        return f"Remat({self.layer!r}, budget_bytes={self.budget_bytes})"


def remat(layer: Layer | Op, *, budget_bytes: int | None = None) -> Remat | RematWithin:
    """A layer that saves its input instead of its residuals, and recomputes them.

    Backward. fwd saves the parameters θ, x and the key. bwd runs y, residuals = f.fwd(θ, x, key)
    once more: the same function of the same arguments, so the same residuals, and the same masks of
    random layers. Then, with ẏ = ∂f/∂θ·θ̇ + ∂f/∂x·ẋ,
        ⟨dy, ẏ⟩ = ⟨(∂f/∂θ)ᵀ·dy, θ̇⟩ + ⟨(∂f/∂x)ᵀ·dy, ẋ⟩
    and f.bwd(residuals, dy) computes both factors, dθ and dx. The gradients are those of the layer.
    The price is one more forward pass, a third of the operations of a training step; where memory
    traffic dominates, it may even save time.

    It pays to recompute blocks one by one, `serial(remat(block), remat(block), …)` or
    `stacked(remat(block), n)`: only their inputs are saved, and the residuals of one block at a
    time. `remat` of a whole network saves less, because its backward holds the residuals of all
    layers at once.

    With `budget_bytes` it chooses the layers of a `serial` to recompute, while `fwd` is traced, so
    that the peak memory of forward and backward fits; parameters, their gradients and the arguments
    of the program do not count. It measures the residuals of each layer, the memory of its compiled
    backward and the operations of its forward, and chooses the plan that recomputes the fewest
    operations. Then it compiles the network once, and plans again if that does not fit. Neighbours
    may form a segment that saves only its first input; then its layers except the last are
    recomputed twice. A layer that is not a `serial` is recomputed whole or not at all.

    Args:
        layer: a layer, or an op of one argument.
        budget_bytes: optional, the memory to stay within.

    Raises:
        TypeError: layer is neither.
        ValueError: budget_bytes is not a positive integer; or, in `fwd`, it is too small, and the
            message gives the least possible one, or `fwd` runs inside `jax.shard_map`.

    Reference: T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.

    Example:
        >>> block = jaxnn.residual(jaxnn.serial(jaxnn.Linear(64, 64), jaxnn.relu))
        >>> net = jaxnn.serial(*[jaxnn.remat(block)] * 8, jaxnn.Linear(64, 10))
        >>> params = net.init(jax.random.key(0))
        >>> gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
        >>> value, grads = gradient(params, jnp.ones((32, 64)), jnp.zeros(32, int))
        >>> jaxnn.remat(jaxnn.serial(block, jaxnn.Linear(64, 10)), budget_bytes=2**20)
        Remat(Serial(Residual(Serial(Linear(64, 64), relu)), Linear(64, 10)), budget_bytes=1048576)
    """
    layer = as_layer(layer)
    if budget_bytes is None:
        return Remat(layer)
    require_sizes("remat", budget_bytes=budget_bytes)
    return RematWithin(layer, budget_bytes=budget_bytes)


@lru_cache(maxsize=256)
def _planned(net: RematWithin, params: Kinds, x: Kinds, key: Kinds) -> Plan:
    """The plan of a network for arguments of these types.

    The costs of the layers predict the memory of a plan. The compiler may keep more, so the whole
    program is compiled, and planned again with less if it does not fit.
    """
    arguments = params.shapes(), x.shapes(), key.shapes()
    costs, allowed = net.costs(*arguments), net.budget_bytes

    def step(plan, params, x, key):
        y, saved = net.run(plan, params, x, key)
        return net.bwd(PlannedResiduals(plan, saved), gradient_like(y))

    while True:
        units = cheapest(costs, allowed)
        plan = Plan(units or cheapest(costs, least_budget(costs)) or ())
        needed = temporary_bytes(partial(step, plan), *arguments)
        if needed <= net.budget_bytes:
            return plan
        if units is None:
            raise ValueError(
                f"remat: budget_bytes={net.budget_bytes:,} is too small; the least possible for "
                f"this network and this input is {needed:,}"
            )
        allowed = int(0.98 * allowed * min(1, net.budget_bytes / needed))


def _opened(layer: Layer) -> Layer:
    """The network that a layer is built as."""
    while isinstance(layer, BuiltLayer):
        layer = layer.net
    return layer
