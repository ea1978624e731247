"""Guessed arguments: the usual shapes, tried until the code runs."""

import ast
import contextlib
import copy
import inspect
import itertools
import random
import re
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.files.discovery import Target
from jaxnn.gradcheck.files.loading import File
from jaxnn.gradcheck.numpy import code
from jaxnn.gradcheck.numpy.evaluation import NumPyEvaluation
from jaxnn.gradcheck.numpy.naming import LABELS
from jaxnn.gradcheck.report import RANKS, Report
from jaxnn.layer import Layer

SEARCH_SECONDS = 3.0  # to find arguments with which a target runs
CHECK_SECONDS = 10.0  # after which no further arguments are tried
MOST_CHECKED = 6
SIZES = {"N": 7, "I": 5, "O": 6, "H": 4, "G": 16, "T": 3, "V": 9}
SIZES |= {"B": 5, "C": 3, "F": 6, "K": 3, "P": 4}  # of images

_INNER = ("H", "T", "C", "F")  # the sizes between the layers of a network with numbered weights


class Guess(NamedTuple):
    """Arguments that may fit.

    Attributes:
        args: the arguments.
        statement: their description, such as "x (7, 5), w (5, 6)".
        labels: the kind of the labels, or "none".
        has_weights: whether they include weights, or an object constructed with sizes.
        has_axes: whether every weight and bias is an array with axes, not a number.
        square: whether layers have as many outputs as inputs.
    """

    args: tuple
    statement: str
    labels: str = "none"
    has_weights: bool = False
    has_axes: bool = True
    square: bool = False


class Convention(NamedTuple):
    """The usual shapes of the arrays of each role, in terms of the names in `SIZES`.

    If `tokens` names a size, the input consists of integers below it. A loss with weights has
    labels of the shape `output`; by default that of the input, with "O" instead of "I".
    """

    input: str
    weight: str
    bias: str
    scale: str = "I"
    hidden: str = "NH"
    from_input: str = "IH"
    from_hidden: str = "HH"
    gates: str = "H"
    tokens: str = ""
    output: str | None = None


CONVENTIONS = (
    Convention("NI", "IO", "O"),
    Convention("IN", "OI", "O1", "I1", "HN", "HI", "HH", "H1"),
    Convention("NI", "OI", "O", from_input="HI"),
    Convention("NI", "IO", "1O", "1I", gates="1H"),
    Convention("NI", "I", "", output="N"),
    Convention("NI", "I1", "", output="N1"),
    Convention("IN", "1I", "", output="1N"),
    Convention("IN", "I1", "", output="1N"),
    Convention("NI", "IO", "O", from_input="IG", from_hidden="HG", gates="G"),
    Convention("NTI", "IO", "O"),
    Convention("NTI", "IO", "O", from_input="IG", from_hidden="HG", gates="G"),
    Convention("BCPP", "FCKK", "F", "C"),
    Convention("BPPC", "KKCF", "F", "C"),
    Convention("BPPC", "KKCF", "111F", "C"),
    Convention("BCP", "FCK", "F", "C"),
    Convention("CPP", "FCKK", "F", "C"),
    Convention("PP", "KK", "", "P"),
    Convention("I", "OI", "O", "I", "H", "HI", "HH"),
    Convention("I", "IO", "O", "I", "H"),
    Convention("I1", "OI", "O1", "I1", "H1", "HI", "HH", "H1"),
    Convention("1I", "IO", "1O", "1I", "1H", "IH", "HH", "1H"),
    Convention("TI", "IO", "O", "I", "H"),
    Convention("I", "I", "", "I"),
    Convention("NT", "VI", "I", tokens="V"),
    Convention("N", "VI", "I", tokens="V"),
    Convention("T", "VI", "I", tokens="V"),
    Convention("", "", "", ""),
)

_LABELLED = sorted(CONVENTIONS, key=lambda c: (c.weight not in ("IO", "I"), len(c.input) > 2))

_ROLES = {
    "key": r"(prng_?)?key|rng(_?key)?",
    "from_hidden": r"w_?h{1,2}|w_?aa|u|w_?rec\w*|recurrent\w*|h2h",
    "from_input": r"w_?xh?|w_?ax|w_?ih|x2h",
    "weight": r"w\d*|weights?_?\d*|kernels?|filters?|theta|w_\w+|embeddings?|table",
    "bias": r"b\d*|b[ahixy]|bias(es)?_?\d*|b_\w+",
    "scale": r"gamma|beta|scale|shift|g",
    "hidden": r"(h|c)_?(prev|0|t|next|old|tm1)?|a_?(prev|0)|prev_?(h|c|state)|hidden\w*|state",
}
_LOSS = re.compile(r"loss|cost|entropy|mse|nll|hinge|huber|criterion|error|bce|svm|mae|kl", re.I)
_PREDICTION = re.compile(r"\w*(pred\w*|hat|prob\w*)|al|p|q|output|yhat", re.I)
_SETTINGS: dict[str, Any] = {
    "strides?": 1,
    "pad(ding)?": 1,
    r"(pool|kernel|filter|window)(_?(size|height|width|h|w))?|size|hh|ww|f|pool_[hw]": 2,
    "mode": "train",
    r"(is_?)?train(ing)?(_fl(a)?g|_mode)?": True,
    r"p|\w*(drop|keep)\w*|rate|prob": 0.5,
    r"eps(ilon)?": 1e-5,
    "seed": 0,
    "momentum": 0.9,
    "axis": -1,
    r"alpha|slope|negative_slope|lr|learning_rate|eta|lam(bda)?_?|reg\w*|l2|\w*decay|lambd": 0.1,
    r"delta|temperature|tau|threshold|margin|gamma": 1.0,
}
_ARGUMENTS = _SETTINGS | {r"eps(ilon)?": 0.01}  # so large that it shows in the gradients
_SIZE_NAMES = {
    r"(n_?|num_?)?(vocab\w*|tokens|embeddings)|num_embeddings": "V",
    r"\w*(hidden|units_h)\w*|hid(_\w+)?|h_?dim|n_?h": "H",
    r"in_?channels?|channels?_in|(n_?|num_?)?channels|depth": "C",
    r"out_?channels?|(n_?|num_?)?filters|channels?_out|f": "F",
    r"(kernel|filter|pool)(_?size)?|k|ks|fh|fw|size_k": "K",
    r"\w*batch\w*": "N",
    r"seq\w*|\w*_?steps?|time\w*": "T",
    r"\w*out\w*|units|neurons|nodes|(n_?|num_?)?class(es)?|m|fan_?out|d_?out|n_?[oy]|width"
    r"|n_?neurons|embed\w*|embedding_dim": "O",
    r"\w*in(puts?)?\w*|fan_?in|(n_?|num_?)?features?|n|dim|d|size|d_?model|normalized_shape"
    r"|n_?x": "I",
}
_LISTS = re.compile(r"(layer_?|hidden_?)?(sizes|dims|dimensions|layers|shape|structure)\w*", re.I)
_ARRAY = re.compile(r"w\d*|b\d*|weights?|bias(es)?|gamma|beta", re.IGNORECASE)
_POOL = re.compile("pool", re.IGNORECASE)
_DICT = re.compile(r"\w*(params?|parameters|config|settings|opts?|options|hparams)", re.I)


class _Unknown(Exception):
    """An argument about which nothing is known."""


class _Plan(NamedTuple):
    """One way to construct arguments: shapes, kinds of values, and a constructor call."""

    convention: Convention
    values: str
    labels: str
    maker: tuple[tuple, dict[str, Any]] | None
    square: bool


def check_at_guesses(target: Target, file: File, seed: int) -> Report | None:
    """Check a target at guessed arguments, which the report states.

    If the code does not run with the first guess, others are tried. They are also tried if it is
    wrong because shapes differ, or for one kind of labels or number of outputs. If it is right for
    some of them, it counts as right, and a note states where it is wrong.

    Args:
        target: the target to check.
        file: its file.
        seed: the random seed.

    Returns:
        The report, or `None` if no suitable arguments were found.
    """
    best: Report | None = None
    wrong_at: list[str] = []
    start = time.monotonic()
    for guess in _for_checks(target, file, seed):
        if best is not None and best.verdict == "WRONG" and not _may_settle(best, guess):
            continue
        if best is not None and guess.square and _loss_raised(best):
            break
        report = target.check(*guess.args, seed=seed)
        if _asks_for_a_loss(report):
            report, guess = _with_a_loss(target, file, guess, seed) or (report, guess)
        report = replace(report, notes=[*report.notes, f"arguments guessed: {guess.statement}"])
        if report.verdict == "WRONG":
            wrong_at.append(f"at {guess.statement} it is wrong: {report.findings[0].message}")
        if best is None or RANKS.index(report.verdict) < RANKS.index(best.verdict):
            best = report
        late = time.monotonic() - start > CHECK_SECONDS
        if best.ok or (late and len(wrong_at) != 1):
            break
    if best is not None and best.ok and wrong_at:
        return replace(best, notes=[*best.notes, wrong_at[0]])
    return best


def _with_a_loss(target, file, guess, seed) -> tuple[Report, Guess] | None:
    """Check with a loss from the same file or object, and with labels for it."""
    tried = []
    returned = jax.tree.leaves(_quietly(_forward(target), *copy.deepcopy(guess.args)))
    output = returned[0] if returned else _stored_output(*guess.args)
    for name, loss in _losses(target, file, guess):
        *before, label = _required(loss) or [""]
        of_object = target.made is not None and getattr(loss, "__self__", None) is guess.args[0]
        if not LABELS.fullmatch(label) or len(before) not in ((0, 1) if of_object else (1,)):
            continue
        for labels in _labels_for(np.shape(output), _label_kinds(_source(loss)), seed):
            report = target.check(*guess.args, loss=loss, seed=seed, **{label: labels})
            said = f"{guess.statement}, loss={name}, {label} {_described(labels)}"
            tried.append((report, guess._replace(statement=said)))
            if report.ok:
                return tried[-1]
    return min(tried, key=lambda pair: RANKS.index(pair[0].verdict), default=None)


def _stored_output(layer, *args) -> np.ndarray:
    """The output that the forward of an object stores and does not return."""
    return NumPyEvaluation(code.NumPyCode(layer, None, args), 0, code.Convention()).outputs[0]


def _losses(target, file, guess) -> Iterator[tuple[str, Any]]:
    """The methods of the object and the functions of the file with the name of a loss."""
    holders = [guess.args[0]] if target.made is not None else []
    for holder in (*holders, file.module):
        for name in dir(holder):
            if _LOSS.search(name) and inspect.isroutine(loss := getattr(holder, name)):
                yield name, loss


def _labels_for(shape, kinds, seed) -> Iterator[np.ndarray]:
    """Labels of the given kinds for an output of this shape."""
    random_numbers = np.random.default_rng(seed)
    for kind in kinds:
        if kind == "real":
            yield random_numbers.normal(size=shape)
        elif kind == "binary":
            yield random_numbers.integers(0, 2, shape).astype(np.float64)
        elif len(shape) == 2:
            rows, columns = shape if kind != "one-hot columns" else shape[::-1]
            labels = random_numbers.integers(0, columns, rows)
            one_hot = np.eye(columns)[labels]
            yield {"integers": labels, "one-hot": one_hot, "one-hot columns": one_hot.T}[kind]


def _for_checks(target, file, seed) -> Iterator[Guess]:
    """A few guesses with different sizes, then one with equal sizes, with which more code runs."""
    yield from itertools.islice(guesses(target, file, seed), MOST_CHECKED)
    yield from itertools.islice(guesses(target, file, seed, square=True), 1)


def _may_settle(report, guess) -> bool:
    """Whether code that is wrong at one guess may be meant for another.

    A single example settles nothing: it hides every factor of 1/N. A loss without weights takes
    real labels of every shape, and is wrong if it is wrong at one, or by a factor of 1/N.
    """
    if _shapes_differ(report) and guess.has_axes:
        return True
    if guess.labels == "none" or any(1 in np.shape(a) for a in jax.tree.leaves(guess.args)):
        return False
    by_count = any("1/N" in finding.message for finding in report.findings)
    return guess.has_weights or not (guess.labels == "real" or by_count)


def guesses(target: Target, file: File, seed: int, square: bool = False) -> Iterator[Guess]:
    """Arguments at which the forward of a target returns finite numbers, likeliest first.

    Args:
        target: the target.
        file: its file, which may contain calls of its constructor.
        seed: the random seed.
        square: whether layers have as many outputs as inputs.
    """
    spent = 0.0
    known: set[str] = set()
    for alternatives in _candidates(target, file, seed, square):
        for guess in alternatives:
            if guess.statement in known:
                continue
            start = time.monotonic()
            runs = _runs(target, guess.args)
            spent += time.monotonic() - start
            if spent > SEARCH_SECONDS:
                return
            if runs:
                known.add(guess.statement)
                yield guess
                break


def _candidates(target, file, seed, square) -> Iterator[Iterator[Guess]]:
    """Groups of arguments, likeliest first; a group has different values of the same shapes."""
    layer = getattr(target.called, "__self__", None)
    if isinstance(layer, Layer):
        yield _inputs_of_layer(layer, seed)
        return
    names = _required(target.called)
    if not names:
        return
    source = _source(target.made or target.called)
    called = getattr(target.called, "__name__", "")
    is_loss = target.is_loss or bool(_LOSS.search(f"{target.name} {called}"))
    labels = [name for name in names[1:] + names[:1] if _is_label(name, names, is_loss)][:1]
    kinds = _label_kinds(source) if labels else ("none",)
    makers = _constructors(target.made, file) if target.made is not None else [None]
    conventions = _LABELLED if labels else CONVENTIONS
    for maker, convention, kind in itertools.product(makers, conventions, kinds):
        plans = (
            _Plan(convention, values, kind, maker, square) for values in _value_kinds(names, source)
        )
        yield _made(target, names, source, labels, plans, seed)


def _made(target, names, source, labels, plans, seed) -> Iterator[Guess]:
    """The arguments constructed from plans, without those that cannot be constructed."""
    for plan in plans:
        with contextlib.suppress(_Unknown):
            yield _Maker(plan, source, labels, seed).guess(target, names)


class _Maker:
    """Constructs the arguments of one plan."""

    def __init__(self, plan, source, labels, seed):
        self.plan, self.source, self.labels = plan, source, labels
        self.random = np.random.default_rng(seed)
        self.sizes = SIZES | ({"O": SIZES["I"], "H": SIZES["I"]} if plan.square else {})
        self.numbered, self.recurrent, self.weighted = [0], False, False
        self.gates: set[str] = set()

    def guess(self, target, names) -> Guess:
        """The arguments, preceded by the object if the target is a class."""
        known = [*names, *(_required(target.made) if target.made is not None else [])]
        self.numbered = sorted({_number(name) for name in [*known, *_keys(self.source)]})
        self.gates = {"v"} if {"x", "w"} <= {*map(str.lower, names)} else set()
        self.recurrent = any(_role(name) == "from_hidden" for name in known)
        self.weighted = len(known) > len(names) or any(_role(n) == "weight" for n in known)
        args: list = []
        said: list[str] = []
        if self.plan.maker is not None:
            args, said = self._object(target.made)
        for name in names:
            value = self._argument(name, first=name == names[0])
            said.append(f"{name} {_described(value)}")
            args.append(_in_jax(value) if target.in_jax else value)
        has_axes = bool(self.plan.convention.bias)
        return Guess(
            tuple(args),
            ", ".join(said),
            self.plan.labels,
            self.weighted,
            has_axes,
            self.plan.square,
        )

    def _object(self, cls) -> tuple[list, list[str]]:
        positional, named = self.plan.maker
        required = _required(cls)[len(positional) :]
        named = named | {name: self._setup(name, cls) for name in required if name not in named}
        sizes = [size for value in positional for size in _integers(value)]
        if sizes:
            self.sizes |= {"I": sizes[0], "C": sizes[0], "V": sizes[0], "O": sizes[-1]}
        try:
            made = _quietly(cls, *copy.deepcopy(positional), **copy.deepcopy(named))
        except (Exception, SystemExit) as error:
            raise _Unknown from error
        said = [*map(_described, positional), *(f"{n}={_described(v)}" for n, v in named.items())]
        return [made], [f"{cls.__name__}({', '.join(said)})"]

    def _setup(self, name, cls) -> Any:
        """An argument of a constructor."""
        if _ARRAY.fullmatch(name):
            return self._array(name, _role(name))
        if _LISTS.fullmatch(name):
            return [self.sizes[letter] for letter in "IHO"]
        letter = _lookup(_SIZE_NAMES, name)
        if _POOL.search(cls.__name__) and (letter == "K" or name in ("size", "window", "n", "f")):
            return 2
        return self.sizes[letter] if letter is not None else _constant(name)

    def _argument(self, name, first) -> Any:
        """An argument of a forward."""
        if name in self.labels:
            return self._labels()
        if _DICT.fullmatch(name):
            return self._dict(name)
        role = "weight" if name in self.gates else _role(name)
        if role == "key":
            return jax.random.key(0)
        constant = _lookup(_ARGUMENTS, name)
        if role is None and not first and constant is not None:
            return constant
        return self._array(name, role or "input")

    def _dict(self, name) -> dict[str, Any]:
        """A dict of parameters or settings, with the keys that the source reads."""
        keys = _keys(self.source, name)
        if not keys:
            raise _Unknown
        roles = {key: _role(key) for key in keys}
        return {
            key: _constant(key) if roles[key] is None else self._array(key, roles[key])
            for key in keys
        }

    def _array(self, name, role) -> Any:
        convention = self.plan.convention
        letters = (
            convention.gates if role == "bias" and self.recurrent else getattr(convention, role)
        )
        shape = self._shape(letters, _number(name))
        if role == "input" and convention.tokens:
            return self.random.integers(0, self.sizes[convention.tokens], shape)
        if role != "input" or self.plan.values == "normal":
            return self.random.normal(size=shape)
        value = self.random.uniform(0.05, 0.95, shape)
        return value / value.sum(-1, keepdims=True) if self.plan.values == "simplex" else value

    def _shape(self, letters, number=0) -> tuple[int, ...]:
        """The shape for its letters; numbered weights form a chain of layers."""
        count = len(self.numbered) - (0 in self.numbered and len(self.numbered) > 1)
        widths = ["I", *_INNER[: count - 1], "O"] if 1 < count <= len(_INNER) + 1 else ["I", "O"]
        layer = max(self.numbered.index(number) - (0 in self.numbered and count > 1), 0)
        if count > 1 and number:
            letters = letters.replace("O", "o").replace("I", widths[layer])
            letters = letters.replace("o", widths[layer + 1])
        return tuple(1 if letter == "1" else self.sizes[letter] for letter in letters)

    def _labels(self) -> np.ndarray:
        """Labels of the plan's kind, one for each example."""
        letters = self.plan.convention.input
        if self.weighted:
            output = self.plan.convention.output
            letters = letters.replace("I", "O") if output is None else output
        shape = self._shape(letters)
        if self.plan.labels == "real":
            return self.random.normal(size=shape)
        if not shape:
            return np.array(1.0)
        if self.plan.labels == "one-hot":
            return np.eye(shape[-1])[self.random.integers(0, shape[-1], shape[:-1])]
        if self.plan.labels == "one-hot columns":
            return np.eye(shape[0])[self.random.integers(0, shape[0], shape[-1])].T
        if self.plan.labels == "integers":
            if len(shape) < 2:
                raise _Unknown
            return self.random.integers(0, shape[-1], shape[:-1])
        return self.random.integers(0, 2, shape[:1]).astype(np.float64)


def _inputs_of_layer(layer, seed) -> Iterator[Guess]:
    """Inputs of a jaxnn layer, inferred from the sizes of its parameters."""
    params = jax.tree.leaves(layer.init(jax.random.key(seed)))
    sizes = dict.fromkeys([size for leaf in params for size in leaf.shape] or [SIZES["I"]])
    for shape in [*((7, size) for size in sizes), *((7, 3, size) for size in sizes)]:
        x = jax.random.normal(jax.random.key(seed), shape)
        yield Guess((x,), f"x {shape}")


def _constructors(cls, file) -> Iterator[tuple[tuple, dict]]:
    """Arguments of a constructor: none, to be guessed by name, then those of calls in the file."""
    yield (), {}
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == cls.__name__:
            with contextlib.suppress(_Unknown):
                values = vars(file.module)
                positional = tuple(_small(_evaluated(arg, values)) for arg in node.args)
                named = {k.arg or "": _small(_evaluated(k.value, values)) for k in node.keywords}
                if positional or named:
                    yield positional, named


def _evaluated(node, values) -> Any:
    """The value of a simple expression: literals, names, and objects constructed from these."""
    match node:
        case ast.Name() if node.id in values:
            return values[node.id]
        case ast.Attribute():
            return getattr(_evaluated(node.value, values), node.attr)
        case ast.List() | ast.Tuple():
            return [_evaluated(part, values) for part in node.elts]
        case ast.Call(keywords=[]) if inspect.isclass(made := values.get(_name(node.func))):
            return _quietly(made, *(_evaluated(arg, values) for arg in node.args))
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise _Unknown from error


def _small(value) -> Any:
    """A value with large sizes replaced by small ones, consistently."""
    if isinstance(value, list):
        return [_small(part) for part in value]
    if isinstance(value, int) and value > 12:
        return 3 + value % 7
    return value


def _runs(target, args) -> bool:
    """Whether the forward of a target runs at these arguments and returns finite numbers."""
    try:
        result = _quietly(_forward(target), *copy.deepcopy(args))
    except (Exception, SystemExit):
        return False
    numbers = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, np.ndarray | float)]
    return all(np.isfinite(leaf).all() for leaf in numbers if np.asarray(leaf).dtype.kind in "fc")


def _forward(target) -> Any:
    """The forward of a target, as a function of all guessed arguments."""
    return target.called.func if target.made is not None else target.called


def _quietly(function, *args, **named) -> Any:
    """The result of the author's code, with its random numbers fixed and without warnings."""
    np.random.seed(0)
    random.seed(0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args, **named)


def _required(function) -> list[str]:
    """The names of the positional parameters that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _role(name) -> str | None:
    return next((role for role, pattern in _ROLES.items() if _full(pattern, name)), None)


def _is_label(name, names, is_loss) -> bool:
    """Whether an argument holds labels: it has such a name, next to a prediction or in a loss."""
    if not LABELS.fullmatch(name) or len(names) < 2:
        return False
    beside = any(_PREDICTION.fullmatch(other) for other in names if other != name)
    return is_loss or beside or len(name) > 1


def _label_kinds(source) -> tuple[str, ...]:
    """The kinds of labels, likeliest first, judging by the source of the loss."""
    if re.search(r"\blog\w*\(|\bexp\(|softmax", source):
        return ("one-hot", "integers", "one-hot columns", "binary")
    return ("real", "integers") if re.search(r"arange|range|eye\(", source) else ("real",)


def _value_kinds(names, source) -> tuple[str, ...]:
    """The kinds of inputs, likeliest first: a logarithm requires probabilities."""
    if any(map(_PREDICTION.fullmatch, names)) and re.search(r"\blog\w*\(", source):
        return ("positive", "simplex", "normal")
    return ("normal", "positive", "simplex")


def _keys(source, name=r"\w+") -> list[str]:
    """The keys that a source reads from a dict of this name, in source order."""
    pattern = rf"\b{name}\s*(?:\[|\.get\(|\.setdefault\()\s*['\"](\w+)['\"]"
    return list(dict.fromkeys(re.findall(pattern, source)))


def _constant(name) -> Any:
    value = _lookup(_SETTINGS, name)
    if value is None:
        raise _Unknown
    return value


def _lookup(table, name) -> Any:
    """The entry of a table whose pattern a name matches, or `None`."""
    return next((value for pattern, value in table.items() if _full(pattern, name)), None)


def _full(pattern, name) -> bool:
    return re.fullmatch(pattern, name, re.IGNORECASE) is not None


def _number(name) -> int:
    """The number at the end of the name of a weight or a bias, or 0."""
    match = re.fullmatch(r"[A-Za-z_]+?_?(\d+)", name)
    return int(match[1]) if match and _role(name) in ("weight", "bias") else 0


def _integers(value) -> list[int]:
    parts = value if isinstance(value, list) else [value]
    return [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]


def _described(value) -> str:
    """The description of an argument in the statement of a guess."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, np.ndarray):
        return f"{value.shape}{_kind(value)}"
    if isinstance(value, str | int | float | list):
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)


def _kind(array) -> str:
    """The kind of labels, which the shape does not show."""
    if array.dtype.kind in "iu":
        return " of integers"
    if not np.isin(array, (0, 1)).all() or not array.ndim:
        return ""
    axes = [axis for axis in range(array.ndim) if (array.sum(axis) == 1).all()]
    return f" one-hot along axis {axes[-1]}" if axes else " of 0 and 1"


def _in_jax(value) -> Any:
    """A value as passed to JAX code: float32 and int32."""
    if not isinstance(value, np.ndarray):
        return value
    return jnp.asarray(value, jnp.float32 if value.dtype.kind == "f" else jnp.int32)


def _source(thing) -> str:
    """The source of a function or a class, or an empty string."""
    try:
        return textwrap.dedent(inspect.getsource(getattr(thing, "func", thing)))
    except (OSError, TypeError, SyntaxError):  # Python parses the file to find a class
        return ""


def _name(node) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _asks_for_a_loss(report) -> bool:
    return any("loss=" in finding.message for finding in report.findings)


def _loss_raised(report) -> bool:
    """Whether the loss of a guess raised, since forward alone runs at each guess."""
    return any(finding.message.startswith("forward raised") for finding in report.findings)


def _shapes_differ(report) -> bool:
    return any("shape" in finding.message for finding in report.findings)
