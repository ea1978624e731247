"""The laws that a backward must obey, each a function from an evaluation to its findings.

An evaluation is a function at one set of arguments. It caches every result, so
all laws together compile little more than one of them. A law returns an empty list if it holds.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.gradcheck.arrays import (
    eps,
    first_index,
    identical,
    is_differentiable,
    masked,
    relative_or_absolute_error,
    representable,
    same_tree,
    short_decimals,
    wide,
)
from jaxnn.gradcheck.laws.compilation import jit
from jaxnn.gradcheck.laws.evaluation import (
    Evaluation,
    as_jax_reads,
    compiled,
    filled,
    in_variables,
    named_leaves,
)
from jaxnn.gradcheck.laws.judgement import judge_gradients, judge_value, slack, terms
from jaxnn.gradcheck.laws.naming import named
from jaxnn.gradcheck.report import Finding, broken, broken_at, in_one_line

LARGE = 1_000_000  # the array size above which vmap is tried on only two examples


def runs(evaluation) -> list[Finding]:
    """`fwd` returns a pair and `bwd` a tuple, without raising."""
    try:
        result = evaluation.forward()
    except Exception as error:
        return [broken("runs", f"fwd raised {in_one_line(error)}")]
    if not isinstance(result, tuple) or len(result) != 2:
        return [broken("runs", f"fwd must return (y, residuals), but it returned {_kind(result)}")]
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(result[0])):
        return [broken("runs", f"the y returned by fwd must be an array, not {_kind(result[0])}")]
    for name, function in _definitions(evaluation.checked):
        try:
            shape = evaluation.shapes(function)
        except Exception as error:
            return [broken("runs", f"{name} raised {in_one_line(error)}")]
        if jax.tree.map(np.shape, result[0]) != shape:
            mine = jax.tree.map(np.shape, result[0])
            message = f"fwd returns y of shape {mine} but {name} returns {shape}"
            return [broken("runs", message)]
    try:
        grads = evaluation.call[1]
    except Exception as error:
        return [broken("runs", f"bwd raised {in_one_line(error)}")]
    expected = len(evaluation.args)
    if not isinstance(grads, tuple | list) or len(grads) != expected:
        got = f"{len(grads)} entries" if isinstance(grads, tuple | list) else _kind(grads)
        message = f"bwd must return a tuple of {expected}, one for each argument, not {got}"
        return [broken("runs", message)]
    return []


def structure(evaluation) -> list[Finding]:
    """Each gradient has its argument's tree, shapes and dtypes, and is `None` for an integer.

    `None` counts as zero, as in JAX. A gradient with the wrong structure is not compared further.
    """
    findings = []
    for name, arg, raw in zip(
        evaluation.checked.arguments, evaluation.args, evaluation.call[1], strict=True
    ):
        findings += _misfits(evaluation, name, arg, raw)
    evaluation.leave_out(finding.leaf for finding in findings)
    return findings


def _misfits(evaluation, name, arg, raw) -> list[Finding]:
    """The faults in the structure of the gradient of one argument."""
    at, grad = partial(broken_at, "structure"), filled(raw, arg)
    if not any(map(is_differentiable, jax.tree.leaves(arg))):
        ignored = evaluation.checked.ignores_integers
        if not ignored and any(is_differentiable(g) for g in jax.tree.leaves(grad)):
            return [at(name, "must be None: the argument has no gradient")]
        return []
    if not same_tree(grad, arg):
        trees = f"{jax.tree.structure(grad)} but the argument has {jax.tree.structure(arg)}"
        return [at(name, f"has the tree {trees}")]
    evaluation.missing |= _missing(name, raw, arg)
    findings = []
    for (leaf, a), g in zip(named_leaves(name, arg), jax.tree.leaves(grad), strict=True):
        if not is_differentiable(a):
            continue
        if np.shape(g) != a.shape:
            hint = _shape_hint(evaluation, leaf, np.asarray(g))
            findings.append(at(leaf, f"has shape {np.shape(g)} but {leaf} has {a.shape}{hint}"))
        elif g.dtype != a.dtype:
            findings.append(at(leaf, f"has dtype {g.dtype} but {leaf} has {a.dtype}"))
    return findings


def finite(evaluation) -> list[Finding]:
    """Value and gradients are finite wherever the true ones are."""
    y, mine = evaluation.call[0], evaluation.gradients(evaluation.dy)
    true = evaluation.truth(evaluation.dy)
    findings = []
    for part, truth in zip(jax.tree.leaves(y), true.y, strict=True):
        if not is_differentiable(part):
            continue
        lost = representable(truth, part.dtype) & ~np.isfinite(wide(part))
        if lost.any():
            findings.append(
                broken("finite", f"the value is not finite at index {first_index(lost)}")
            )
    for (path, leaf), g, t in zip(evaluation.variables, mine, true.grads, strict=True):
        lost = representable(t, leaf.dtype) & ~np.isfinite(wide(g))
        if lost.any():
            findings.append(
                broken_at("finite", path, f"is not finite at index {first_index(lost)}")
            )
    return findings


def value(evaluation) -> list[Finding]:
    """`fwd` returns the value of the definition."""
    return judge_value(evaluation, "fwd", evaluation.call[0])


def gradient(evaluation) -> list[Finding]:
    """Each gradient is that of the definition, for a random cotangent."""
    return judge_gradients(
        "gradient", evaluation, evaluation.dy, evaluation.gradients(evaluation.dy)
    )


def eager(evaluation) -> list[Finding]:
    """Calls without `jit` give the same gradient as compiled ones."""
    if not evaluation.traceable:
        return []
    return judge_gradients(
        "eager",
        evaluation,
        evaluation.dy,
        evaluation.of_variables(as_jax_reads(evaluation.call[1], evaluation.args)),
    )


def export(evaluation) -> list[Finding]:
    """The function that users pass to `jax.grad` has the value and gradient of the definition."""
    if evaluation.checked.exported is None:
        return []
    try:
        pulled_back = _compiled_pulled_back if evaluation.compiles else _pulled_back
        y, grads = pulled_back(evaluation.checked, evaluation.args, evaluation.dy)
    except Exception as error:
        return [broken("export", f"jax.vjp of the function itself raised {in_one_line(error)}")]
    return [
        *judge_value(evaluation, "the function itself", y),
        *judge_gradients("export", evaluation, evaluation.dy, evaluation.of_variables(grads)),
    ]


def one_entry(evaluation) -> list[Finding]:
    """A cotangent on a single entry gives the gradient of that entry."""
    leaves, tree = jax.tree.flatten(evaluation.dy)
    first = next((k for k, leaf in enumerate(leaves) if is_differentiable(leaf)), None)
    if first is None or leaves[first].size < 2:
        return []
    entry = np.random.default_rng(evaluation.seed).integers(leaves[first].size)
    alone = [np.zeros_like(leaf) for leaf in leaves]
    alone[first].reshape(-1)[entry] = np.asarray(leaves[first]).reshape(-1)[entry]
    dy = jax.tree.unflatten(tree, alone)
    return judge_gradients("one_entry", evaluation, dy, evaluation.gradients(dy))


def linearity(evaluation) -> list[Finding]:
    """`bwd` is linear in dy: bwd(0) = 0 and bwd(½g − 2h) = ½·bwd(g) − 2·bwd(h)."""
    g, h = evaluation.dy, evaluation.cotangent(evaluation.call[0], evaluation.seed + 1)
    mixed = jax.tree.map(_mixed, g, h)
    of_zero, of_mixed, of_g, of_h = (
        evaluation.gradients(dy) for dy in (jax.tree.map(np.zeros_like, g), mixed, g, h)
    )
    findings = []
    for (path, _), d0, dm, dg, dh in zip(
        evaluation.variables, of_zero, of_mixed, of_g, of_h, strict=True
    ):
        if np.isfinite(wide(dg)).all() and np.any(wide(d0) != 0):
            findings.append(broken_at("linearity", path, "is not zero for a cotangent of zero"))
            continue
        compared = np.isfinite(wide(dm)) & np.isfinite(wide(dg)) & np.isfinite(wide(dh))
        dm, dg, dh = (masked(d, compared) for d in (dm, dg, dh))
        norm = np.linalg.norm
        off, scale = norm(dm - 0.5 * dg + 2 * dh), 0.5 * norm(dg) + 2 * norm(dh)
        error = off / max(scale, np.finfo(float).tiny)
        if error > slack(evaluation, path, 16):
            message = f"is not linear in dy: for ½g − 2h it is off by {error:.1e} of its norm"
            findings.append(broken_at("linearity", path, message, float(error)))
    return findings


def _mixed(g, h):
    """½g − 2h."""
    return (0.5 * g - 2 * h).astype(g.dtype) if is_differentiable(g) else g


def determinism(evaluation) -> list[Finding]:
    """The same arguments give the same bits."""
    once = evaluation.gradients(evaluation.dy)
    again = evaluation.of_variables(evaluation.backward(evaluation.dy))
    plain = evaluation.of_variables(evaluation.call[1])
    _, residuals = evaluation.checked.fwd(*evaluation.args)
    plain_again = evaluation.of_variables(evaluation.checked.bwd(residuals, evaluation.dy))
    return [
        broken_at("determinism", path, "differs between two calls with the same arguments")
        for (path, _), a, b, c, d in zip(
            evaluation.variables, once, again, plain, plain_again, strict=True
        )
        if not (identical(a, b) and identical(c, d))
    ]


def vmap(evaluation) -> list[Finding]:
    """`vmap` of the backward agrees with calls on one example at a time."""
    if not evaluation.compiles:
        return []
    factors = [(1, 1), (0.5, -1), (0.25, 0.5)]
    if max(leaf.size for _, leaf in evaluation.leaves) > LARGE:
        factors = factors[:2]
    batch = [jax.tree.map(partial(_multiple, factor=f), evaluation.args) for f, _ in factors]
    dys = [jax.tree.map(partial(_multiple, factor=f), evaluation.dy) for _, f in factors]
    stacked = [jax.tree.map(_stacked, *parts) for parts in (batch, dys)]
    try:
        mapped = evaluation.of_variables(_mapped(evaluation.checked, *stacked))
    except Exception as raised:
        message = f"vmap of the backward raised {in_one_line(raised)}"
        if evaluation.checked.keeps_contract:
            return [broken("vmap", message)]
        evaluation.notes.append(message)
        return []
    others = zip(batch[1:], dys[1:], strict=True)
    looped = [
        evaluation.gradients(evaluation.dy),
        *(evaluation.of_variables(compiled(evaluation.checked, *other)[1]) for other in others),
    ]
    findings = []
    for i, (path, _) in enumerate(evaluation.variables):
        expected = np.stack([wide(grads[i]) for grads in looped])
        compared = np.isfinite(expected)
        error = relative_or_absolute_error(masked(mapped[i], compared), masked(expected, compared))
        if not error <= slack(evaluation, path, 64):
            message = f"under vmap is off by {error:.1e} from calls on one example at a time"
            findings.append(broken_at("vmap", path, message, error))
    return findings


def halves(evaluation) -> list[Finding]:
    """`bwd_input` followed by `bwd_params` gives the gradients of `bwd`, up to rounding."""
    if evaluation.checked.halves is None:
        return []
    try:
        by_halves = _by_compiled_halves if evaluation.compiles else _by_halves
        grads = by_halves(evaluation.checked, evaluation.args, evaluation.dy)
        mine = evaluation.of_variables(grads)
        shapes = [np.shape(g) for g in mine]
    except Exception as raised:
        return [broken("halves", f"the halves of the backward raised {in_one_line(raised)}")]
    findings = []
    for (path, _), shape, g, whole in zip(
        evaluation.variables, shapes, mine, evaluation.gradients(evaluation.dy), strict=True
    ):
        if shape != np.shape(whole) or g.dtype != whole.dtype:
            message = f"is {g.dtype}{list(shape)} from the two halves of the backward"
            findings.append(
                broken_at(
                    "halves", path, f"{message} but {whole.dtype}{list(whole.shape)} from bwd"
                )
            )
            continue
        compared = np.isfinite(wide(whole))
        error = relative_or_absolute_error(*(np.where(compared, wide(a), 0) for a in (g, whole)))
        if not error <= slack(evaluation, path, 16):
            message = f"from the two halves of the backward is off by {error:.1e} from that of bwd"
            findings.append(broken_at("halves", path, message, error))
    return findings


def examples(evaluation) -> list[Finding]:
    """The weighted backward is the weighted sum of the gradients of the examples."""
    if evaluation.checked.examples is None:
        return []
    try:
        compare = _compiled_examples if evaluation.compiles else _examples
        compared = compare(evaluation.checked, evaluation.args, evaluation.dy)
    except Exception as raised:
        message = f"the gradient of each example raised {in_one_line(raised)}"
        return [broken("examples", message)]
    if compared is None:
        return []
    sentences = {
        "sum": "with weight 1 for each example is off by {} from that without weights",
        "weighted": "from bwd_params with weights is off by {} from the sum of bwd_examples",
        "norms": "has squared norms that are off by {} from those of the gradients themselves",
    }
    findings = []
    for name, pair in compared._asdict().items():
        named, others = jax.tree_util.tree_leaves_with_path(pair[0]), jax.tree.leaves(pair[1])
        for (path, found), wanted in zip(named, others, strict=True):
            finite = np.isfinite(wide(wanted)) & np.isfinite(wide(found))
            kept = (np.where(finite, wide(a), 0) for a in (found, wanted))
            error = relative_or_absolute_error(*kept)
            bound = 16 * eps(evaluation.dtype) * np.sqrt(terms(evaluation, found))
            if not error <= bound:
                leaf = f"{evaluation.checked.arguments[0]}{jax.tree_util.keystr(path)}"
                message = sentences[name].format(f"{error:.1e}")
                findings.append(broken_at("examples", leaf, message, error))
    return findings


def duality(evaluation) -> list[Finding]:
    """⟨dy, J·ẋ⟩ = ⟨Jᵀ·dy, ẋ⟩: forward mode and reverse mode are transposes of each other."""
    if not _has_both_modes(evaluation):
        return []
    tangents = [
        jnp.asarray(short_decimals(leaf, evaluation.seed + 1 + i))
        for i, (_, leaf) in enumerate(evaluation.variables)
    ]
    try:
        pushed, pulled = _both_modes(evaluation.checked, evaluation.args, tangents, evaluation.dy)
    except Exception as raised:
        return [broken("duality", f"jax.jvp of the function itself raised {in_one_line(raised)}")]
    dy, y_dot, dx, x_dot = (
        np.concatenate([wide(leaf).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (evaluation.dy, pushed, pulled, tangents)
    )
    norm = np.linalg.norm
    scale = max(norm(dy) * norm(y_dot), norm(dx) * norm(x_dot))
    error = float(abs(dy @ y_dot - dx @ x_dot) / scale) if scale else 0.0
    if error <= _duality_tolerance(evaluation):
        return []
    message = (
        "jax.jvp and jax.vjp of the function itself are not transposes of each other: "
        f"⟨dy, J·ẋ⟩ and ⟨Jᵀ·dy, ẋ⟩ differ by {error:.1e} of their norms"
    )
    return [Finding("duality", "", error, message)]


def second_order(evaluation) -> list[Finding]:
    """Differentiating value and gradient once more (reverse over reverse) is right too."""
    if evaluation.checked.exported is None or not evaluation.traceable:
        return []
    of_gradients = [
        short_decimals(leaf, evaluation.seed + i)
        for i, (_, leaf) in enumerate(evaluation.variables)
    ]
    probes = (
        evaluation.cotangent(evaluation.call[0], evaluation.seed + len(of_gradients)),
        of_gradients,
    )
    (ours, ours_dy), (theirs, theirs_dy) = (
        _second(function, evaluation, probes)
        for function in (evaluation.checked.exported, evaluation.checked.definition)
    )
    named = [*(path for path, _ in evaluation.variables), *["dy"] * len(jax.tree.leaves(ours_dy))]
    ours, theirs = [*ours, *jax.tree.leaves(ours_dy)], [*theirs, *jax.tree.leaves(theirs_dy)]
    scale = max([np.abs(wide(t)).max(initial=0) for t in theirs] + [1])
    findings = []
    for path, mine, true in zip(named, ours, theirs, strict=True):
        error = np.abs(wide(mine) - wide(true)).max(initial=0) / scale
        if not error <= 1e7 * eps(evaluation.dtype):
            message = f"the second derivative with respect to {path} is off by {error:.1e}"
            findings.append(Finding("second_order", path, error, message))
    return findings


LAWS: dict[str, Callable[[Evaluation], list[Finding]]] = {
    law.__name__: law
    for law in (
        runs,
        structure,
        finite,
        value,
        gradient,
        linearity,
        determinism,
        one_entry,
        eager,
        halves,
        examples,
        export,
        vmap,
        duality,
        second_order,
    )
}
"""The laws of `check` by name, in the order in which it tries them."""


def _pulled_back(checked, args, dy):
    y, pullback = jax.vjp(checked.exported, *args)
    return y, pullback(dy)


_compiled_pulled_back = jit(_pulled_back, static_argnums=0)


def _by_halves(checked, args, dy):
    _, residuals = checked.fwd(*args)
    return checked.halves(residuals, dy)


def _examples(checked, args, dy):
    _, residuals = checked.fwd(*args)
    return checked.examples(residuals, dy)


_compiled_examples = jit(_examples, static_argnums=0)
_by_compiled_halves = jit(_by_halves, static_argnums=0)


@partial(jit, static_argnums=0)
def _both_modes(checked, args, tangents, dy):
    """J·ẋ and Jᵀ·dy."""
    function, variables = in_variables(checked.exported, args)
    _, pushed = jax.jvp(function, (variables,), (tangents,))
    (pulled,) = jax.vjp(function, variables)[1](dy)
    return pushed, pulled


def _has_both_modes(evaluation) -> bool:
    """Whether forward mode and reverse mode apply, and the numbers are all finite."""
    if not evaluation.checked.has_forward_mode or not evaluation.traceable:
        return False
    true = evaluation.truth(evaluation.dy)
    return all(representable(t, evaluation.dtype).all() for t in (*true.y, *true.grads))


def _duality_tolerance(evaluation) -> float:
    if evaluation.dtype == jnp.float64:
        return 1e-12
    return 64 * eps(evaluation.dtype) * np.sqrt(terms(evaluation, 0.0))


@partial(jit, static_argnums=0)
def _mapped(checked, args, dy):
    def one(args, dy):
        _, residuals = checked.fwd(*args)
        return checked.bwd(residuals, dy)

    return jax.vmap(one)(args, dy)


def _second(function, evaluation, probes):
    """The gradient of ⟨probes, (value, gradient)⟩ with respect to the variables and `dy`."""
    function, variables = in_variables(function, evaluation.args)

    def first(variables, dy):
        y, pullback = jax.vjp(function, variables)
        return y, pullback(dy)[0]

    return jit(lambda variables, dy: jax.vjp(first, variables, dy)[1](probes))(
        variables, evaluation.dy
    )


def _multiple(leaf, factor):
    """A multiple of a leaf that has a gradient, computed by NumPy, so nothing is compiled."""
    return (factor * wide(leaf)).astype(leaf.dtype) if is_differentiable(leaf) else leaf


def _stacked(*leaves):
    return np.stack(leaves) if is_differentiable(leaves[0]) else jnp.stack(leaves)


def _kind(thing) -> str:
    if isinstance(thing, tuple | list):
        return f"a {type(thing).__name__} of {len(thing)}"
    return f"{type(thing).__name__}"


def _shape_hint(evaluation, path, grad) -> str:
    """The remark on a gradient of the wrong shape with the right numbers."""
    i = [name for name, _ in evaluation.variables].index(path)
    known = named(evaluation, i, wide(grad), evaluation.truth(evaluation.dy).grads[i])
    return f": it {known}" if known else ""


def _definitions(checked) -> list[tuple[str, Callable]]:
    """The functions whose shapes `fwd` must match, with their names in messages."""
    own = [] if checked.primal is None else [("the function itself", checked.primal)]
    return [*own, ("the definition", checked.definition)]


def _missing(name, raw, arg) -> set[str]:
    """The paths of the variables whose gradient is `None`."""
    marked = jax.tree.map(
        lambda part, subtree: jax.tree.map(lambda _: part is None, subtree),
        raw,
        arg,
        is_leaf=lambda part: part is None,
    )
    return {path for path, is_none in named_leaves(name, marked) if is_none}
