"""The layer contract: parameters, a forward pass, and a hand-written backward in two halves."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import signature
from operator import attrgetter
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp

from jaxnn.arrays import as_arrays, is_array
from jaxnn.example_gradients import squared_norms
from jaxnn.op import Op
from jaxnn.options import as_option
from jaxnn.padded import values_of, with_values

Params = Any
Residuals = Any
State = Any


class Layer:
    """A set of pure functions that may have parameters.

        params        = layer.init(key)
        y             = layer.apply(params, x)                  inference
        y, residuals  = layer.fwd(params, x, key=None)          training; key feeds random layers
        dparams, dx   = layer.bwd(residuals, dy)

    The backward consists of two halves: the chain rule back to the input, and from there to the
    parameters. `deltas` are the gradients that the second half needs: `dy` itself, or those of the
    gates of an LSTM.

        deltas, dx    = layer.bwd_input(residuals, dy)
        dparams       = layer.bwd_params(residuals, deltas)

    The same deltas give the gradient of each example: the sum with a weight for each, the squared
    norms, or the gradients themselves in the factored form of the backward; see
    `jaxnn.example_gradients`.

        dparams       = layer.bwd_params(residuals, deltas, weights)
        norms         = layer.squared_norms(residuals, deltas)
        gradients     = layer.bwd_examples(residuals, deltas)

    Parameters are a pytree: a dict of arrays, a tuple of such dicts, or the empty tuple. `x` and
    `y` may be pytrees too, such as `Padded` sequences or a tuple of several inputs; the gradient of
    a tuple is a tuple, with `None` for integers. Layers compose: `serial` and the other combinators
    are layers again.

    A layer that gathers statistics in training (`BatchNorm`) is `stateful`. Its state is not a
    parameter: no gradient, optimizer or weight decay reaches it.

        state         = layer.init_state()
        state         = layer.update_state(state, residuals)    after a training step
        y             = layer.apply(params, x, state)

    A layer over time may compute its output position by position, for `generate`. Its cache holds
    the values of earlier positions that it needs.

        cache         = layer.init_cache(batch, length)
        y, cache      = layer.extend(params, x, cache)          the next positions

    A new layer is a frozen dataclass that derives from `Layer` and defines `init`, `apply`, `fwd`,
    and either `bwd` or its two halves; or pass four functions to `jaxnn.layer`.
    """

    position_wise: ClassVar[bool] = False
    """Whether each position of the output depends only on the same position of the input."""

    def __init_subclass__(cls, **options):
        """Check options and arrays before the subclass's own methods receive them."""
        super().__init_subclass__(**options)
        for name, first in (("apply", 0), ("fwd", 0), ("bwd", 1)):  # bwd's first: residuals
            if callable(own := vars(cls).get(name)):
                setattr(cls, name, _given_arrays(own, first))
        if own := vars(cls).get("__post_init__"):
            cls.__post_init__ = _given_options(own)

    def __post_init__(self, *_):
        """Raise unless each option annotated as a flag or a function is one."""
        for option in fields(self) if is_dataclass(self) else ():
            value, kinds = getattr(self, option.name), _choices(option.type)
            try:
                if bool in kinds:
                    object.__setattr__(
                        self, option.name, as_option(option.name, value, option.type)
                    )
                elif Callable in kinds and type(value) not in kinds and not callable(value):
                    raise TypeError(f"option {option.name} must be a function, got {value!r:.80}")
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}: {error}") from None

    @property
    def stateful(self) -> bool:
        """Whether inference takes a state that training updates."""
        return False

    def init(self, key: jax.Array) -> Params:
        """The initial parameters; by default there are none."""
        return ()

    def apply(self, params: Params, x, state: State = None):
        """The output in inference; nothing is saved."""
        raise NotImplementedError

    def fwd(self, params: Params, x, key: jax.Array | None = None) -> tuple[Any, Residuals]:
        """The output in training, and the residuals."""
        raise NotImplementedError

    def bwd(self, residuals: Residuals, dy) -> tuple[Params, Any]:
        """The gradients of the parameters and of the input."""
        dy = as_arrays("dy", dy)
        deltas, dx = self.bwd_input(residuals, dy)
        return self.bwd_params(residuals, deltas), dx

    def bwd_input(self, residuals: Residuals, dy) -> tuple[Any, Any]:
        """The deltas, and the gradient of the input.

        A layer that defines only `bwd` computes everything here: its deltas are `dparams`.
        """
        if type(self).bwd is Layer.bwd:
            raise NotImplementedError(f"{type(self).__name__} defines neither bwd nor bwd_input")
        return self.bwd(residuals, dy)

    def bwd_params(self, residuals: Residuals, deltas, weights=None, axis: int = 0) -> Params:
        """The gradient of the parameters, summed over the examples.

        Args:
            residuals: those of `fwd`.
            deltas: those of `bwd_input`.
            weights: optional, one for each example, by which its gradient enters the sum; or a tree
                like the parameters of such arrays.
            axis: the axis of the examples.
        """
        if weights is not None:
            self.bwd_examples(residuals, deltas, axis)  # may raise
        return deltas

    def bwd_examples(self, residuals: Residuals, deltas, axis: int = 0) -> Params:
        """The gradient of each example, in factored form, for each array of the parameters.

        Args:
            residuals: those of `fwd`.
            deltas: those of `bwd_input`.
            axis: the axis of the examples.

        Raises:
            ValueError: the gradient of one example is not defined.
        """
        if jax.tree.leaves(deltas):
            raise ValueError(
                f"{type(self).__name__} does not define bwd_examples, the gradient of each example"
            )
        return deltas

    def squared_norms(self, residuals: Residuals, deltas, axis: int = 0) -> Params:
        """‖gₙ‖² of each example, a tree like the parameters of arrays (N,); see `bwd_examples`."""
        return squared_norms(self.bwd_examples(residuals, deltas, axis))

    def init_state(self) -> State:
        """The state before training."""
        return ()

    def update_state(self, state: State, residuals: Residuals) -> State:
        """The state after a training step."""
        return state

    def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
        """The cache before the first of `length` positions of `batch` sequences."""
        return ()

    def extend(self, params: Params, x, cache) -> tuple[Any, Any]:
        """The output for the next positions, and the cache after them."""
        if self.position_wise:
            return self.apply(params, x), cache
        raise NotImplementedError(
            f"{type(self).__name__} does not define extend, its output position by position"
        )

    def __call__(self, *args, **options):
        """Raises: a layer holds no parameters."""
        name = type(self).__name__
        raise TypeError(
            f"a layer holds no parameters, so {name} cannot be called: params = layer.init(key), "
            "then y = layer.apply(params, x)"
        )

    def __repr__(self) -> str:
        """The constructor's call, without options that have their default value."""
        if not is_dataclass(self):
            return type(self).__name__
        shown = []
        for field in fields(self):
            value = getattr(self, field.name)
            if not field.kw_only:
                shown.append(repr(value))
            elif value != field.default:
                shown.append(f"{field.name}={getattr(value, '__name__', repr(value))}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _choices(annotation) -> tuple:
    """The types of which an annotation is a union."""
    union = get_origin(annotation) in (Union, UnionType)
    kinds = get_args(annotation) if union else (annotation,)
    return tuple(Callable if get_origin(kind) is Callable else kind for kind in kinds)


def _given_options(own):
    """A `__post_init__` after that of `Layer`."""

    @wraps(own)
    def checked(self, *args):
        Layer.__post_init__(self)
        own(self, *args)

    return checked


def _given_arrays(own, first: int):
    """A method whose arguments from this one to the second are trees of JAX arrays."""
    names = [name for name in signature(own).parameters if name != "self"][:2]

    @wraps(own)
    def checked(self, *args, **named):
        try:
            ready = not named and all(map(is_array, jax.tree.leaves(args[first:2])))
        except ValueError:  # JAX cannot sort the keys of a dict
            ready = False
        if not ready:
            try:
                for i, name in enumerate(names[first:], first):
                    if i < len(args):
                        args = (*args[:i], as_arrays(name, args[i]), *args[i + 1 :])
                    elif name in named:
                        named[name] = as_arrays(name, named[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"{type(self).__name__}: {error}") from None
        return own(self, *args, **named)

    return checked


@dataclass(frozen=True, repr=False)
class OpLayer(Layer):
    """An op of one argument as a layer without parameters.

    Attributes:
        op: the op.
    """

    op: Op
    position_wise = True

    def apply(self, params, x, state=None):
        """`op(x)`."""
        if type(params) is not tuple or params:
            self._require_none(params)
        return with_values(x, self.op(values_of(x)))

    def fwd(self, params, x, key=None):
        """`op.fwd(x)`."""
        if type(params) is not tuple or params:
            self._require_none(params)
        y, residuals = self.op.fwd(values_of(x))
        return with_values(x, y), residuals

    def bwd(self, residuals, dy):
        """`op.bwd`; there are no parameters, so no deltas."""
        dx, *_ = self.op.bwd(residuals, dy)
        return (), dx

    def _require_none(self, params) -> None:
        if jax.tree.leaves(params):
            raise ValueError(f"{self.op.__name__} has no parameters, but params has arrays")

    def __repr__(self) -> str:
        return repr(self.op)


class ParametricOpLayer(Layer):
    """The base of layers that are one op `(params, x) -> y`, the attribute `op` of a subclass."""

    op: Op

    def apply(self, params, x, state=None):
        """`op(params, x)`."""
        return with_values(x, self.op(params, values_of(x)))

    def fwd(self, params, x, key=None):
        """`op.fwd(params, x)`."""
        y, residuals = self.op.fwd(params, values_of(x))
        return with_values(x, y), residuals

    bwd = property(attrgetter("op.bwd"))
    bwd_input = property(attrgetter("op.bwd_input"))
    bwd_params = property(attrgetter("op.bwd_params"))
    bwd_examples = property(attrgetter("op.bwd_examples"))


class BuiltLayer(Layer):
    """The base of layers that are built from other layers, the attribute `net` of a subclass."""

    @property
    def net(self) -> Layer:
        """The layer that it is built as."""
        raise NotImplementedError

    @property
    def stateful(self) -> bool:
        """Whether `net` is."""
        return self.net.stateful

    def init(self, key):
        """`net.init`."""
        return self.net.init(key)

    def apply(self, params, x, state=None):
        """`net.apply`."""
        return self.net.apply(params, x, state)

    def fwd(self, params, x, key=None):
        """`net.fwd`."""
        return self.net.fwd(params, x, key)

    def bwd_input(self, residuals, dy):
        """`net.bwd_input`."""
        return self.net.bwd_input(residuals, dy)

    def bwd_params(self, residuals, deltas, weights=None, axis=0):
        """`net.bwd_params`."""
        return self.net.bwd_params(residuals, deltas, weights, axis)

    def bwd_examples(self, residuals, deltas, axis=0):
        """`net.bwd_examples`."""
        return self.net.bwd_examples(residuals, deltas, axis)

    def init_state(self):
        """`net.init_state`."""
        return self.net.init_state()

    def update_state(self, state, residuals):
        """`net.update_state`."""
        return self.net.update_state(state, residuals)

    def init_cache(self, batch, length, dtype=jnp.float32):
        """`net.init_cache`."""
        return self.net.init_cache(batch, length, dtype)

    def extend(self, params, x, cache):
        """`net.extend`."""
        return self.net.extend(params, x, cache)


@dataclass(frozen=True, repr=False)
class FunctionLayer(Layer):
    """A layer from plain functions; see `layer`."""

    functions: tuple[Callable, Callable, Callable, Callable]
    init_state_function: Callable | None = None
    update_state_function: Callable | None = None

    @property
    def stateful(self) -> bool:
        """Whether there is a function that makes a state."""
        return self.init_state_function is not None

    def init(self, key):
        """The first function."""
        return self.functions[0](key)

    def apply(self, params, x, state=None):
        """The second function."""
        return (
            self.functions[1](params, x, state) if self.stateful else self.functions[1](params, x)
        )

    def fwd(self, params, x, key=None):
        """The third function."""
        return self.functions[2](params, x, key)

    def bwd(self, residuals, dy):
        """The fourth function."""
        return self.functions[3](residuals, dy)

    def init_state(self):
        """The state before training."""
        return self.init_state_function() if self.stateful else ()

    def update_state(self, state, residuals):
        """The state after a training step."""
        return self.update_state_function(state, residuals) if self.stateful else state

    def __repr__(self) -> str:
        return f"layer({', '.join(function.__name__ for function in self.functions)})"


def layer(
    init: Callable,
    apply: Callable,
    fwd: Callable,
    bwd: Callable,
    *,
    init_state: Callable | None = None,
    update_state: Callable | None = None,
) -> FunctionLayer:
    """A layer from four functions, or from six if it has a state; see `Layer`.

    Args:
        init: `(key) -> params`.
        apply: `(params, x) -> y`, or `(params, x, state) -> y`.
        fwd: `(params, x, key) -> (y, residuals)`; `key` is `None` unless one is given.
        bwd: `(residuals, dy) -> (dparams, dx)`.
        init_state: `() -> state`.
        update_state: `(state, residuals) -> state`.

    Example:
        >>> scale = jaxnn.layer(
        ...     init=lambda key: {"s": jnp.ones(())},
        ...     apply=lambda params, x: params["s"] * x,
        ...     fwd=lambda params, x, key: (params["s"] * x, (params, x)),
        ...     bwd=lambda kept, dy: ({"s": jnp.vdot(kept[1], dy)}, kept[0]["s"] * dy),
        ... )
        >>> net = jaxnn.serial(scale, jaxnn.relu)
        >>> print(net.apply(net.init(jax.random.key(0)), jnp.array([-1.0, 2.0])))
        [0. 2.]
    """
    return FunctionLayer((init, apply, fwd, bwd), init_state, update_state)


def as_layer(layer: Layer | Op) -> Layer:
    """A layer itself, or an op of one argument as a layer without parameters.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(layer, Layer):
        return layer
    if not isinstance(layer, Op):
        hint = "; call it to make a layer" if callable(layer) else ""
        raise TypeError(f"expected a Layer or an op such as jaxnn.relu, got {layer!r}{hint}")
    if len(layer.required) != 1:
        raise TypeError(
            f"{layer.__name__} takes ({', '.join(layer.required)}); only an op of one argument "
            "can serve as a layer"
        )
    return OpLayer(layer)


def bwd_params_of(layer: Layer, residuals, deltas, weights, axis: int) -> Params:
    """`layer.bwd_params` of a layer that a user may have written without weights."""
    if weights is None:
        return layer.bwd_params(residuals, deltas)
    return layer.bwd_params(residuals, deltas, weights, axis)


def require_sizes(layer: str, **sizes) -> None:
    """Raise unless every size is a positive integer."""
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size < 2**31:
            raise ValueError(f"{layer}: {name} must be a positive integer, got {size!r:.80}")
