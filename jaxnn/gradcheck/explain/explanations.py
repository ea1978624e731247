"""How a wrong gradient differs from the true one, in one sentence."""

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxnn.gradcheck.explain import cotangents, relations
from jaxnn.gradcheck.explain.elementwise import of_elementwise
from jaxnn.gradcheck.explain.evidence import (
    Comparison,
    Evidence,
    Explanation,
    Hypothesis,
    first_that_fits,
)
from jaxnn.gradcheck.explain.losses import of_losses
from jaxnn.gradcheck.explain.networks import of_networks
from jaxnn.gradcheck.explain.normalisation import of_normalisation
from jaxnn.gradcheck.explain.pooling import of_pooling
from jaxnn.gradcheck.explain.products import of_products
from jaxnn.gradcheck.explain.softmax import of_softmax

SAME = 1e-3
SECONDS = 1.5

Stage = Callable[[], Explanation | None]


def explain(mine: np.ndarray, truth: np.ndarray, sizes: dict[str, int]) -> str:
    """Describe a wrong gradient in terms of the true one.

    Args:
        mine: the gradient.
        truth: the true one, of any shape.
        sizes: the sizes that may explain a wrong factor, by their meaning, such as
            `{"the size of axis 0 of x": 64}`.

    Returns:
        The end of a sentence that begins with the gradient's name, or "" if no pattern fits.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck.explain import explain
        >>> explain(np.array([14.0, 21.0]), np.array([2.0, 3.0]), {"the batch size": 7})
        'is 7 × the true gradient everywhere, and 7 is the batch size: the 1/N of a mean is missing'
    """
    comparison = Comparison(mine, truth, Evidence(sizes=sizes, resolution=SAME / 2))
    with np.errstate(all="ignore"):
        if comparison.mine.shape != comparison.truth.shape:
            found = relations.of_another_shape(comparison)
            return found.words if found else ""
        if not comparison.truth.any() or not np.isfinite(comparison.mine).all():
            return ""
        found = relations.scaled(comparison) or first_that_fits(
            comparison, relations.transposed(comparison)
        )
        return found.words if found else relations.fallback(comparison)


def explain_gradient(leaf: str, evidence: Evidence) -> str:
    """Name the mistake in one wrong gradient.

    Args:
        leaf: the path of its argument, a key of `evidence.arrays`.
        evidence: the arrays and functions from which to deduce it.

    Returns:
        The end of a sentence that begins with the gradient's name, with the id of the mistake in
        parentheses if it has one, or "" if nothing is known.

    Example:
        >>> import numpy as np
        >>> from jaxnn.gradcheck.explain import Evidence, explain_gradient
        >>> x, dy = np.array([0.5, -1.0, 2.0]), np.array([1.0, 3.0, -2.0])
        >>> evidence = Evidence(
        ...     arrays={"x": x},
        ...     truths={"x": dy * (1 - np.tanh(x) ** 2)},
        ...     given={"x": dy},
        ...     dy=(dy,),
        ...     y=(np.tanh(x),),
        ... )
        >>> explain_gradient("x", evidence)
        'is dy unchanged: the derivative of tanh is missing (A1)'
    """
    return _explained(leaf, evidence, time.monotonic() + SECONDS)


def _explained(leaf: str, evidence: Evidence, deadline: float) -> str:
    """Like `explain_gradient`, with a deadline."""
    comparison = Comparison(evidence.given[leaf], evidence.truths[leaf], evidence)
    if not np.isfinite(comparison.mine).all() or not comparison.mine.size:
        return ""
    with np.errstate(all="ignore"):
        for stage in _stages(comparison, leaf, evidence, deadline):
            found = stage()
            if found:
                return str(found)
        same_shape = comparison.mine.shape == comparison.truth.shape
        return relations.fallback(comparison) if same_shape and comparison.truth.any() else ""


def explain_all(wrong: Iterable[str], evidence: Evidence) -> dict[str, str]:
    """Name the mistakes in several wrong gradients, including relations between them.

    Args:
        wrong: the paths of their arguments.
        evidence: the arrays and functions from which to deduce them.

    Returns:
        The end of a sentence for each path, as `explain_gradient` gives it.
    """
    wrong = list(wrong)
    found = {}
    for i, one in enumerate(wrong):
        for other in wrong[i + 1 :]:
            if _swapped(one, other, evidence):
                words = f"swapped: d_{one} and d_{other} are exchanged"
                found[one] = f"holds the gradient of {other}, {words}"
                found[other] = f"holds the gradient of {one}, {words}"
    others = [leaf for leaf in wrong if leaf not in found]
    end = time.monotonic() + SECONDS
    for i, leaf in enumerate(others):
        share = (end - time.monotonic()) / (len(others) - i)
        found[leaf] = _explained(leaf, evidence, time.monotonic() + share)
    return {leaf: found[leaf] for leaf in wrong}


def _stages(comparison, leaf, evidence, deadline: float) -> Iterator[Stage]:
    """The explanations to try, the simplest first."""

    def among(*kinds: Iterator[Hypothesis]) -> Stage:
        found = (first_that_fits(comparison, kind, deadline) for kind in kinds)
        return lambda: next(filter(None, found), None)

    if comparison.mine.shape != comparison.truth.shape:
        yield lambda: relations.of_another_shape(comparison)
        yield among(of_products(comparison, leaf, evidence))
        return
    if not comparison.truth.any():
        yield among(relations.where_zero(comparison, evidence))
        return
    multiple = relations.scaled(comparison)
    if multiple and comparison.is_settled_by_multiple:
        yield lambda: multiple
        return
    if multiple:
        comparison = comparison.rivalling_a_multiple()
    yield among(
        cotangents.of_unused_cotangents(leaf, evidence),
        of_losses(leaf, evidence),
        relations.masked(comparison, leaf, evidence),
        of_elementwise(comparison, leaf, evidence),
        of_softmax(comparison, leaf, evidence),
        of_pooling(leaf, evidence),
        of_normalisation(comparison, leaf, evidence),
        relations.of_other_arrays(comparison, leaf, evidence),
    )
    yield lambda: relations.on_a_slice(comparison)
    yield lambda: relations.plus_a_multiple(comparison, leaf, evidence)
    yield among(
        relations.transposed(comparison),
        of_products(comparison, leaf, evidence),
        relations.rearranged(comparison),
        of_networks(comparison, leaf, evidence),
        relations.times_an_array(comparison, leaf, evidence),
        relations.without_a_gradient(evidence),
    )
    yield lambda: relations.partly_masked(comparison, evidence)
    yield among(
        cotangents.at_other_arrays(comparison, leaf, evidence),
        cotangents.of_other_cotangents(leaf, evidence),
    )
    yield lambda: multiple
    yield lambda: first_that_fits(comparison.loosened(), of_losses(leaf, evidence), deadline)
    yield lambda: relations.nearly_scaled(comparison)
    yield lambda: relations.plus_a_constant(comparison)
    yield lambda: relations.clipped(comparison)
    yield lambda: relations.by_rows(comparison)


def _swapped(one, other, evidence) -> bool:
    """Whether each of two leaves holds the other's gradient."""
    pairs = ((one, other), (other, one))
    comparisons = [
        (Comparison(evidence.given[a], evidence.truths[a], evidence), evidence.truths[b])
        for a, b in pairs
    ]
    return all(
        comparison.truth.any() and comparison.fits(truth) for comparison, truth in comparisons
    )
