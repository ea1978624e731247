"""Missing parts of a statement: factors, derivatives, terms, sums, transposes, order."""

import ast
import itertools
from collections.abc import Iterator

import numpy as np

from jaxnn.gradcheck.repair.changes import (
    factor_text,
    is_inside_product,
    named_numbers,
    product,
    sizes,
)
from jaxnn.gradcheck.repair.edits import (
    Edit,
    Place,
    Site,
    additive_places,
    factor_places,
    factors,
    name_of_call,
    parsed,
    results,
    text,
)
from jaxnn.gradcheck.repair.probe import Facts, Operand

COMMON_DERIVATIVES = {
    "(1 - a**2)": "the derivative of tanh, {}, is missing",
    "a * (1 - a)": "the derivative of the sigmoid, {}, is missing",
    "(a > 0)": "the derivative of ReLU, {}, is missing",
}
OTHER_DERIVATIVES = {
    "lib.cos(a)": "the derivative of the sine, {}, is missing",
    "-lib.sin(a)": "the derivative of the cosine, {}, is missing",
    "lib.exp(a)": "the derivative of the exponential, {}, is missing",
    "lib.exp(-a)": "the factor {} is missing",
    "2 * a": "the derivative of the square, {}, is missing",
    "(1 - a)": "the factor {} is missing",
    "a**2": "the factor {} is missing",
    "1 / a": "the factor {} is missing",
    "(1 - lib.tanh(a)**2)": "the derivative of tanh, {}, is missing",
    "1 / (1 + lib.exp(-a))": "the derivative of softplus, {}, is missing",
    "(abs(a) < 1)": "the mask {} is missing",
    "lib.sign(a)": "the derivative of the absolute value, {}, is missing",
}


def forgotten(site: Site) -> Iterator[Edit]:
    """Factors, divisors and terms that the function computes or unpacks, but never uses."""
    unused = [operand for operand in site.scope if operand.source in site.unused]
    for place, known in _open(site) if unused else ():
        for operand in unused:
            if _spreads(operand.facts, known) and operand.facts.kind:
                name = operand.source
                for sign, what in (
                    ("*", "factor"),
                    ("/", "division by"),
                    ("+", "term"),
                    ("-", "term"),
                ):
                    new = parsed(f"__it {sign} {name}", __it=place.node)
                    yield site.edit(place, new, 0, f"the {what} {name} is missing", "array")


def constants(site: Site) -> Iterator[Edit]:
    """Signs, numbers, squares, sums, transposes and masks that may be missing in a statement."""
    for place, known in _open(site):
        yield from _constants(site, place, known)
        yield from _reductions(site, place, known)
        yield from _turned(site, place, known)
    yield from _inverted_masks(site)
    yield from _earlier(site)


def arrays(site: Site) -> Iterator[Edit]:
    """Factors and terms in scope that may be missing in a statement."""
    for place, known in _open(site):
        yield from _arrays(site, place, known)
    for place in factor_places(site):
        factor = site.floating(place.node)
        if factor is not None and site.relevant(place):
            yield from _terms(site, place, factor)


def derivatives(site: Site) -> Iterator[Edit]:
    """Derivatives, and whole gradients, that may be missing in a statement."""
    for place, known in _open(site):
        yield from _derivatives(site, place, known)
        yield from _penalties(site, place, known)
        yield from _means(site, place, known)
    for place in site.places:
        yield from _other_derivative(site, place)
        if _is_nothing(place.node):
            yield from _products(site, place)
    yield from _replaced(site)


def _open(site: Site) -> Iterator[tuple[Place, Facts]]:
    """The places where a part may be missing, with the values there."""
    for place in additive_places(site):
        known = site.floating(place.node)
        if known is not None and site.relevant(place):
            yield place, known


def _constants(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    node = place.node
    minus = ast.UnaryOp(ast.USub(), node)
    yield site.edit(place, minus, 3, "the sign is wrong", "constant")
    named = {number: source for source, number in named_numbers(site).items()}
    for number in (2, 0.5):
        said = named.get(number, str(number))
        times = parsed(f"{said} * __it", __it=node)
        yield site.edit(place, times, 3, f"the factor {said} is missing", "constant")
    for source, option in named_numbers(site).items():
        if 0 < option < 1:
            divided = parsed(f"__it / (1 - {source})", __it=node)
            reason = f"the division by 1 - {source} is missing"
            yield site.edit(place, divided, 3, reason, "constant")
    for source in sizes(site):
        divided = parsed(f"__it / {source}", __it=node)
        reason = f"the division by {source} is missing"
        yield site.edit(place, divided, 3, reason, "constant")
        times = parsed(f"__it * {source}", __it=node)
        yield site.edit(place, times, 3, f"the factor {source} is missing", "constant")
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        yield site.edit(place, parsed("a**2", a=node), 3, "the square is missing", "constant")
    if known.kind == "c" and site.library:
        conjugate = parsed(f"{site.library}.conj(a)", a=node)
        yield site.edit(place, conjugate, 3, "the conjugate is missing", "constant")


def _arrays(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """A factor or a term in scope."""
    node = place.node
    for operand in site.scope:
        other = operand.facts
        if not _spreads(other, known) or other.kind == "i":
            continue
        name = operand.source
        factor = parsed(f"__it * {name}", __it=node)
        kind = "array" if other.shape else "constant"
        yield site.edit(place, factor, 4, f"the factor {name} is missing", kind)
        if other.floating:
            divided = parsed(f"__it / {name}", __it=node)
            yield site.edit(place, divided, 5, f"the division by {name} is missing", kind)
    yield from _terms(site, place, known)


def _terms(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """An array in scope that should be added or subtracted."""
    for operand in site.scope:
        if operand.facts.floating and operand.facts.shape and _spreads(operand.facts, known):
            for sign in "+-":
                term = parsed(f"__it {sign} {operand.source}", __it=place.node)
                reason = f"the term {operand.source} is missing"
                yield site.edit(place, term, 4, reason, "array")


def _derivatives(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """The derivative of an activation at an array in scope."""
    for operand in site.scope:
        if not (_spreads(operand.facts, known) and operand.facts.floating):
            continue
        if known.shape and not operand.facts.shape:
            continue
        for forms, cost in ((COMMON_DERIVATIVES, 5), (OTHER_DERIVATIVES, 6)):
            for source, reason in forms.items():
                form = _form(site, source, operand)
                if form is not None:
                    new = parsed(f"__it * {form}", __it=place.node)
                    yield site.edit(place, new, cost, reason.format(form), "array")


def _penalties(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """An array times a number in scope, as the gradient of a penalty."""
    for number, operand in itertools.product(named_numbers(site), site.scope):
        if operand.facts.floating and operand.facts.shape == known.shape != ():
            term = f"{number} * {operand.source}"
            new = parsed(f"__it + {term}", __it=place.node)
            yield site.edit(place, new, 5, f"the term {term} is missing", "array")


def _means(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """The mean, or the sum, of an array in scope along an axis, to be subtracted."""
    if isinstance(place.node, ast.Name):
        return
    for operand in site.scope:
        if operand.facts.floating and operand.facts.shape == known.shape and len(known.shape) > 1:
            for axis, kind in itertools.product(range(len(known.shape)), ("mean", "sum")):
                source = f"{operand.source}.{kind}(axis={axis}, keepdims=True)"
                new = parsed(f"__it - {source}", __it=place.node)
                yield site.edit(place, new, 6, f"the term {source} is missing", "array")


def _other_derivative(site: Site, place: Place) -> Iterator[Edit]:
    """One or two factors to be replaced by a derivative."""
    node, known = place.node, site.floating(place.node)
    if not isinstance(node, ast.BinOp) or known is None:
        return
    if is_inside_product(place) or not site.relevant(place):
        return
    found = factors(place)
    for count in (1, 2):
        for gone in itertools.combinations(range(len(found)), count):
            if any(found[i][1] for i in gone) or any(
                not _spreads(f, known) for i in gone if (f := site.facts(found[i][0].node))
            ):
                continue
            kept = [entry for i, entry in enumerate(found) if i not in gone]
            if not kept or all(divides for _, divides, _ in kept):
                continue
            old = " * ".join(factor_text(found[i][0].node) for i in gone)
            for form in _forms(site, known):
                new = parsed(f"__it * {form}", __it=product(kept))
                yield site.edit(place, new, 6, f"{form} belongs here, not {old}")


def _forms(site: Site, known: Facts) -> Iterator[str]:
    """The derivatives at each array of this shape, the most common first."""
    for source in (*COMMON_DERIVATIVES, *OTHER_DERIVATIVES):
        for operand in site.scope:
            if operand.facts.floating and operand.facts.shape == known.shape:
                form = _form(site, source, operand)
                if form is not None:
                    yield form


def _reductions(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """A sum over an axis."""
    if isinstance(place.node, ast.Call) and name_of_call(place.node) in ("sum", "mean"):
        return
    for axis in range(len(known.shape)):
        for keep in ("", ", keepdims=True"):
            new = parsed(f"a.sum(axis={axis}{keep})", a=place.node)
            yield site.edit(place, new, 4, f"the sum over axis {axis} is missing", "constant")


def _turned(site: Site, place: Place, known: Facts) -> Iterator[Edit]:
    """A transpose, and the other end of an axis."""
    node = place.node
    if len(known.shape) == 2:
        yield site.edit(place, parsed("a.T", a=node), 2, "the transpose is missing", "constant")
    if len(known.shape) in (3, 4) and site.library:
        for i, j in itertools.combinations(range(len(known.shape)), 2):
            swapped = parsed(f"{site.library}.swapaxes(a, {i}, {j})", a=node)
            reason = f"axes {i} and {j} should be swapped"
            yield site.edit(place, swapped, 4, reason, "constant")
    for axis in range(len(known.shape)):
        index = ", ".join([":"] * axis + ["::-1"])
        if axis == len(known.shape) - 1 and axis:
            index = "..., ::-1"
        yield site.edit(
            place, parsed(f"a[{index}]", a=node), 4, "the order should be reversed", "constant"
        )
        if isinstance(node, ast.Call) and node.args and site.floating(node.args[0]):
            turned = parsed(f"a[{index}]", a=node.args[0])
            call = ast.Call(node.func, [turned, *node.args[1:]], node.keywords)
            reason = f"{text(node.func)} must run in reverse order"
            yield site.edit(place, parsed(f"a[{index}]", a=call), 4, reason, "constant")


def _products(site: Site, place: Place) -> Iterator[Edit]:
    """A product of two arrays in scope, in place of nothing or of zeros."""
    arrays = [o for o in site.scope if o.facts.floating and o.facts.shape]
    for one, two in itertools.combinations(arrays[:12], 2):
        if one.facts.shape == two.facts.shape:
            source = f"{one.source} * {two.source}"
            yield site.edit(place, source, 6, f"the gradient {source} is missing", "array")


def _is_nothing(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return name_of_call(node) in ("zeros_like", "zeros")
    return isinstance(node, ast.Constant) and node.value is None


def _inverted_masks(site: Site) -> Iterator[Edit]:
    """Masks that should be inverted."""
    for place in site.places:
        node, known = place.node, site.facts(place.node)
        if (
            known is not None
            and known.kind == "b"
            and known.shape
            and isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
            and not isinstance(place.parent, ast.UnaryOp)
        ):
            new = ast.UnaryOp(ast.Invert(), node)
            yield site.edit(place, new, 2, "the mask is inverted")


def _replaced(site: Site) -> Iterator[Edit]:
    """The sum of an array in scope, in place of the whole result of a statement."""
    for place in results(site):
        if site.facts(place.node) is None or not site.relevant(place):
            continue
        for operand in site.scope:
            if operand.facts.floating and operand.facts.shape:
                for axis in range(len(operand.facts.shape)):
                    source = f"{operand.source}.sum(axis={axis})"
                    reason = f"{source} belongs here, not {text(place.node)}"
                    yield site.edit(place, source, 6, reason)


def _earlier(site: Site) -> Iterator[Edit]:
    """The statement, moved in front of the preceding ones."""
    statement = site.statement
    value = getattr(statement, "value", None)
    if not isinstance(statement, ast.Return | ast.Assign) or value is None:
        return
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    for node in ast.walk(site.unit.root):
        block = getattr(node, "body", None)
        if not isinstance(block, list) or statement not in block:
            continue
        at = block.index(statement)
        for first in range(at - 1, -1, -1):
            changed = _changed_by(block[first])
            if not changed & names:
                continue
            early = ast.Assign([ast.Name("__early", ast.Store())], value)
            late = type(statement)(
                **{**dict(ast.iter_fields(statement)), "value": parsed("__early")}
            )
            moved = [*block[:first], early, *block[first:at], late, *block[at + 1 :]]
            for part in (early, late):
                ast.copy_location(part, statement)
                ast.fix_missing_locations(part)
            what = text(_target(block[first]))
            reason = f"{what} has already been updated here: compute this before the update"
            yield Edit(statement, ((Place(node, "body"), moved),), 3, reason)


def _changed_by(statement: ast.stmt) -> set[str]:
    """The names that an update changes, or whose parts it changes."""
    target = _target(statement)
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)} if target else set()


def _target(statement: ast.stmt):
    if isinstance(statement, ast.AugAssign):
        return statement.target
    if isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], ast.Name):
        return statement.targets[0]
    return None


def _form(site: Site, source: str, operand: Operand) -> str | None:
    """The code of a derivative at an array; None if the file imports no library for it."""
    if "lib" in source and not site.library:
        return None
    plain = text(parsed(source, a=parsed(operand.source), lib=parsed(site.library or "np")))
    return f"({plain})" if source.startswith("(") else plain


def _spreads(one: Facts, other: Facts) -> bool:
    """Whether an array broadcasts to the shape of another."""
    try:
        return np.broadcast_shapes(one.shape, other.shape) == other.shape
    except ValueError:
        return False
