"""Linear layers that are split over devices, as in Megatron-LM."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxnn.calls import weighted
from jaxnn.combinators import Around
from jaxnn.dtypes import widest
from jaxnn.layers.linear import Linear
from jaxnn.meshes import alike, is_placed, with_types_of
from jaxnn.ops.linear import LinearResiduals, linear, linear_bwd_examples
from jaxnn.padded import values_of, with_values


class SplitResiduals(NamedTuple):
    """The arguments of a split layer outside `shard_map`."""

    params: Any
    x: Any


class RowResiduals(NamedTuple):
    """The residuals of the product on one device, and the bias if there is one."""

    product: Any
    b: Any


class SplitLinear(Around):
    """The base of `Column` and `Row`: where they run, and on which parts.

    A subclass defines the computation of one device, `part_apply`, `part_fwd`, `part_bwd_input` and
    `part_bwd_params`. Inside `shard_map` over the axis, the caller's arrays are the parts already.
    On a mesh with that axis, the layer enters `shard_map` itself. On one device, and on explicit
    axes, where arrays have their sharding in their types, it is the plain layer.
    """

    layer: Linear
    axis: str
    name: ClassVar[str]
    split_dimension: ClassVar[int]
    position_wise = True

    def __post_init__(self):
        if not isinstance(self.layer, Linear):
            raise TypeError(f"{self.name}: layer must be a Linear, got {self.layer!r}")
        if not isinstance(self.axis, str):
            raise TypeError(f"{self.name}: axis must be the name of a mesh axis, got {self.axis!r}")

    def init(self, key):
        """The parameters of the layer, split over the devices of the axis."""
        params = self.layer.init(key)
        kind = self._axis_type()
        if kind is None:
            return params
        self._require_even_parts()
        if kind is AxisType.Manual:
            return jax.tree.map(self._own_part, params, self._param_specs(params))
        place = jax.sharding.reshard if kind is AxisType.Explicit else lax.with_sharding_constraint
        return jax.tree.map(place, params, self._param_specs(params))

    def apply(self, params, x, state=None):
        """The output."""
        values = values_of(x)
        kind = self._axis_type()
        if kind is AxisType.Manual:
            self._require_parts(params)
            y = self.part_apply(params, values)
        elif kind is AxisType.Auto:
            self._require_even_parts()
            y = self._split_apply(params, values)
        else:
            y = linear(params, values)
        return with_values(x, y)

    def fwd(self, params, x, key=None):
        """The output and the residuals."""
        kind = self._axis_type()
        if kind is AxisType.Manual:
            self._require_parts(params)
            y, residuals = self.part_fwd(params, values_of(x))
            return with_values(x, y), residuals
        if kind is AxisType.Auto:
            return self.apply(params, x), SplitResiduals(params, values_of(x))
        return self.layer.fwd(params, x)

    def bwd_input(self, residuals, dy):
        """dx; the gradients of the parameters need dy itself."""
        if isinstance(residuals, SplitResiduals):
            return dy, self._split_bwd_input(residuals, dy)
        if self._axis_type() is AxisType.Manual:
            return self.part_bwd_input(residuals, dy)
        return self.layer.bwd_input(residuals, dy)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """dW and db, split like W and b."""
        if weights is not None:
            self.bwd_examples(residuals, deltas, axis)  # may raise
            return weighted(self.bwd_params, residuals, deltas, weights, axis)
        if isinstance(residuals, SplitResiduals):
            return self._split_bwd_params(residuals, deltas)
        if self._axis_type() is AxisType.Manual:
            return self.part_bwd_params(residuals, deltas)
        return self.layer.bwd_params(residuals, deltas)

    def bwd_examples(self, residuals, deltas, axis=0):
        """dW and db, example by example."""
        if isinstance(residuals, SplitResiduals):
            of_op = LinearResiduals(*residuals)
            return linear_bwd_examples(of_op, deltas, examples_axis=axis)
        if self._axis_type() is AxisType.Manual:
            raise ValueError(
                f"{self.name}: inside jax.shard_map a device has only a part of each example's "
                "gradient; compute the gradient of each example outside"
            )
        return self.layer.bwd_examples(residuals, deltas, axis)

    def part_apply(self, params, x):
        """The output on one device."""
        raise NotImplementedError

    def part_fwd(self, params, x):
        """The same, and the residuals."""
        raise NotImplementedError

    def part_bwd_input(self, residuals, dy):
        """`(dy, dx)` on one device."""
        raise NotImplementedError

    def part_bwd_params(self, residuals, dy):
        """The gradients of the parameters of one device."""
        raise NotImplementedError

    @partial(jax.jit, static_argnums=0)
    def _split_apply(self, params, x):
        specs = self._specs(params, x)
        return self._on_each(self.part_apply, specs[:2], specs.y)(params, x)

    @partial(jax.jit, static_argnums=0)
    def _split_bwd_input(self, residuals, dy):
        def part(params, x, dy):
            return self.part_bwd_input(self.part_fwd(params, x)[1], dy)[1]

        specs = self._specs(*residuals)
        return self._on_each(part, specs, specs.x)(*residuals, dy)

    @partial(jax.jit, static_argnums=0)
    def _split_bwd_params(self, residuals, dy):
        def part(params, x, dy):
            return self.part_bwd_params(self.part_fwd(params, x)[1], dy)

        specs = self._specs(*residuals)
        return self._on_each(part, specs, specs.params)(*residuals, dy)

    def _on_each(self, part: Callable, in_specs: tuple, out_specs) -> Callable:
        """The computation of one device on all devices of the axis, with its parts."""
        return jax.shard_map(
            part, in_specs=tuple(in_specs), out_specs=out_specs, axis_names={self.axis}
        )

    def _axis_type(self) -> AxisType | None:
        """The type of the axis in the mesh in use, `None` without a mesh."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return None
        if self.axis not in mesh.axis_names:
            raise ValueError(
                f"{self.name}: the mesh has the axes {mesh.axis_names}, but none is {self.axis!r}"
            )
        return mesh.axis_types[mesh.axis_names.index(self.axis)]

    def _devices(self) -> int:
        return jax.sharding.get_abstract_mesh().shape[self.axis]

    def _require_even_parts(self) -> None:
        size = (self.layer.n_in, self.layer.n_out)[self.split_dimension]
        if size % self._devices():
            what = ("inputs", "outputs")[self.split_dimension]
            raise ValueError(
                f"{self.name}: the {self._devices()} devices of axis {self.axis!r} do not divide "
                f"{size} {what}"
            )

    def _require_parts(self, params) -> None:
        self._require_even_parts()
        part = [self.layer.n_in, self.layer.n_out]
        part[self.split_dimension] //= self._devices()
        if params["w"].shape != tuple(part):
            raise ValueError(
                f"{self.name}: inside jax.shard_map over {self.axis!r}, params['w'] must be the "
                f"part of one device, {tuple(part)}, got shape {params['w'].shape}"
            )

    def _own_part(self, whole, spec):
        if self.axis not in spec:
            return whole
        dimension = spec.index(self.axis)
        size = whole.shape[dimension] // self._devices()
        return lax.dynamic_slice_in_dim(whole, lax.axis_index(self.axis) * size, size, dimension)

    def _param_specs(self, params):
        raise NotImplementedError

    def _specs(self, params, x) -> "Specs":
        raise NotImplementedError

    def _last_axis(self, x) -> PartitionSpec:
        return PartitionSpec(*[None] * (x.ndim - 1), self.axis)

    def __repr__(self) -> str:
        option = "" if self.axis == "model" else f", axis={self.axis!r}"
        return f"{type(self).__name__}({self.layer!r}{option})"


class Specs(NamedTuple):
    """The splits of the arguments and the output of a layer, in the order of its backward."""

    params: Any
    x: PartitionSpec
    y: PartitionSpec


@dataclass(frozen=True, repr=False)
class Column(SplitLinear):
    """A linear layer whose outputs are split over devices; see `column`.

    Attributes:
        layer: the layer.
        axis: the mesh axis.
    """

    layer: Linear
    axis: str = field(default="model", kw_only=True)

    name = "column"
    split_dimension = 1

    def part_apply(self, params, x):
        """yₖ = x·Wₖ + bₖ."""
        return linear(params, _varying_like(x, params["w"]))

    def part_fwd(self, params, x):
        """yₖ = x·Wₖ + bₖ, and the residuals."""
        return linear.fwd(params, _varying_like(x, params["w"]))

    def part_bwd_input(self, residuals, dy):
        """dx = Σₖ dyₖ·Wₖᵀ."""
        dy, dx = linear.bwd_input(residuals, dy)
        return dy, lax.psum(dx, self.axis)

    def part_bwd_params(self, residuals, dy):
        """dWₖ = xᵀ·dyₖ, dbₖ = Σₙ dyₖ."""
        return linear.bwd_params(residuals, dy)

    def _param_specs(self, params):
        return {
            name: PartitionSpec(*[None] * (leaf.ndim - 1), self.axis)
            for name, leaf in params.items()
        }

    def _specs(self, params, x):
        return Specs(self._param_specs(params), PartitionSpec(), self._last_axis(x))


@dataclass(frozen=True, repr=False)
class Row(SplitLinear):
    """A linear layer whose inputs are split over devices; see `row`.

    Attributes:
        layer: the layer.
        axis: the mesh axis.
    """

    layer: Linear
    axis: str = field(default="model", kw_only=True)

    name = "row"
    split_dimension = 0

    def part_apply(self, params, x):
        """y = Σₖ xₖ·Wₖ + b."""
        return self._sum(linear({"w": params["w"]}, x), params.get("b"))

    def part_fwd(self, params, x):
        """y = Σₖ xₖ·Wₖ + b, and the residuals of the product."""
        b = params.get("b")
        y, product = linear.fwd({"w": params["w"]}, x)
        return self._sum(y, b), RowResiduals(product, b)

    def part_bwd_input(self, residuals, dy):
        """dxₖ = dy·Wₖᵀ."""
        return dy, linear.bwd_input(residuals.product, dy)[1]

    def part_bwd_params(self, residuals, dy):
        """dWₖ = xₖᵀ·dy, db = Σₙ dy."""
        product, b = residuals
        dparams = linear.bwd_params(product, dy)
        if b is not None:
            dparams["b"] = _bias_gradient(b, dy)
        return dparams

    def _sum(self, y, b):
        y = lax.psum(y, self.axis)
        if b is None:
            return y
        wide = widest({y.dtype, b.dtype})
        return (y.astype(wide) + jnp.broadcast_to(b.astype(wide), y.shape)).astype(y.dtype)

    def _param_specs(self, params):
        specs = {"w": PartitionSpec(self.axis, None), "b": PartitionSpec()}
        return {name: specs[name] for name in params}

    def _specs(self, params, x):
        return Specs(self._param_specs(params), self._last_axis(x), PartitionSpec())


def column(layer: Linear, axis: str = "model") -> Column:
    """A linear layer whose outputs are split over the devices of a mesh axis.

    Device k holds the columns Wₖ (I, O/n) and bₖ (O/n,), takes all of x, and computes its part of
    the output, yₖ = x·Wₖ + bₖ. Nothing is exchanged. `row` takes these parts where they are, so
    `serial(column(Linear(D, H)), relu, row(Linear(H, D)))` needs one all-reduce forward and one
    backward.

    Backward, from ⟨dy, ẏ⟩ = Σₖ⟨dyₖ, ẏₖ⟩ with ẏₖ = x·Ẇₖ + ḃₖ + ẋ·Wₖ:
        dWₖ = xᵀ·dyₖ          each device has x and its own dyₖ
        dbₖ = Σₙ dyₖ
        dx  = Σₖ dyₖ·Wₖᵀ      ẋ is in every ẏₖ: the sum over the devices, one all-reduce

    Under `jax.set_mesh(mesh)` the arrays are whole and the layer splits the work; `init` places the
    parameters, and a batch that is sharded along another axis of the mesh stays so. Inside
    `jax.shard_map` over the axis they are the parts of one device. Without a mesh this is the
    layer itself, with the same parameters for the same key. So it is on explicit axes
    (`AxisType.Explicit`), where the compiler places the exchanges that the arrays' types require.

    In attention, use columns for queries, keys and values, and a row for the output: if the number
    of devices divides the number of heads, each device computes whole heads without an exchange.

    Args:
        layer: a `Linear`.
        axis: the name of the mesh axis.

    Raises:
        TypeError: layer is not a `Linear`, or axis is not a name.
        ValueError: later, the mesh has no such axis, its devices do not divide the outputs, or
            params inside `shard_map` are not those of one device.

    Reference: M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models
    Using Model Parallelism", 2019, section 3.

    Example:
        >>> auto = jax.sharding.AxisType.Auto
        >>> mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(auto, auto))
        >>> net = jaxnn.serial(
        ...     jaxnn.column(jaxnn.Linear(4, 8)), jaxnn.relu, jaxnn.row(jaxnn.Linear(8, 4))
        ... )
        >>> with jax.set_mesh(mesh):
        ...     params = net.init(jax.random.key(0))
        ...     y = net.apply(params, jnp.ones((5, 4)))
        >>> y.shape, tuple(params[0]["w"].sharding.spec)
        ((5, 4), (None, 'model'))
    """
    return Column(layer, axis=axis)


def row(layer: Linear, axis: str = "model") -> Row:
    """A linear layer whose inputs are split over the devices of a mesh axis.

    Device k holds the rows Wₖ (I/n, O), takes its part xₖ of the input along the last axis, and
    y = Σₖ xₖ·Wₖ + b, one all-reduce. b is whole on every device and added once, after the sum.

    Backward, from ⟨dy, ẏ⟩ with ẏ = Σₖ (xₖ·Ẇₖ + ẋₖ·Wₖ) + ḃ:
        dWₖ = xₖᵀ·dy      ⟨dy, xₖ·Ẇₖ⟩ = ⟨xₖᵀ·dy, Ẇₖ⟩
        dxₖ = dy·Wₖᵀ      its part of dx, as xₖ is of x
        db  = Σₙ dy       the same on every device
    Each device has dy, so nothing is exchanged.

    It runs in the same places as `column`, which makes such an input.

    Args:
        layer: a `Linear`.
        axis: the name of the mesh axis.

    Raises:
        TypeError: layer is not a `Linear`, or axis is not a name.
        ValueError: later, the mesh has no such axis, its devices do not divide the inputs, or
            params inside `shard_map` are not those of one device.

    Reference: M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models
    Using Model Parallelism", 2019, section 3.

    Example:
        >>> layer = jaxnn.row(jaxnn.Linear(8, 4), axis="devices")
        >>> layer
        Row(Linear(8, 4), axis='devices')
        >>> layer.apply(layer.init(jax.random.key(0)), jnp.ones((5, 8))).shape
        (5, 4)
    """
    return Row(layer, axis=axis)


def _varying_like(x, w):
    """x, typed as different on each device where W is, so that no op adds up its gradient."""
    return alike(x, w)[0]


def _bias_gradient(b, dy):
    """Σₙ dy, over all devices that share b and have different rows n."""

    def summed(_, dy):
        total = jnp.sum(
            dy, axis=range(dy.ndim - 1), dtype=widest({b.dtype, jnp.dtype(jnp.float32)})
        )
        return total.astype(b.dtype), None

    if not is_placed(dy):
        return summed((), dy)[0]
    return with_types_of((jax.typeof(b), jax.typeof(dy)), summed, (), dy)[0]
