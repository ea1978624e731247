"""Element-wise functions, recognised by their values, and the mistakes in their derivatives."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations

import numpy as np

from jaxnn.gradcheck.explain.evidence import Arrays, Comparison, Evidence, Hypothesis

Function = Callable[[np.ndarray], np.ndarray]

PROBES = 48
PROBE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Elementwise:
    """An element-wise function.

    Attributes:
        name: its usual name.
        value: the function f.
        slope: its derivative f'.
        formula: the derivative in terms of x.
        of_output: g with f'(x) = g(f(x)), if it exists.
        output_formula: g in terms of y.
        inverse: the inverse of f, if it exists.
        range: the open interval of its values.
    """

    name: str
    value: Function
    slope: Function
    formula: str
    of_output: Function | None = None
    output_formula: str = ""
    inverse: Function | None = None
    range: tuple[float, float] = (-np.inf, np.inf)

    def slope_of_output(self, y: np.ndarray) -> np.ndarray:
        """The derivative computed from the output, for a function with such a formula."""
        assert self.of_output is not None
        return self.of_output(y)

    def takes_output(self, y: np.ndarray) -> bool:
        """Whether an array may hold values of the function."""
        return bool(((y > self.range[0]) & (y < self.range[1])).all())


def of_elementwise(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradients produced by mistakes in an element-wise function.

    The function is the whole forward pass, its first step, or a factor of it.
    """
    x, truth = evidence.arrays.get(leaf), comparison.truth
    if x is None or x.shape != truth.shape or np.iscomplexobj(x) or not truth.any():
        return
    for y, dy in zip(evidence.y, evidence.dy, strict=False):
        if y.shape == x.shape and dy.shape == x.shape and len(evidence.y) == 1:
            yield from _whole(comparison, leaf, evidence)
    if x.size > 2 and comparison.precise:
        yield from _first_step(leaf, x, truth)


def recognise(x: np.ndarray, y: np.ndarray, tolerance: float) -> Elementwise | None:
    """The element-wise function with y = f(x), or `None`."""
    if not y.any():
        return None
    with np.errstate(all="ignore"):
        for function in ELEMENTWISE:
            value = function.value(x)
            if np.isfinite(value).all() and np.linalg.norm(value - y) <= tolerance * np.linalg.norm(
                y
            ):
                return function
    return None


def _whole(comparison, leaf, evidence) -> Iterator[Hypothesis]:
    """y = f(x) throughout."""
    x, y, dy = evidence.arrays[leaf], evidence.y[0], evidence.dy[0]
    function = recognise(x, y, comparison.tolerance)
    alone = sum(array.size > 1 for array in evidence.arrays.values()) == 1
    if not dy.all() or not (function or alone) or not _is_elementwise(comparison, leaf, evidence):
        return
    slope = comparison.truth / dy
    name = function.name if function else "the function"
    yield Hypothesis(dy * 1.0, f"is dy unchanged: the derivative of {name} is missing", "A1")
    yield Hypothesis(dy * y, f"is dy × the value of {name}, instead of its derivative", "A3")
    if function:
        yield from _named_slopes(function, x, y, dy, slope)
    squared = f"contains the derivative of {name} twice (squared)"
    yield Hypothesis(dy * slope**2, squared, "A3")
    complement = f"is dy × (1 minus the derivative of {name}): the complement of the derivative"
    yield Hypothesis(dy * (1 - slope), complement, "A3")
    yield Hypothesis(dy / slope, f"is dy divided by the derivative of {name}, not multiplied", "A3")
    yield Hypothesis(slope, "is the gradient for dy = 1, as if dy were not used")
    yield Hypothesis(dy**2 * slope, "uses dy squared instead of dy")
    yield Hypothesis(np.abs(dy) * slope, "uses the absolute value of dy")
    yield Hypothesis(dy + slope, f"is dy plus the derivative of {name}, not their product")
    masked = (
        "is zero where dy is negative: the mask is taken from the sign of the incoming gradient"
    )
    yield Hypothesis(np.where(dy > 0, dy * slope, 0), masked, "A4")
    if function:
        yield from _other_slopes(function, x, y, dy)
    yield from _expressions(comparison, leaf, function, evidence)


def _is_elementwise(comparison, leaf, evidence) -> bool:
    """Whether one entry of the input moves only one entry of the output."""
    x, y = evidence.arrays[leaf], evidence.y[0]
    if x.size == 1:
        return True
    if evidence.forward is None:
        return recognise(x, y, comparison.tolerance) is not None
    moved = x.copy()
    moved.flat[0] += 0.5
    outputs = evidence.outputs_at({leaf: moved})
    if not outputs or outputs[0].shape != y.shape:
        return False
    same = np.isclose(outputs[0], y, rtol=1e-12, atol=0).ravel()
    return bool(same[1:].all())


def _named_slopes(function, x, y, dy, slope) -> Iterator[Hypothesis]:
    """The derivative at the wrong argument."""
    name = function.name
    if function.of_output is not None:
        wrong = (
            f"{function.output_formula}, written in terms of the output, is applied to the input"
        )
        words = f"evaluates the derivative of {name} at the wrong argument: {wrong}"
        yield Hypothesis(dy * function.of_output(x), words, "A2", True)
    if name in _PIECEWISE:
        return
    at_output = f"evaluates the derivative of {name} at the wrong argument, the output: f'(f(x))"
    yield Hypothesis(dy * function.slope(y), at_output, "A2", True)
    negative = f"contains the derivative of {name} at −x: a minus inside the derivative is wrong"
    yield Hypothesis(dy * function.slope(-x), negative, "A2", True)
    error = f"evaluates the derivative of {name} at dy, not at the input of the forward pass"
    yield Hypothesis(dy * function.slope(dy), error, "A5", True)


def _other_slopes(function, x, y, dy) -> Iterator[Hypothesis]:
    """The derivative of another function."""
    for other in ELEMENTWISE:
        if other.name != function.name:
            words = f"contains the derivative of {other.name}, but the function is {function.name}"
            yield Hypothesis(dy * other.slope(x), words, "A3", True)
            if other.of_output is not None:
                yield Hypothesis(dy * other.of_output(y), words, "A3", True)
        if other.name != function.name and other.name in _STEPS:
            value = f"is dy × {other.name} of the input, but the function is {function.name}"
            yield Hypothesis(dy * other.value(x), value, "A3", True)


def _expressions(comparison, leaf, function, evidence) -> Iterator[Hypothesis]:
    """dy times a short formula of the input, the output, σ, tanh and exp."""
    x, y, dy = evidence.arrays[leaf], evidence.y[0], evidence.dy[0]
    if not comparison.precise or x.size < 2:
        return
    entries = np.random.default_rng(0).permutation(x.size)[:PROBES]
    wanted = (comparison.mine / dy).ravel()[entries]
    output = evidence.output_name
    atoms = {output: y, leaf: x, f"σ({leaf})": _sigmoid(x), f"tanh({leaf})": np.tanh(x)}
    if function and function.name in _ATOMS:
        text, atom = _ATOMS[function.name]
        atoms[text.format(leaf)] = atom(x)
    of = ""
    if function:
        formula = function.formula.replace("x", leaf)
        if function.of_output is not None:
            formula = function.output_formula.replace("y", output)
        of = f", but the derivative of {function.name} is {formula}"
    probes = {name: atom.ravel()[entries] for name, atom in atoms.items()}
    for text, value in _formulas(probes):
        for sign, text_of_sign in ((1, ""), (-1, "−"), (2, "2·"), (0.5, "½·"), (3, "3·")):
            if not np.allclose(sign * value, wanted, rtol=PROBE_TOLERANCE, atol=0):
                continue
            whole = dict(_formulas({name: atom.ravel() for name, atom in atoms.items()}))[text]
            words = f"is dy × {text_of_sign}({text}){of}"
            yield Hypothesis(sign * dy * whole.reshape(x.shape), words, "A3")


def _formulas(atoms) -> Iterator[tuple[str, np.ndarray]]:
    """Short formulas of some arrays."""
    simple: Arrays = {}
    for name, u in atoms.items():
        simple |= {
            name: u,
            f"1 − {name}": 1 - u,
            f"1 + {name}": 1 + u,
            f"{name}²": u**2,
            f"1 − {name}²": 1 - u**2,
            f"1 + {name}²": 1 + u**2,
            f"1/{name}": 1 / u,
            f"√{name}": np.sqrt(u),
            f"exp({name})": np.exp(u),
            f"exp(−{name})": np.exp(-u),
        }
    yield from simple.items()
    for (a, u), (b, v) in combinations_with_replacement(simple.items(), 2):
        yield f"{_grouped(a)}·{_grouped(b)}", u * v
    for a, b in permutations(atoms, 2):
        u, v = atoms[a], atoms[b]
        yield f"{a} + {b}", u + v
        yield f"{a} − {b}", u - v
        yield f"{a} + {b}·(1 − {a})", u + v * (1 - u)
        yield f"{a} + {b}·(1 + {a})", u + v * (1 + u)
        yield f"{a} + {a}·{b}", u + u * v
        yield f"{a} + {b}·(1 − {b})", u + v * (1 - v)
        yield f"{a} + {b}·{a}·(1 + {a})", u + v * u * (1 + u)
        yield f"{a} − {b}·{a}·(1 − {a})", u - v * u * (1 - u)
        yield f"{a} + {b}·{a}²", u + v * u**2
        yield f"{b}·{a}·(1 − {a})", v * u * (1 - u)
        yield f"{b}·(1 − {a}²)", v * (1 - u**2)
        yield f"{a} + {b}·(1 − {a}²)", u + v * (1 - u**2)


def _grouped(text) -> str:
    return f"({text})" if " " in text else text


def _first_step(leaf, x, truth) -> Iterator[Hypothesis]:
    """Mistakes where f(x) is the first step from x, so the true gradient has the factor f'(x)."""
    for function in ELEMENTWISE:
        slope = function.slope(x)
        if function.name not in _STEPS or not np.isfinite(slope).all() or not slope.all():
            continue
        name, without = function.name, truth / slope
        value = f"contains {name}({leaf}) instead of its derivative, {function.formula}"
        yield Hypothesis(without * function.value(x), value.replace("x", leaf), "A3", True)
        words = f"lacks the factor {function.formula}, the derivative of {name} at {leaf}"
        yield Hypothesis(without, words.replace("(x", f"({leaf}"), "A1", True)
        words = f"contains the derivative of {name} at {leaf} twice"
        yield Hypothesis(truth * slope, words, "A3")


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x):
    return np.logaddexp(0, x)


def _normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))


def _normal_density(x):
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _gelu_tanh_parts(x):
    c = math.sqrt(2 / math.pi)
    return np.tanh(c * (x + 0.044715 * x**3)), c * (1 + 3 * 0.044715 * x**2)


def _gelu_tanh(x):
    return 0.5 * x * (1 + _gelu_tanh_parts(x)[0])


def _gelu_tanh_slope(x):
    t, inner = _gelu_tanh_parts(x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner


def _mish(x):
    return x * np.tanh(_softplus(x))


def _mish_slope(x):
    t = np.tanh(_softplus(x))
    return t + x * (1 - t**2) * _sigmoid(x)


def _leaky(slope) -> Elementwise:
    return Elementwise(
        f"leaky ReLU with slope {slope:g}",
        lambda x: np.where(x > 0, x, slope * x),
        lambda x: np.where(x > 0, 1.0, slope),
        f"1 where x > 0 and {slope:g} elsewhere",
    )


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_PIECEWISE = frozenset({"ReLU", "ReLU6", "hard tanh", "hard sigmoid", "the absolute value"})
_STEPS = frozenset({"tanh", "sigmoid", "sin", "cos", "exp", "softplus", "silu (swish)", "gelu"})
_ATOMS: dict[str, tuple[str, Function]] = {
    "gelu": ("Φ({})", _normal_cdf),
    "mish": ("tanh(softplus({}))", lambda x: np.tanh(_softplus(x))),
    "sin": ("cos({})", np.cos),
    "cos": ("sin({})", np.sin),
    "softplus": ("σ(−{})", lambda x: _sigmoid(-x)),
}

ELEMENTWISE = (
    Elementwise(
        "sigmoid",
        _sigmoid,
        lambda x: _sigmoid(x) * _sigmoid(-x),
        "σ(x)·(1 − σ(x))",
        lambda y: y * (1 - y),
        "y·(1 − y)",
        lambda y: np.log(y / (1 - y)),
        (0.0, 1.0),
    ),
    Elementwise(
        "tanh",
        np.tanh,
        lambda x: 1 - np.tanh(x) ** 2,
        "1 − tanh(x)²",
        lambda y: 1 - y**2,
        "1 − y²",
        np.arctanh,
        (-1.0, 1.0),
    ),
    Elementwise(
        "ReLU", lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0, "1 where x > 0 and 0 elsewhere"
    ),
    _leaky(0.01),
    _leaky(0.1),
    _leaky(0.2),
    Elementwise("exp", np.exp, np.exp, "exp(x)", lambda y: y, "y", np.log, (0.0, np.inf)),
    Elementwise("log", np.log, lambda x: 1 / x, "1/x"),
    Elementwise("sin", np.sin, np.cos, "cos(x)"),
    Elementwise("cos", np.cos, lambda x: -np.sin(x), "−sin(x)"),
    Elementwise("the square", np.square, lambda x: 2 * x, "2·x"),
    Elementwise("the cube", lambda x: x**3, lambda x: 3 * x**2, "3·x²"),
    Elementwise(
        "the square root",
        np.sqrt,
        lambda x: 0.5 / np.sqrt(x),
        "1/(2·√x)",
        lambda y: 0.5 / y,
        "1/(2·y)",
        np.square,
        (0.0, np.inf),
    ),
    Elementwise(
        "the reciprocal", lambda x: 1 / x, lambda x: -1 / x**2, "−1/x²", lambda y: -(y**2), "−y²"
    ),
    Elementwise(
        "softplus",
        _softplus,
        _sigmoid,
        "σ(x)",
        lambda y: -np.expm1(-y),
        "1 − exp(−y)",
        lambda y: np.log(np.expm1(y)),
        (0.0, np.inf),
    ),
    Elementwise(
        "silu (swish)",
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
        "σ(x) + x·σ(x)·(1 − σ(x))",
    ),
    Elementwise(
        "gelu",
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _normal_density(x),
        "Φ(x) + x·φ(x)",
    ),
    Elementwise("gelu with tanh", _gelu_tanh, _gelu_tanh_slope, "½·(1 + t) + ½·x·(1 − t²)·u'"),
    Elementwise("mish", _mish, _mish_slope, "t + x·(1 − t²)·σ(x) with t = tanh(softplus(x))"),
    Elementwise(
        "elu",
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.exp(np.minimum(x, 0)),
        "exp(x) where x < 0 and 1 elsewhere",
        lambda y: 1 + np.minimum(y, 0),
        "1 + min(y, 0)",
        lambda y: np.where(y > 0, y, np.log1p(np.minimum(y, 0))),
        (-1.0, np.inf),
    ),
    Elementwise(
        "selu",
        lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: _SELU_SCALE * np.where(x > 0, 1, _SELU_ALPHA * np.exp(np.minimum(x, 0))),
        "λ·α·exp(x) where x < 0 and λ elsewhere",
    ),
    Elementwise(
        "softsign", lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2, "1/(1 + |x|)²"
    ),
    Elementwise("arctan", np.arctan, lambda x: 1 / (1 + x**2), "1/(1 + x²)"),
    Elementwise("sinh", np.sinh, np.cosh, "cosh(x)"),
    Elementwise("cosh", np.cosh, np.sinh, "sinh(x)"),
    Elementwise("tan", np.tan, lambda x: 1 + np.tan(x) ** 2, "1 + tan(x)²"),
    Elementwise(
        "the Gaussian",
        lambda x: np.exp(-(x**2)),
        lambda x: -2 * x * np.exp(-(x**2)),
        "−2·x·exp(−x²)",
    ),
    Elementwise(
        "log-sigmoid",
        lambda x: -_softplus(-x),
        lambda x: _sigmoid(-x),
        "1 − σ(x)",
        lambda y: -np.expm1(y),
        "1 − exp(y)",
        None,
        (-np.inf, 0.0),
    ),
    Elementwise("the absolute value", np.abs, np.sign, "sign(x)"),
    Elementwise(
        "hard tanh",
        lambda x: np.clip(x, -1, 1),
        lambda x: (abs(x) < 1) * 1.0,
        "1 where |x| < 1 and 0 elsewhere",
    ),
    Elementwise(
        "ReLU6",
        lambda x: np.clip(x, 0, 6),
        lambda x: ((x > 0) & (x < 6)) * 1.0,
        "1 where 0 < x < 6 and 0 elsewhere",
    ),
    Elementwise(
        "hard sigmoid",
        lambda x: np.clip(x / 6 + 0.5, 0, 1),
        lambda x: (abs(x) < 3) / 6,
        "1/6 where |x| < 3 and 0 elsewhere",
    ),
    Elementwise(
        "hard swish",
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(abs(x) < 3, x / 3 + 0.5, (x > 0) * 1.0),
        "x/3 + ½ where |x| < 3",
    ),
)
"""The recognised element-wise functions, the most common first."""
