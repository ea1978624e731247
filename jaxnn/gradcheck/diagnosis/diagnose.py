"""`diagnose`: locate wrong gradients of a network, and name the mistake that produces them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_arrays, as_numpy, as_scalar, require_key, unwrapped
from jaxnn.gradcheck.arrays import cast, same_tree
from jaxnn.gradcheck.diagnosis.graph import Graph, autodiff, float64, graph_of, truth_of, with_steps
from jaxnn.gradcheck.diagnosis.keys import TOLERANCES, Key, Tolerance
from jaxnn.gradcheck.diagnosis.localise import localise
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES
from jaxnn.gradcheck.diagnosis.result import Diagnosis, LeafVerdict, NamedMistake
from jaxnn.gradcheck.diagnosis.search import Explanation, Search
from jaxnn.gradcheck.diagnosis.wording import sentence
from jaxnn.layer import Layer, as_layer
from jaxnn.op import Op
from jaxnn.training.gradient import require_loss
from jaxnn.training.reduction import require_reduction

PERTURBATIONS = 8  # of the arguments, to measure the effect of rounding
COARSEST = 0.05  # the rounding error above which gradients cannot tell mistakes apart


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
    """Check the gradients of a network and, if they are wrong, name the place and the mistake.

    The true gradient is `jax.grad` of the definitions in float64. A mistake is named if it
    reproduces these gradients to the accuracy of their dtype; otherwise only the place is named.

    Args:
        net: a layer, or an op of one argument; combinators such as `serial`, `residual` and
            `parallel` are taken apart, and each step is recognised by its values.
        loss: an op `(prediction, target) -> one value per example`.
        params: the parameters.
        x: the batch.
        target: its targets.
        grads: the gradients to check, a tree like `params`; an array may be missing or have the
            wrong shape.
        reduction: the reduction over the batch, as in `value_and_grad`.
        learning_rate: η, to recognise updates and weights that were updated too early.
        weight_decay: λ of a penalty ½·λ·‖W‖² on each "w".
        previous: the gradients of the previous step, or its batch `(x, target)`.
        key: the random key, for a network with random layers.
        weights: a weight for each example, as in `value_and_grad`.

    Returns:
        The `Diagnosis`.

    Raises:
        TypeError: an argument contains anything but arrays of numbers, `net` or `loss` has the
            wrong type, `learning_rate` or `weight_decay` is not a number, or `key` is not a random
            key.
        ValueError: `grads` has arrays that `params` does not have, or `reduction` is unknown.

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
    mine = _leaves_like(grads, params)
    graph = truth_of(net, loss, params, x, target, reduction, weight_decay, key, weights)
    graph = graph._replace(learning_rate=learning_rate)
    dtype, rounded = _coarsest_dtype(params, grads), None
    if dtype != np.float64:
        gradient = partial(autodiff, net, loss, reduction=reduction, key=key, weights=weights)
        rounded = _rounded(graph, gradient, (params, x, target), dtype)
    if previous is not None:
        graph = _with_previous(graph, previous, net, loss, params, reduction, weight_decay)
    opened = partial(with_steps, graph, net, loss, params, x, key)
    return diagnosis_of(graph, mine, TOLERANCES[dtype.itemsize], rounded, opened)


def diagnosis_of(
    graph: Graph,
    mine: Sequence[np.ndarray | None],
    tolerance: Tolerance,
    rounded: Iterable[list[np.ndarray]] | None = None,
    opened: Callable[[], Graph] | None = None,
) -> Diagnosis:
    """Compare gradients with the truth and, if they are wrong, with the effect of known mistakes.

    Args:
        graph: the graph of the network.
        mine: the leaves of the gradients under test; `None` for a missing one.
        tolerance: the relative errors below which gradients are equal.
        rounded: true gradients with the rounding errors of a coarser dtype: where one exceeds
            the tolerance, twice its error is allowed. They are generated on demand.
        opened: returns the graph with its steps, if this one has none.
    """
    allowed = [tolerance.right] * len(mine)
    leaves = _verdicts(graph, mine, allowed)
    for gradient in rounded or ():
        errors = [graph.error(i, leaf) for i, leaf in enumerate(gradient)]
        pairs = zip(allowed, errors, strict=True)
        allowed = [max(bound, 2 * e if np.isfinite(e) else 0.0) for bound, e in pairs]
        leaves = _verdicts(graph, mine, allowed)
        if all(leaf.ok for leaf in leaves):
            break
    wrong = [i for i, leaf in enumerate(leaves) if not leaf.ok]
    explanations: list[Explanation] = []
    if wrong and max(allowed) <= COARSEST:
        graph = opened() if opened else graph
        with np.errstate(all="ignore"):
            explanations = Search(graph, mine, tolerance, allowed, wrong).explanations()
    mistakes = _mistakes_of(graph, explanations)
    return Diagnosis(leaves, mistakes, localise(graph, wrong), len(explanations) > 1)


def _rounded(graph: Graph, gradient, arguments, dtype) -> Iterator[list[np.ndarray]]:
    """The true gradient in a coarser dtype, then in float64 from rounded arguments.

    Rounding may move an input past a kink, which shows only for some orders of the operations.
    """
    coarse: tuple[Any, Any, Any] = cast(jax.tree.map(jnp.asarray, arguments), dtype)
    yield _decayed(graph, gradient(*coarse))
    random, eps = np.random.default_rng(0), float(jnp.finfo(dtype).eps)

    def moved(leaf):
        if not np.issubdtype(leaf.dtype, np.floating):
            return leaf
        return leaf * (1 + eps * random.uniform(-1, 1, leaf.shape))

    params, x, target = map(float64, arguments)
    for _ in range(PERTURBATIONS):
        yield _decayed(graph, gradient(*jax.tree.map(moved, (params, x)), target))


def _decayed(graph: Graph, gradient) -> list[np.ndarray]:
    leaves = jax.tree.leaves(float64(gradient))
    return [leaf + graph.decay(i) for i, leaf in enumerate(leaves)]


def _verdicts(graph: Graph, mine, allowed) -> list[LeafVerdict]:
    pairs = enumerate(zip(mine, allowed, strict=True))
    return [_verdict(graph, i, leaf, bound) for i, (leaf, bound) in pairs]


def _verdict(graph: Graph, i: int, mine, allowed: float) -> LeafVerdict:
    path, expected = graph.paths[i], graph.truth[i].shape
    if mine is None:
        return LeafVerdict(path, None, expected, np.inf, False)
    error = graph.error(i, mine)
    return LeafVerdict(path, mine.shape, expected, error, error <= allowed)


def _mistakes_of(graph: Graph, explanations: list[Explanation]) -> list[NamedMistake]:
    """The mistakes of all explanations, each once with all its leaves."""
    by_id: dict[str, dict[Key, set[int]]] = {}
    for explanation in explanations:
        for key, positions in explanation.leaves.items():
            by_id.setdefault(key.id, {}).setdefault(key, set()).update(positions)
    alone = {
        key: not any(
            set(positions) & set(others)
            for explanation in explanations
            for other, others in explanation.leaves.items()
            for positions in [explanation.leaves.get(key, [])]
            if other != key
        )
        for keys in by_id.values()
        for key in keys
    }
    named = []
    for identity, keys in by_id.items():
        mistake = MISTAKES[identity]
        positions = sorted(set().union(*keys.values()))
        sentences = [
            sentence(key, [graph.paths[i] for i in sorted(leaves)], graph, alone[key])
            for key, leaves in keys.items()
        ]
        leaves = [graph.paths[i] for i in positions]
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
    """NumPy arrays in the byte order that JAX accepts; float64 stays float64."""
    return jax.tree.map(
        lambda leaf: as_numpy("", leaf) if isinstance(leaf, np.ndarray) else leaf,
        unwrapped("diagnose: params, x, target or grads", tree),
    )


def _leaves_like(grads, params) -> list[np.ndarray | None]:
    """The gradient of each parameter, found by its path; `None` for a missing one."""
    given = _by_path(grads)
    paths = list(_by_path(params))
    unknown = given.keys() - set(paths)
    if unknown or not any(path in given for path in paths):
        got, expected = jax.tree.structure(grads), jax.tree.structure(params)
        raise ValueError(f"diagnose: grads must have the tree of params, {expected}, got {got}")
    return [np.asarray(float64(given[path])) if path in given else None for path in paths]


def _by_path(tree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _with_previous(graph, previous, net, loss, params, reduction, weight_decay) -> Graph:
    if same_tree(previous, params):
        _require_arrays("previous", previous)
        return graph._replace(previous_gradient=jax.tree.leaves(float64(previous)))
    if not isinstance(previous, tuple | list) or len(previous) != 2:
        raise ValueError(
            "diagnose: previous must be the previous gradients, with the tree of params, or the "
            "previous batch (x, target)"
        )
    _require_arrays("previous", previous)
    x, target = previous
    before = graph_of(net, loss, params, x, target, reduction, weight_decay)
    return graph._replace(previous=before, previous_gradient=before.truth)


def _coarsest_dtype(*trees) -> np.dtype:
    dtypes = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(trees)]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, np.floating)]
    return min([np.dtype(np.float64), *floating], key=lambda dtype: dtype.itemsize)
