"""Relations between a wrong gradient and the true one that hold for any function."""

from collections.abc import Iterator
from itertools import permutations

import ml_dtypes
import numpy as np

from jaxnn.gradcheck.explain.axes import broadcasts, on_axes, subsets
from jaxnn.gradcheck.explain.evidence import Comparison, Evidence, Explanation, Hypothesis

MOST_SHIFTS = 16
MOST_CASES = 3  # up to this many factors may be the cases of a function such as leaky ReLU
Words = Explanation


def of_another_shape(comparison: Comparison) -> Words | None:
    """Explain a gradient whose shape is not its argument's."""
    mine, truth = comparison.mine, comparison.truth
    alike = comparison.alike
    if mine.shape == truth.shape[::-1] and alike(mine.T, truth):
        return Words("is the transpose of the true gradient", "S1")
    for axes in subsets(mine.ndim):
        summed = mine.sum(axes)
        if summed.shape == truth.shape and alike(summed, truth):
            return _unsummed(mine, axes)
        kept = mine.sum(axes, keepdims=True)
        if kept.shape == truth.shape and alike(kept, truth):
            return _unsummed(mine, axes)
    if mine.size == truth.size:
        if alike(mine.ravel(), truth.ravel()):
            return _reshaped(mine, truth)
        factor = np.vdot(truth, mine).real / np.vdot(truth, truth).real if truth.any() else 0.0
        if alike(mine.ravel(), factor * truth.ravel()) and (found := comparison.constant(factor)):
            return Words(
                f"has the wrong shape and is {factor:.3g} × the true gradient{found.remark}"
            )
    if mine.size == 1 and alike(mine.ravel()[0], truth.sum()):
        return Words("is summed over everything", "S3")
    for axis in range(truth.ndim):
        for keepdims in (False, True):
            if alike(mine, truth.sum(axis, keepdims=keepdims)):
                return Words(f"is also summed over axis {axis} of the argument", "S3")
            if alike(mine, truth.mean(axis, keepdims=keepdims)):
                return Words(f"is also averaged over axis {axis} of the argument", "S3")
    return None


def scaled(comparison: Comparison) -> Words | None:
    """Explain a constant multiple of the true gradient, and a gradient of zeros."""
    mine, truth = comparison.mine, comparison.truth
    if not mine.any():
        return Words("is zero everywhere: it was never computed, or the path to it is cut", "Z1")
    c = np.vdot(truth, mine) / np.vdot(truth, truth)
    if truth.size > 1 and not comparison.fits(c * truth):
        return None
    if abs(c.imag) > comparison.tolerance * abs(c):
        return Words(f"is {complex(c):.3g} × the true gradient everywhere")
    factor = float(c.real)
    constant = comparison.constant(factor)
    if constant is not None and constant.value == -1:
        return Words(
            "is the true gradient with the opposite sign: a difference is the wrong way round",
            "C1",
        )
    if truth.size == 1 and (constant is None or comparison.tolerance > 1e-3):
        return None
    everywhere = " everywhere" if truth.size > 1 else ""
    times = f"is {factor:.3g} × the true gradient{everywhere}"
    return Words(times + constant.remark, constant.mistake) if constant else Words(times)


def where_zero(comparison: Comparison, evidence: Evidence) -> Iterator[Hypothesis]:
    """The cotangent, passed on although the true gradient is zero everywhere."""
    for i, dy in enumerate(evidence.dy):
        name = _cotangent(evidence, i)
        yield Hypothesis(dy, f"is {name} although the true gradient is zero everywhere")


def transposed(comparison: Comparison) -> Iterator[Hypothesis]:
    """The true gradient transposed or conjugated."""
    truth = comparison.truth
    if np.iscomplexobj(truth):
        yield Hypothesis(truth.conj(), "is the complex conjugate of the true gradient", "", True)
    if truth.ndim == 2 and truth.shape[0] == truth.shape[1]:
        yield Hypothesis(truth.T, "is the transpose of the true gradient", "S1", True)


def nearly_scaled(comparison: Comparison) -> Words | None:
    """Explain a constant multiple slightly perturbed by a guard, such as ε in log(p + ε)."""
    if comparison.mine.size < 3:
        return None
    found = scaled(comparison.loosened())
    if found is None or not found.mistake:
        return None
    return Words(f"{found.words} (up to the guard, a small number such as ε)", found.mistake)


def rearranged(comparison: Comparison) -> Iterator[Hypothesis]:
    """The true gradient with its entries in another order, averaged or rounded."""
    truth = comparison.truth
    for axes in permutations(range(truth.ndim)) if 2 < truth.ndim < 6 else ():
        if axes != tuple(range(truth.ndim)):
            words = f"has the axes of the true gradient in another order, {axes}"
            yield Hypothesis(truth.transpose(axes), words, "S1", True)
    for axes in subsets(truth.ndim):
        along = on_axes(axes)
        words = f"is the true gradient reversed along {along}: the order there is wrong"
        yield Hypothesis(np.flip(truth, axes), words, "", True)
    for axis, size in enumerate(truth.shape):
        for shift in range(1, min(size, MOST_SHIFTS)):
            yield from _shifted(truth, axis, shift)
            yield from _shifted(truth, axis, -shift)
        if size > 1:
            yield from _mixed(truth, axis)
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float32):
        rounded = truth.astype(dtype).astype(np.float64) if not np.iscomplexobj(truth) else truth
        yield Hypothesis(rounded, f"is the true gradient rounded to {np.dtype(dtype).name}")


def on_a_slice(comparison: Comparison) -> Words | None:
    """Explain a gradient that is right in some rows and zero in the others."""
    mine, truth = comparison.mine, comparison.truth
    for axis in range(truth.ndim):
        if truth.shape[axis] < 2:
            continue
        others = tuple(a for a in range(truth.ndim) if a != axis)
        empty = ~mine.any(axis=others) & truth.any(axis=others)
        if not empty.any() or empty.all():
            continue
        if comparison.fits(np.where(np.expand_dims(empty, others), 0, truth)):
            return Words(
                f"is right at {_indices(~empty)} of axis {axis} and zero at {_indices(empty)}", "Z3"
            )
        kept = np.where(np.expand_dims(empty, others), 0, truth)
        c = np.vdot(kept, mine).real / np.vdot(kept, kept).real
        if comparison.fits(c * kept) and (found := comparison.constant(c)):
            return Words(
                f"is zero at {_indices(empty)} of axis {axis} and {c:.3g} × the true gradient "
                f"elsewhere{found.remark}",
                "Z3",
            )
    return None


def of_other_arrays(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The gradient of another argument, and the true one plus a multiple of an array."""
    for other, truth in evidence.truths.items():
        if other == leaf:
            continue
        words = f"holds the gradient of {other}, another argument"
        yield Hypothesis(truth, words, "", True)
        if truth.ndim == 2:
            words = f"holds the transposed gradient of {other}, another argument"
            yield Hypothesis(truth.T, words, "", True)
    truth = comparison.truth
    for other, array in evidence.truths.items():
        if other != leaf and array.shape == truth.shape:
            words = f"has the gradient of {other} added to its own"
            yield Hypothesis(truth + array, words)
            yield Hypothesis(truth - array, f"has the gradient of {other} subtracted from its own")


def without_a_gradient(evidence: Evidence) -> Iterator[Hypothesis]:
    """A cotangent, an output or an argument instead of a gradient."""
    for i, dy in enumerate(evidence.dy):
        yield Hypothesis(dy, f"is {_cotangent(evidence, i)} unchanged", "", True)
    for i, y in enumerate(evidence.y):
        yield Hypothesis(y, f"is {_output(evidence, i)} itself, which is not a gradient", "", True)
    for other, array in evidence.arrays.items():
        yield Hypothesis(array, f"is {other} itself, which is not a gradient", "", True)


def plus_a_multiple(comparison: Comparison, leaf: str, evidence: Evidence) -> Words | None:
    """Explain a gradient that differs from the true one by a multiple of an array."""
    difference = comparison.mine - comparison.truth
    named = {leaf: evidence.arrays[leaf]} if leaf in evidence.arrays else {}
    named |= evidence.arrays | evidence.others
    named |= {_output(evidence, i): y for i, y in enumerate(evidence.y)}
    named |= {f"the cotangent of {_output(evidence, i)}": dy for i, dy in enumerate(evidence.dy)}
    for name, array in named.items():
        if (
            array.shape != difference.shape
            or array.size < 2
            or not np.issubdtype(array.dtype, np.inexact)
        ):
            continue
        forms = {name: array}
        if name == leaf and array.min() < 0 < array.max():
            forms[f"sign({name})"] = np.sign(array)
        for words, form in forms.items():
            c = _multiple(comparison, difference, form)
            if c is not None:
                return _penalty(c, words, leaf, evidence) if name == leaf else _added(c, words)
    return None


def plus_a_constant(comparison: Comparison) -> Words | None:
    """Explain a gradient that differs from the true one by the same number everywhere."""
    difference = comparison.mine - comparison.truth
    c = _multiple(comparison, difference, np.ones_like(difference))
    return None if c is None else Words(f"is {c:.4g} more than the true gradient at every entry")


def masked(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The true gradient, or the cotangent, under another mask."""
    truth = comparison.truth
    for i, dy in enumerate(evidence.dy):
        if dy.shape != truth.shape or dy.size < 2:
            continue
        name = _cotangent(evidence, i)
        allowed = truth != 0
        if allowed.all():
            yield from _masked_by_sign(truth, dy)
            continue
        incoming = "the mask is taken from the sign of the incoming gradient, not of the input"
        scale = _ratio(truth, dy, comparison.tolerance)
        if scale is None:
            yield from _masked_by_sign(truth, dy)
            continue
        yield Hypothesis(scale * dy * (dy > 0), f"is {name} where it is positive: {incoming}", "A4")
        yield Hypothesis(
            np.where(dy > 0, truth, 0), f"is zero where {name} is negative: {incoming}", "A4"
        )
        yield Hypothesis(
            scale * np.where(allowed, 0, dy),
            "is nonzero exactly where the true gradient is zero: the mask is inverted (the wrong "
            "way round)",
            "A3",
        )
        yield Hypothesis(
            scale * dy,
            f"is {_times(scale)}{name} everywhere and lets the gradient through where the true one "
            "is zero: the mask, which is the activation's derivative, is missing",
            "A1",
        )
        if abs(scale - 1) > comparison.tolerance:
            yield Hypothesis(
                dy * 1.0,
                f"is {name} everywhere: the mask and its factor {scale:.3g} are missing",
                "A1",
            )
    array = evidence.arrays.get(leaf)
    if array is not None and array.shape == truth.shape and truth.size > 1:
        for mask, words in ((array > 0, "positive"), (array < 0, "negative")):
            yield Hypothesis(
                np.where(mask, truth, 0),
                f"is right where {leaf} is {words} and zero elsewhere: there is one mask too many",
            )


def partly_masked(comparison: Comparison, evidence: Evidence) -> Words | None:
    """Explain a mask that lets too much or too little through."""
    mine, truth = comparison.mine, comparison.truth
    if mine.size < 3:
        return None
    extra, lacking = (truth == 0) & (mine != 0), (truth != 0) & (mine == 0)
    right = ~extra & ~lacking
    if not truth[right].any() or not comparison.alike(mine[right], truth[right]):
        return None
    if not comparison.precise and np.count_nonzero(truth[right]) < 3:
        return None
    if extra.any() and not lacking.any():
        return Words(
            f"lets the gradient through at {extra.sum()} of {extra.size} entries where the true "
            f"one is zero, the first at index {_first(extra)}, and is right at all others: the "
            "mask lets too much through"
        )
    if lacking.any() and not extra.any():
        return Words(
            f"is zero at {lacking.sum()} of {lacking.size} entries where the true one is not, the "
            f"first at index {_first(lacking)}, and right at all others"
        )
    if extra.any() and any(
        _is_masked(evidence, array, comparison.tolerance) for array in (mine, truth)
    ):
        return Words(
            f"has a different mask from the true gradient: {extra.sum()} entries should be zero "
            f"and are not, and {lacking.sum()} are zero and should not be, as if the mask were "
            "drawn anew"
        )
    return None


def times_an_array(comparison: Comparison, leaf: str, evidence: Evidence) -> Iterator[Hypothesis]:
    """The true gradient multiplied or divided by a known array."""
    truth = comparison.truth
    factors = dict(_factors(leaf, evidence, truth.shape))
    telling = _distinct_ratios(comparison) > MOST_CASES
    for name, factor in factors.items():
        once = f"is the true gradient × {name}"
        yield Hypothesis(truth * factor, f"{once}: that factor is superfluous", "", telling)
    for name, factor in factors.items():
        lacks = f"lacks the factor {name}: it is the true gradient divided by it"
        yield Hypothesis(truth / factor, lacks, "", telling)
    for (one, a), (two, b) in permutations(factors.items(), 2):
        if telling and len(factors) <= 40:
            words = f"has the factor {one} instead of {two}"
            yield Hypothesis(truth * a / b, words, "", True)


def clipped(comparison: Comparison) -> Words | None:
    """Explain a true gradient whose entries or whose norm are clipped."""
    mine, truth = comparison.mine, comparison.truth
    if np.iscomplexobj(mine) or mine.size < 3:
        return None
    low, high = mine.min(), mine.max()
    if not comparison.fits(np.clip(truth, low, high)):
        return None
    at_bounds = (truth < low).sum(), (truth > high).sum()
    if sum(at_bounds) < 2 or sum(at_bounds) == mine.size:
        return None
    bounds = [f"{b:.4g}" for b, count in zip((low, high), at_bounds, strict=True) if count]
    return Words(f"is the true gradient clipped at {' and '.join(bounds)}")


def by_rows(comparison: Comparison) -> Words | None:
    """Explain a true gradient with a different factor in each row or column."""
    mine, truth = comparison.mine, comparison.truth
    if not comparison.precise:
        return None
    for axis in range(truth.ndim):
        others = tuple(a for a in range(truth.ndim) if a != axis)
        square = (abs(truth) ** 2).sum(others)
        if mine.size < 2 * truth.shape[axis] or not square.all():
            continue
        c = (truth.conj() * mine).sum(others) / square
        if comparison.fits(truth * np.expand_dims(c, others)):
            some = ", ".join(f"{factor:.3g}" for factor in c[:3]) + (", …" if c.size > 3 else "")
            return Words(
                f"is the true gradient with a different factor at each index of axis {axis}: {some}"
            )
    return None


def fallback(comparison: Comparison) -> str:
    """Describe a wrong gradient whose cause is unknown."""
    mine, truth = comparison.mine, comparison.truth
    scale = max(np.abs(truth).max(initial=0), np.abs(mine).max(initial=0))
    wrong = np.abs(mine - truth) > comparison.tolerance * scale
    if 0 < wrong.mean() <= 0.5:
        zero = " and zero there" if not mine[wrong].any() else ""
        where = f"at {wrong.sum()} of {wrong.size} entries, the first at index {_first(wrong)}"
        return f"is wrong{zero} {where}"
    norms = np.linalg.norm(mine) * np.linalg.norm(truth)
    if not norms:
        return ""
    if mine.size == 1:
        return f"is {(mine / truth).ravel()[0]:.3g} × the true gradient"
    cosine = np.vdot(truth, mine).real / norms
    if cosine > 0.995:
        size = np.linalg.norm(mine) / np.linalg.norm(truth)
        off = f"is off by {np.linalg.norm(mine - truth) / np.linalg.norm(truth):.1e} of its norm"
        return off if abs(size - 1) < 0.05 else f"{off} and {size:.3g} × as large as the true one"
    return f"points in another direction: its cosine with the true gradient is {cosine:.2f}"


def _unsummed(mine, axes) -> Words:
    listed = on_axes(axes)
    if all(mine.shape[axis] == 1 for axis in axes):
        return Words(f"has the right numbers, but keeps {listed} after the sum (keepdims)", "S4")
    return Words(
        f"is not summed over {listed}: all entries there share one value of the argument", "S2"
    )


def _reshaped(mine, truth) -> Words:
    if mine.ndim < truth.ndim:
        return Words("has the right numbers, but lacks the argument's axes of size 1")
    return Words("has the right numbers in another shape")


def _shifted(truth, axis, shift) -> Iterator[Hypothesis]:
    yield Hypothesis(
        np.roll(truth, shift, axis), f"is the true gradient rolled by {shift} along axis {axis}"
    )
    moved = np.roll(truth, shift, axis)
    gap = slice(None, shift) if shift > 0 else slice(shift, None)
    moved[(slice(None),) * axis + (gap,)] = 0
    words = f"is the true gradient shifted by {shift} along axis {axis}, with zeros in the gap"
    yield Hypothesis(moved, words)


def _mixed(truth, axis) -> Iterator[Hypothesis]:
    size = truth.shape[axis]
    mean = np.broadcast_to(truth.mean(axis, keepdims=True), truth.shape)
    yield Hypothesis(
        truth - mean,
        f"is the true gradient minus its mean over axis {axis}, which does not belong here",
    )
    yield Hypothesis(
        mean, f"is the mean of the true gradient over axis {axis}, spread over it", "S3"
    )
    summed = f"is summed over axis {axis} and spread over it"
    if truth.ndim == 1:
        summed = "is summed over everything and spread over the entries"
    yield Hypothesis(size * mean, summed, "S3", True)
    if truth.ndim > 1 and axis == 0:
        everything = "is summed over everything and spread over the entries"
        yield Hypothesis(np.full_like(truth, truth.sum()), everything, "S3", True)
    yield Hypothesis(np.cumsum(truth, axis), f"is summed cumulatively along axis {axis}")
    norm = np.linalg.norm(truth, axis=axis, keepdims=True)
    yield Hypothesis(truth / norm, f"is the true gradient divided by its norm along axis {axis}")
    if axis == 0 and not np.iscomplexobj(truth):
        yield Hypothesis(np.sign(truth), "has only the signs of the true gradient", "", True)
        yield Hypothesis(np.abs(truth), "is the absolute value of the true gradient", "", True)
        yield Hypothesis(np.maximum(truth, 0), "lacks the negative part of the true gradient")
        yield Hypothesis(truth**2, "is the square of the true gradient", "", True)


def _distinct_ratios(comparison) -> int:
    """The number of distinct ratios between a gradient and the true one."""
    kept = comparison.truth != 0
    ratios = comparison.mine[kept] / comparison.truth[kept]
    return len(np.unique(np.round(ratios / np.abs(ratios).max(initial=0), 4)))


def _masked_by_sign(truth, dy) -> Iterator[Hypothesis]:
    incoming = "the mask is taken from the sign of the incoming gradient"
    yield Hypothesis(np.where(dy > 0, truth, 0), f"is zero where dy is negative: {incoming}", "A4")


def _is_masked(evidence, gradient, tolerance) -> bool:
    """Whether a gradient is a multiple of a cotangent at each entry that is not zero."""
    return any(
        dy.shape == gradient.shape and _ratio(gradient, dy, tolerance) is not None
        for dy in evidence.dy
    )


def _ratio(gradient, dy, tolerance) -> float | None:
    """c with gradient = c·dy wherever the gradient is not zero, or `None`."""
    kept = gradient != 0
    if not kept.any() or not dy[kept].all():
        return None
    ratios = gradient[kept] / dy[kept]
    return float(ratios[0]) if np.allclose(ratios, ratios[0], rtol=4 * tolerance) else None


def _factors(leaf, evidence, shape) -> Iterator[tuple[str, np.ndarray]]:
    """Known arrays, and simple functions of them, that broadcast to a shape."""
    named = evidence.arrays | {k: v for k, v in evidence.others.items() if v.dtype.kind in "fiub"}
    outputs = {_output(evidence, i): y for i, y in enumerate(evidence.y)}
    incoming = {_cotangent(evidence, i): dy for i, dy in enumerate(evidence.dy)}
    for name, array in (named | outputs | incoming).items():
        array = array.astype(np.float64) if array.dtype.kind in "iub" else array
        if array.size < 2 or not broadcasts(array.shape, shape):
            continue
        yield name, array
        if not array.any() or np.iscomplexobj(array):
            continue
        yield f"{name}²", array**2
        yield f"sign({name})", np.sign(array)
        if name in outputs or name == leaf:
            yield f"(1 − {name})", 1 - array
            yield f"(1 − {name}²)", 1 - array**2
            yield f"{name}·(1 − {name})", array * (1 - array)


def _penalty(c, words, leaf, evidence) -> Words:
    """Describe a difference that is a multiple of the parameter itself."""
    differs = f"differs from the true gradient by {c:.4g} × {words}"
    if words != leaf:
        sign = "subtracted, or the one in the loss is missing" if c < 0 else "added"
        return Words(f"{differs}: an L1 penalty term is {sign}", "R1")
    meaning = _meaning_of_decay(c, leaf, evidence)
    for name, value in evidence.options.items():
        for multiple, number in ((1, ""), (2, "2 × "), (0.5, "½ × ")):
            if value and abs(abs(c) - multiple * abs(value)) <= 1e-3 * abs(c):
                return Words(
                    f"{differs}, which is {'−' * (c < 0)}{number}{name} × {words}: {meaning}", "R1"
                )
    return Words(f"{differs}: {meaning}", "R1")


def _meaning_of_decay(c, leaf, evidence) -> str:
    true = _decay(leaf, evidence)
    term = "the L2 penalty term (weight decay)"
    if true is None and any(y.size > 1 for y in evidence.y):
        return "it contains a multiple of the parameter, as weight decay does"
    if true is None:
        return f"{term} is missing, or a part of it" if c < 0 else f"{term} is too large"
    if true == 0:
        return "its L2 penalty term (weight decay) does not match the loss"
    meanings = {
        -1.0: f"{term} is missing",
        -0.5: f"half of {term} is missing, such as the 2 of (W²)' = 2·W",
        1.0: f"{term} is twice as large as it should be: it is added twice, or a ½ is missing",
        -2.0: f"{term} has the wrong sign",
    }
    for ratio, meaning in meanings.items():
        if abs(c / true - ratio) <= 1e-3:
            return meaning
    return f"{term} should be {true:.4g} × {leaf}"


def _decay(leaf, evidence) -> float | None:
    """λ where the loss has the term ½·λ·‖W‖², measured with all other arrays set to zero."""
    weights = evidence.arrays[leaf]
    zeros = {path: np.zeros_like(array) for path, array in evidence.arrays.items()}
    losses = [evidence.outputs_at(zeros | {leaf: s * weights}) for s in (0.0, 1.0, 2.0)]
    if not all(len(loss) == 1 and loss[0].size == 1 for loss in losses):
        return None
    at_zero, once, twice = (float(loss[0].ravel()[0]) for loss in losses)
    rise = once - at_zero
    if not np.isfinite(rise) or abs(twice - at_zero - 4 * rise) > 1e-6 * abs(twice):
        return None
    return 2 * rise / float(np.vdot(weights, weights))


def _added(c, words) -> Words:
    return Words(f"differs from the true gradient by {c:.4g} × {words}")


def _multiple(comparison, difference, array) -> float | None:
    """c if the difference is c times an array, judged on enough entries to tell."""
    square = np.vdot(array, array).real
    if not square or comparison.tolerance ** (np.count_nonzero(array) - 1) > 1e-5:
        return None
    c = np.vdot(array, difference) / square
    if abs(c.imag) > 1e-9 * abs(c):
        return None
    within = np.linalg.norm(difference - c * array) <= 1e-3 * np.linalg.norm(difference)
    return float(c.real) if within and comparison.fits(comparison.truth + c * array) else None


def _output(evidence, i) -> str:
    return evidence.output_name if len(evidence.y) == 1 else f"output {i}"


def _cotangent(evidence, i) -> str:
    return "dy" if len(evidence.dy) == 1 else f"the cotangent of output {i}"


def _times(scale) -> str:
    return "" if abs(scale - 1) < 1e-3 else f"{scale:.3g} × "


def _indices(chosen) -> str:
    """The positions at which a mask is true, abbreviated."""
    found = np.flatnonzero(chosen)
    if found.size == 1:
        return f"index {found[0]}"
    if found.size == found[-1] - found[0] + 1:
        return f"indices {found[0]} to {found[-1]}"
    more = ", …" if found.size > 4 else ""
    return f"indices {', '.join(map(str, found[:4]))}{more}"


def _first(mask) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
