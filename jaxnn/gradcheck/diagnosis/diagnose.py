"""`diagnose`: where gradients of a network are wrong, and which mistake gives these numbers."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_arrays, as_numpy, as_scalar, require_key
from jaxnn.gradcheck.arrays import cast, relative_error, same_tree
from jaxnn.gradcheck.diagnosis.hypotheses import STRUCTURAL
from jaxnn.gradcheck.diagnosis.leaf_mistakes import (
    TOLERANCES,
    Key,
    Tolerance,
    known_constants,
    leaf_mistakes,
    ratio,
)
from jaxnn.gradcheck.diagnosis.localise import localise
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES
from jaxnn.gradcheck.diagnosis.result import Diagnosis, LeafVerdict, NamedMistake
from jaxnn.gradcheck.diagnosis.tape import Gradients, Tape, autodiff, float64, tape_of
from jaxnn.gradcheck.diagnosis.wording import sentence
from jaxnn.layer import Layer, as_layer
from jaxnn.op import Op
from jaxnn.training.gradient import require_loss
from jaxnn.training.reduction import require_reduction

MOST_MISTAKES = 3  # at once, in an explanation that starts from a recomputed gradient
COSTS = {"C8": 1.5, "R1": 1.25}  # a fitted constant counts for more than one mistake
VISIBLE = 1e-8  # the relative error from which a prediction differs from the truth


class Prediction(NamedTuple):
    """The gradients under a mistake, and which leaves it makes wrong.

    Attributes:
        key: the mistake; `None` for the truth.
        gradients: those under the mistake.
        changed: the positions of the leaves that differ from the truth.
    """

    key: Key | None
    gradients: Gradients
    changed: list[int]


class Explanation(NamedTuple):
    """Mistakes that together give the gradients, each with the positions of its leaves."""

    leaves: dict[Key, list[int]]
    cost: float


def diagnose(
    net: Layer | Op,
    loss: Op,
    params,
    x,
    target,
    grads,
    *,
    reduction: str = "mean",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    previous=None,
    key: jax.Array | None = None,
    weights=None,
) -> Diagnosis:
    """Tell whether gradients are right and, if not, where they are wrong and by which mistake.

    The true gradient is `jax.grad` of the definitions in float64. A mistake is named if making it
    gives these gradients, to the accuracy of their dtype; otherwise only the place is named.

    Args:
        net: a layer, or an op of one argument; `serial`s are taken apart into linear layers and
            activations. Mistakes inside a graph of several inputs or outputs are not named.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters.
        x: the batch.
        target: its targets.
        grads: the gradients in question, the tree of params; an array may have a wrong shape.
        reduction: of the losses of the batch, as in `value_and_grad`.
        learning_rate: η, to recognise updates, and weights that were updated too early.
        weight_decay: λ of a penalty ½·λ·‖W‖² on each "w".
        previous: the gradients of the previous step, or its batch `(x, target)`.
        key: of a network with random layers.
        weights: of the examples, as in `value_and_grad`.

    Returns:
        The `Diagnosis`.

    Raises:
        TypeError: an argument holds something other than arrays of numbers, net or loss is none,
            learning_rate or weight_decay is no number, or key is no random key.
        ValueError: grads has another tree than params, or reduction is unknown.

    Example:
        >>> net = jaxnn.mlp((4, 6, 3))
        >>> params = net.init(jax.random.key(0))
        >>> x, labels = jax.random.normal(jax.random.key(1), (5, 4)), jnp.array([0, 2, 1, 1, 0])
        >>> gradient = jaxnn.value_and_grad(net, jaxnn.softmax_cross_entropy)
        >>> _, grads = gradient(params, x, labels)
        >>> wrong = jax.tree.map(lambda g: -g, grads)
        >>> [mistake.name for mistake in
        ...  jaxnn.gradcheck.diagnose(net, jaxnn.softmax_cross_entropy, params, x, labels,
        ...                           wrong).mistakes]
        ['wrong sign']
    """
    require_reduction("diagnose", reduction)
    require_loss(loss)
    net = as_layer(net)
    if key is not None:
        require_key("diagnose", key)
    for name, number in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if number is not None:
            as_scalar(f"diagnose: {name}", number)
    learning_rate = None if learning_rate is None else float(learning_rate)
    weight_decay = None if weight_decay is None else float(weight_decay)
    if weights is not None:
        _require_arrays("weights", weights)
    for name, tree in (("params", params), ("grads", grads), ("x", x), ("target", target)):
        _require_arrays(name, tree)
    params, x, target, grads = map(_in_native_order, (params, x, target, grads))
    _require_tree("grads", grads, params)
    tape = tape_of(net, loss, params, x, target, reduction, weight_decay, key, weights)
    tape = tape._replace(learning_rate=learning_rate)
    if previous is not None:
        tape = _with_previous(tape, previous, net, loss, params, reduction, weight_decay)
    dtype, rounded = _coarsest_dtype(params, grads), None
    if dtype != np.float64:
        coarse: tuple[Any, Any, Any] = cast(jax.tree.map(jnp.asarray, (params, x, target)), dtype)
        rounded = autodiff(net, loss, *coarse, reduction, key, weights)
        rounded = tape.decayed(jax.tree.leaves(float64(rounded)))
    mine = jax.tree.leaves(float64(grads))
    return diagnosis_of(tape, predictions, mine, TOLERANCES[dtype.itemsize], rounded)


def predictions(tape: Tape) -> Iterator[Prediction]:
    """The predictions of all hypotheses that differ from the truth; none without stages."""
    if not tape.stages:
        return
    with np.errstate(all="ignore"):
        for hypothesis in STRUCTURAL:
            for gradients in hypothesis.gradients(tape):
                pairs = zip(gradients.leaves, tape.truth.leaves, strict=True)
                errors = [relative_error(leaf, truth) for leaf, truth in pairs]
                changed = [i for i, error in enumerate(errors) if not error <= VISIBLE]
                if changed:
                    yield Prediction(Key(hypothesis.mistake), gradients, changed)


def diagnosis_of(
    tape: Tape, predict, mine: list[np.ndarray], tolerance: Tolerance, rounded=None
) -> Diagnosis:
    """Compare gradients with the truth and, if they are wrong, with the predicted mistakes.

    Args:
        tape: of the network.
        predict: `predictions`, or something like it.
        mine: the leaves of the gradients in question.
        tolerance: the relative errors below which gradients are equal.
        rounded: the true gradient by autodiff in a coarser dtype: where that is off by more than
            the tolerance, twice its error is allowed.
    """
    truth = tape.truth.leaves
    allowed = [
        max(tolerance.right, 2 * error if np.isfinite(error) else 0.0)
        for error in map(relative_error, rounded or truth, truth)
    ]
    leaves = [
        LeafVerdict(path, m.shape, t.shape, (error := relative_error(m, t)), error <= bound)
        for path, m, t, bound in zip(tape.paths, mine, truth, allowed, strict=True)
    ]
    wrong = [i for i, leaf in enumerate(leaves) if not leaf.ok]
    with np.errstate(all="ignore"):
        explanations = _explain(tape, predict(tape), mine, wrong, tolerance) if wrong else []
    mistakes = _mistakes_of(tape, explanations)
    equivalent = len({frozenset(k.id for k in e.leaves) for e in explanations}) > 1
    return Diagnosis(leaves, mistakes, localise(tape, wrong), equivalent)


def _mistakes_of(tape: Tape, explanations: list[Explanation]) -> list[NamedMistake]:
    """The mistakes of all explanations, each once with all its leaves."""
    by_id: dict[str, dict[Key, set[int]]] = {}
    for explanation in explanations:
        for key, positions in explanation.leaves.items():
            by_id.setdefault(key.id, {}).setdefault(key, set()).update(positions)
    named = []
    for identity, keys in by_id.items():
        mistake = MISTAKES[identity]
        positions = sorted(set().union(*keys.values()))
        sentences = [
            sentence(key, [tape.paths[i] for i in sorted(leaves)], tape)
            for key, leaves in keys.items()
        ]
        leaves = [tape.paths[i] for i in positions]
        named.append(NamedMistake(identity, mistake.name, leaves, " ".join(sentences), mistake.fix))
    return named


def _require_arrays(name, tree):
    as_arrays(f"diagnose: {name}", tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype
        if not any(jnp.issubdtype(dtype, kind) for kind in (np.floating, np.integer)):
            where = name + jax.tree_util.keystr(path)
            raise TypeError(f"diagnose: {where} must be an array of numbers, got {dtype}")


def _in_native_order(tree):
    """The arrays of NumPy in the order of bytes that JAX takes; float64 stays float64."""
    return jax.tree.map(
        lambda leaf: as_numpy("", leaf) if isinstance(leaf, np.ndarray) else leaf, tree
    )


def _require_tree(name, tree, params):
    got, expected = jax.tree.structure(tree), jax.tree.structure(params)
    if got != expected:
        raise ValueError(f"diagnose: {name} must have the tree of params, {expected}, got {got}")


def _with_previous(tape, previous, net, loss, params, reduction, weight_decay) -> Tape:
    if same_tree(previous, params):
        _require_arrays("previous", previous)
        return tape._replace(previous_gradient=jax.tree.leaves(float64(previous)))
    if not isinstance(previous, tuple | list) or len(previous) != 2:
        raise ValueError(
            "diagnose: previous must be the previous gradients, with the tree of params, or the "
            "previous batch (x, target)"
        )
    _require_arrays("previous", previous)
    x, target = previous
    before = tape_of(net, loss, params, x, target, reduction, weight_decay)
    return tape._replace(previous=before, previous_gradient=before.truth.leaves)


def _coarsest_dtype(*trees) -> np.dtype:
    dtypes = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(trees)]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, np.floating)]
    return min([np.dtype(np.float64), *floating], key=lambda dtype: dtype.itemsize)


def _explain(tape: Tape, predicted, mine, wrong, tolerance) -> list[Explanation]:
    """The explanations with the fewest mistakes; none where nothing in the list fits."""
    constants = known_constants(tape)
    truth = Prediction(None, tape.truth, [])
    found = list(_on_top(tape, truth, mine, wrong, constants, tolerance))
    alone: dict[int, dict[frozenset[Key], None]] = {}
    for base in filter(partial(_may_fit, mine), predicted):
        found += _on_top(tape, base, mine, wrong, constants, tolerance)
        for i in set(wrong).intersection(base.changed):
            predicted_leaf = base.gradients.leaves[i]
            if mine[i].size > 1 and relative_error(mine[i], predicted_leaf) <= tolerance.match:
                alone.setdefault(i, {})[frozenset([base.key])] = None
    if not found:
        found = list(_on_top(tape, truth, mine, wrong, constants, tolerance, alone))
    best = min((e.cost for e in found), default=np.inf)
    return [e for e in found if e.cost == best]


def _may_fit(mine, base: Prediction) -> bool:
    """Whether a leaf that the mistake changes is nearly a multiple of its prediction: quickly."""
    for i in base.changed:
        m, predicted = mine[i], base.gradients.leaves[i]
        if m.shape == predicted.shape and m.size > 1:
            dot = abs(np.vdot(m, predicted))
            if dot >= 0.99 * np.sqrt(np.vdot(m, m) * np.vdot(predicted, predicted)):
                return True
    return False


def _on_top(tape, base: Prediction, mine, wrong, constants, tolerance, alone=None):
    """Explain the gradients by a predicted base and further mistakes in single leaves of it.

    The base must show: one leaf at least is a multiple of its prediction and of nothing else.
    `alone` holds, for some leaves, further mistakes that explain that leaf.
    """
    predicted = base.gradients.leaves
    if base.key and not any(
        ratio(mine[i], predicted[i], tape.truth.leaves[i], tolerance) is not None
        for i in base.changed
        if mine[i].size > 1
    ):
        return
    options = {}
    for i in sorted({*wrong, *base.changed}):
        choices = list(leaf_mistakes(tape, base.gradients, i, mine[i], constants, tolerance))
        choices += (alone or {}).get(i, ())
        if not base.key:
            options[i] = [keys for keys in choices if keys]
        elif frozenset() not in choices:
            options[i] = choices
    _drop_unsupported(options, tape)
    if not all(options.values()):
        return
    for chosen in _cover(options):
        leaves = ({base.key: base.changed} if base.key else {}) | chosen
        cost = sum(COSTS.get(key.id, 1) for key in leaves)
        if not base.key or cost <= MOST_MISTAKES:
            yield Explanation(leaves, cost)


def _drop_unsupported(options, tape):
    """A multiple of one or two numbers always fits: it counts where a larger leaf has it too."""
    supported = {tape.weight_decay, -(tape.weight_decay or 0.0)}
    for i, choices in options.items():
        if tape.params[i].size > 2:
            supported |= {k.constant for keys in choices for k in keys if k.id == "R1"}
    for i, choices in options.items():
        if tape.params[i].size <= 2:
            options[i] = [
                keys
                for keys in choices
                if all(k.constant in supported for k in keys if k.id == "R1")
            ]


def _cover(options: dict[int, list[frozenset[Key]]]) -> Iterable[dict[Key, list[int]]]:
    """Choose mistakes for each leaf, few in all; several answers where they are equivalent."""
    remaining = dict(options)
    answers: list[dict[Key, list[int]]] = [{}]
    while remaining:
        covered: dict[frozenset[Key], list[int]] = {}
        for i, choices in remaining.items():
            for keys in choices:
                covered.setdefault(keys, []).append(i)
        best = max(covered, key=lambda keys: (len(covered[keys]), -len(keys)))
        equal = [k for k in covered if len(k) == len(best) and covered[k] == covered[best]]
        answers = [
            answer | {key: sorted(answer.get(key, []) + covered[best]) for key in keys}
            for answer in answers
            for keys in equal
        ]
        remaining = {i: choices for i, choices in remaining.items() if i not in covered[best]}
    return answers
