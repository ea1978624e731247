"""Changes to the code of a statement: signs, constants, axes, masks, operands, order."""

import ast
import itertools
from collections.abc import Iterator
from types import FunctionType

import numpy as np

from jaxnn.gradcheck.repair.edits import (
    Edit,
    Place,
    Site,
    factors,
    is_method,
    located,
    name_of_call,
    number,
    parsed,
    text,
)

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
COMPARISONS = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.GtE: ast.LtE, ast.LtE: ast.GtE}
COMPARISONS |= {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
REDUCTIONS = ("sum", "mean", "max", "min", "prod", "std", "var", "any", "all")
_PAIRS = (
    ("mean", "sum", "a {} is used instead of a {}"),
    ("sin", "cos", "{} is used instead of {}"),
    ("sinh", "cosh", "{} is used instead of {}"),
    ("exp", "log", "{} is used instead of {}"),
    ("sqrt", "square", "{} is used instead of {}"),
    ("maximum", "minimum", "{} is used instead of {}"),
    ("max", "min", "{} is used instead of {}"),
    ("argmax", "argmin", "{} is used instead of {}"),
    ("zeros_like", "ones_like", "{} is used instead of {}"),
    ("zeros", "ones", "{} is used instead of {}"),
    ("tanh", "sigmoid", "{} is used instead of {}"),
    ("floor", "ceil", "{} is used instead of {}"),
    ("set", "add", "{} is used instead of {}"),
)
SIGN_OF_TERM = "the sign of this term is wrong"
WRONG_ARGUMENT = "the wrong argument"
NUMBERS = (0, 1, 2, 3, 0.5, -1)


def changes(site: Site) -> Iterator[Edit]:
    """All changes to the code of a statement."""
    for place in site.places:
        node = place.node
        if isinstance(node, ast.BinOp):
            yield from _operator(site, place, node)
            yield from _dropped_factors(site, place)
            yield from _half_derivatives(site, place)
            yield from _softmax_jacobian(site, place)
        elif isinstance(node, ast.UnaryOp):
            yield from _unary(site, place, node)
        elif isinstance(node, ast.Compare):
            yield from _comparison(site, place, node)
        elif isinstance(node, ast.Call):
            yield from _call(site, place, node)
        elif isinstance(node, ast.Constant):
            yield from _constant(site, place, node)
        elif isinstance(node, ast.Subscript):
            yield from _subscript(site, place, node)
        elif isinstance(node, ast.Attribute) and node.attr == "T":
            yield site.edit(place, node.value, 1, "the transpose does not belong here")
        elif isinstance(node, ast.IfExp):
            yield site.edit(
                place,
                ast.IfExp(node.test, node.orelse, node.body),
                1,
                "the two cases are the wrong way round",
            )
        yield from _other_operand(site, place)
        yield from _other_order(site, place)
    yield from _swapped_operands(site)
    yield from _whole_statement(site)


def _operator(site: Site, place: Place, node: ast.BinOp) -> Iterator[Edit]:
    other = OPERATORS.get(type(node.op))
    if other is not None and (site.facts(node) or isinstance(place.parent, ast.Slice)):
        reasons = {
            ast.Add: SIGN_OF_TERM,
            ast.Sub: SIGN_OF_TERM,
            ast.Mult: "this multiplication should be a division",
            ast.Div: "this division should be a multiplication",
        }
        new = ast.BinOp(node.left, other(), node.right)
        yield site.edit(place, new, 1, reasons[type(node.op)])
    if isinstance(node.op, ast.Sub):
        new = ast.BinOp(node.right, ast.Sub(), node.left)
        plain = number(node.left) is None and number(node.right) is None
        reason = "the difference is taken the wrong way round"
        yield site.edit(place, new, 1 if plain else 2, reason)
    if isinstance(node.op, ast.Div):
        new = ast.BinOp(node.right, ast.Div(), node.left)
        yield site.edit(place, new, 2, "the quotient is inverted")
    if isinstance(node.op, ast.MatMult):
        new = ast.BinOp(node.right, ast.MatMult(), node.left)
        yield site.edit(place, new, 1, "the factors of the matrix product are in the wrong order")
        turned = parsed("b.T @ a.T", a=node.left, b=node.right)
        yield site.edit(place, turned, 3, "this is the wrong matrix product")
    if isinstance(node.op, ast.Add | ast.Sub):
        for kept, gone in ((node.left, node.right), (node.right, node.left)):
            if isinstance(node.op, ast.Sub) and kept is node.right:
                continue
            if site.facts(kept):
                yield site.edit(place, kept, 2, f"the term {text(gone)} does not belong here")
    if isinstance(node.op, ast.Pow) and site.facts(node):
        yield site.edit(place, node.left, 2, f"the power {text(node.right)} does not belong here")


def _dropped_factors(site: Site, place: Place) -> Iterator[Edit]:
    """A product without one or two of its factors."""
    found = factors(place)
    if is_inside_product(place) or not site.facts(place.node) or not site.relevant(place):
        return
    for count, cost in ((1, 2), (2, 4)):
        for gone in itertools.combinations(range(len(found)), count):
            kept = [entry for i, entry in enumerate(found) if i not in gone]
            if not kept or all(divides for _, divides, _ in kept):
                continue
            said = " * ".join(factor_text(found[i][0].node) for i in gone)
            what = "division by" if all(found[i][1] for i in gone) else "factor"
            reason = f"the {what} {said} does not belong here"
            if count == 1 and number(found[gone[0]][0].node) is not None:
                reason = f"there is one {what} {said} too many"
            yield site.edit(place, product(kept), cost, reason)


def _half_derivatives(site: Site, place: Place) -> Iterator[Edit]:
    """A product with half of the derivative of the sigmoid or of tanh, or with the other one."""
    found = factors(place)
    if is_inside_product(place) or not found or not site.relevant(place):
        return
    written = {text(factor.node) for factor, _, _ in found}
    for factor, divides, _ in found:
        match factor.node:
            case ast.BinOp(left=ast.Constant(value=1 | 1.0), op=ast.Sub(), right=inner) if (
                not divides and site.floating(inner)
            ):
                yield from _of_complement(site, place, factor, inner, written)
            case ast.Name() | ast.Attribute() | ast.Subscript() if _is_fraction(site, factor):
                complement = parsed("(1 - a)", a=factor.node)
                if text(complement) not in written:
                    yield _with_factor(site, place, complement)


def _of_complement(site: Site, place: Place, factor: Place, a, written) -> Iterator[Edit]:
    """The derivatives that contain the factor 1 - a."""
    tanh = parsed("1 - a**2", a=a)
    yield site.edit(factor, tanh, 1, f"the square of {text(a)} is missing")
    if isinstance(a, ast.BinOp) and isinstance(a.op, ast.Pow):
        sigmoid = parsed("a * (1 - a)", a=a.left)
        reason = f"{text(sigmoid)} belongs here, not {text(factor.node)}"
        yield site.edit(factor, sigmoid, 1, reason)
    elif text(a) not in written:
        yield _with_factor(site, place, a)
    else:
        kept = [e for e in factors(place) if text(e[0].node) not in (text(a), f"1 - {text(a)}")]
        reason = f"({text(tanh)}) belongs here, not {text(a)} * (1 - {text(a)})"
        if kept and not all(divides for _, divides, _ in kept):
            yield site.edit(place, ast.BinOp(product(kept), ast.Mult(), tanh), 1, reason)


def _with_factor(site: Site, place: Place, factor: ast.expr) -> Edit:
    new = ast.BinOp(place.node, ast.Mult(), factor)
    reason = f"the factor {factor_text(factor)} of the derivative is missing"
    return site.edit(place, new, 1, reason)


def _softmax_jacobian(site: Site, place: Place) -> Iterator[Edit]:
    """A product with only the diagonal of the Jacobian of softmax."""
    found = factors(place)
    if is_inside_product(place) or not site.relevant(place):
        return
    for i, (factor, divides, _) in enumerate(found):
        if divides or not _sums_to_one(site, factor):
            continue
        p = text(factor.node)
        kept = [e for j, e in enumerate(found) if j != i and text(e[0].node) != f"1 - {p}"]
        centred = any(_is_difference(entry[0].node) for entry in kept)
        if kept and not centred and not all(division for _, division, _ in kept):
            g = product(kept)
            source = "p * (g - (p * g).sum(axis=-1, keepdims=True))"
            new = parsed(source, p=factor.node, g=g)
            reason = "only the diagonal of the Jacobian of softmax is used"
            yield site.edit(place, new, 2, reason)


def _is_difference(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)


def _sums_to_one(site: Site, place: Place) -> bool:
    """Whether the entries of an array along the last axis are probabilities."""
    known = site.floating(place.node)
    if known is None or known.value is None or not known.shape or known.shape[-1] < 2:
        return False
    return bool(np.allclose(known.value.sum(-1), 1, atol=1e-5) and (known.value >= 0).all())


def _swapped_operands(site: Site) -> Iterator[Edit]:
    """Two arrays of the same shape, swapped in the result of a statement."""
    found = [
        place
        for place in site.places
        if (isinstance(place.node, ast.Name | ast.Attribute) or place.field == "args")
        and isinstance(place.parent, ast.BinOp | ast.Call | ast.Attribute)
        and (known := site.floating(place.node)) is not None
        and known.shape
    ]
    for one, two in itertools.combinations(found[:8], 2):
        a, b = one.node, two.node
        if text(a) == text(b) or site.facts(a).shape != site.facts(b).shape:  # type: ignore[union-attr]
            continue
        if _one_holds_the_other(a, b) or one.parent is two.parent:
            continue
        if not (site.relevant(one) and site.relevant(two)):
            continue
        pair = ((one, b), (two, a))
        reason = f"{text(a)} and {text(b)} are swapped"
        yield Edit(site.statement, pair, 2, reason, "order")


def _one_holds_the_other(a: ast.expr, b: ast.expr) -> bool:
    return b in ast.walk(a) or a in ast.walk(b)


def _is_fraction(site: Site, place: Place) -> bool:
    """Whether all entries of an array lie between 0 and 1, as those of a sigmoid do."""
    known = site.floating(place.node)
    if known is None or known.value is None or not known.shape or known.kind == "c":
        return False
    return bool(((known.value > 0) & (known.value < 1)).all())


def is_inside_product(place: Place) -> bool:
    """Whether a place holds the first factors of a longer product."""
    product = isinstance(place.parent, ast.BinOp) and isinstance(
        place.parent.op, ast.Mult | ast.Div
    )
    return product and place.field == "left"


def factor_text(node: ast.expr) -> str:
    """The source of a factor, in parentheses if necessary."""
    simple = not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Sub)
    return text(node) if simple else f"({text(node)})"


def product(entries) -> ast.expr:
    """The product of some factors, the dividing ones in the denominator."""
    entries = sorted(entries, key=lambda entry: entry[1])
    result = entries[0][0].node
    for factor, divides, _ in entries[1:]:
        result = ast.BinOp(result, ast.Div() if divides else ast.Mult(), factor.node)
    return result


def _unary(site: Site, place: Place, node: ast.UnaryOp) -> Iterator[Edit]:
    if isinstance(node.op, ast.USub) and number(node) is None:
        yield site.edit(place, node.operand, 1, "the sign is wrong")
    elif isinstance(node.op, ast.Invert | ast.Not):
        yield site.edit(place, node.operand, 1, "the mask is inverted")


def _comparison(site: Site, place: Place, node: ast.Compare) -> Iterator[Edit]:
    if len(node.ops) != 1 or not site.ran(node):
        return
    other = COMPARISONS.get(type(node.ops[0]))
    if other is not None:
        new = ast.Compare(node.left, [other()], node.comparators)
        yield site.edit(place, new, 1, "the comparison points the wrong way")
    yield site.edit(
        Place(node, "left"), parsed("abs(a)", a=node.left), 3, "the absolute value is missing"
    )


def _call(site: Site, place: Place, node: ast.Call) -> Iterator[Edit]:
    name = name_of_call(node)
    for one, two, reason in _PAIRS:
        if name in (one, two):
            other = two if name == one else one
            func = (
                ast.Attribute(node.func.value, other, ast.Load())
                if isinstance(node.func, ast.Attribute)
                else ast.Name(other, ast.Load())
            )
            new = ast.Call(func, node.args, node.keywords)
            yield site.edit(place, new, 1, reason.format(name, other))
    yield from _axis(site, place, node, name)
    if name == "where" and len(node.args) == 3:
        new = ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], node.keywords)
        yield site.edit(place, new, 1, "the mask is inverted")
    if name in ("dot", "matmul", "outer") and len(node.args) == 2:
        new = ast.Call(node.func, node.args[::-1], node.keywords)
        yield site.edit(place, new, 1, "the factors of the product are in the wrong order")
    if name in ("reversed", "flip", "flipud", "fliplr") and node.args:
        yield site.edit(place, node.args[0], 1, "the order should not be reversed")
    if name == "range":
        yield site.edit(
            place, ast.Call(parsed("reversed"), [node], []), 2, "the order should be reversed"
        )
        for index in range(len(node.args)):
            for sign in "-+":
                shifted = parsed(f"a {sign} 1", a=node.args[index])
                yield site.edit(Place(node, "args", index), shifted, 2, "the range is off by one")
    if name in ("concatenate", "hstack", "vstack", "stack"):
        return
    for argument in node.args:
        if site.floating(argument) or _is_key(argument, name):
            yield site.edit(place, argument, 2, f"{text(node.func)} does not belong here")
    if is_method(site, node) and isinstance(node.func, ast.Attribute):
        yield site.edit(place, node.func.value, 2, f"{name} does not belong here")


def _is_key(argument: ast.expr, name: str) -> bool:
    """Whether a call such as `fold_in(key, 1)` derives a random key from its argument."""
    return name in ("fold_in", "split", "wrap_key_data") and isinstance(argument, ast.Name)


def _axis(site: Site, place: Place, node: ast.Call, name: str) -> Iterator[Edit]:
    """A different axis, more or fewer axes, and `keepdims`."""
    written = next((k for k in node.keywords if k.arg in ("axis", "axes", "dim")), None)
    argument = node.func.value if is_method(site, node) else next(iter(node.args), None)  # type: ignore[attr-defined]
    known = site.facts(argument) if argument is not None else None
    ndim = len(known.shape) if known is not None else 3
    at = 0 if is_method(site, node) else 1
    where = Place(written, "value") if written else None
    if where is None and name in REDUCTIONS and len(node.args) > at:
        where = Place(node, "args", at)
    verb = {"sum": "summed", "mean": "averaged"}.get(name, f"{name} is taken")
    if where is not None:
        old = text(where.node)
        for axis in _axes(ndim):
            if axis != old:
                reason = f"{verb} over axis {old} instead of axis {axis}"
                yield site.edit(where, axis, 1, reason)
    elif name in REDUCTIONS:
        for axis in _axes(ndim):
            if axis != "None":
                new = ast.Call(node.func, node.args, [*node.keywords, _keyword("axis", axis)])
                reason = f"{verb} over everything instead of over axis {axis}"
                yield site.edit(place, new, 1, reason)
                kept = [*node.keywords, _keyword("axis", axis), _keyword("keepdims", "True")]
                yield site.edit(place, ast.Call(node.func, node.args, kept), 3, reason)
    if name in REDUCTIONS and not any(k.arg == "keepdims" for k in node.keywords):
        new = ast.Call(node.func, node.args, [*node.keywords, _keyword("keepdims", "True")])
        yield site.edit(place, new, 1, "keepdims=True is missing, so the shape is wrong")


def _axes(ndim: int) -> list[str]:
    """The axes of an array with this many dimensions, written as code."""
    single = [str(axis) for axis in range(ndim)] + ["-1"]
    several = [
        str(axes) for count in range(2, ndim) for axes in itertools.combinations(range(ndim), count)
    ]
    return [*single, *several[:10], "None"]


def _keyword(name: str, source: str) -> ast.keyword:
    return ast.keyword(name, parsed(source))


def _constant(site: Site, place: Place, node: ast.Constant) -> Iterator[Edit]:
    value = node.value
    if isinstance(value, bool):
        yield site.edit(place, ast.Constant(not value), 1, f"this should be {not value}")
        return
    if not isinstance(value, int | float) or _names_an_axis(place):
        return
    options = [*NUMBERS, *((value + 1, value - 1) if isinstance(value, int) else ())]
    for other in dict.fromkeys(options):
        if other != value and not _is_neutral(place, other):
            new = parsed(str(other))
            yield site.edit(place, new, 1, f"{other} belongs here, not {value}")

    for source, option in named_numbers(site).items():
        if option != value:
            yield site.edit(place, source, 2, f"{source} belongs here, not {value}")


def named_numbers(site: Site) -> dict[str, float]:
    """The floating-point numbers in scope, such as options, by name."""
    return {
        operand.source: float(known.value)
        for operand in site.scope
        if (known := operand.facts).kind == "f" and not known.shape and known.value is not None
    }


def _is_neutral(place: Place, value) -> bool:
    """Whether a number has no effect at its place, such as a factor 1 or a term 0."""
    match place.parent:
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            return value == 0
        case ast.BinOp(op=ast.Mult() | ast.Div() | ast.Pow()):
            return value == 1 and (place.field == "right" or isinstance(place.parent.op, ast.Mult))
    return False


def _names_an_axis(place: Place) -> bool:
    return isinstance(place.parent, ast.keyword) and place.parent.arg in ("axis", "axes", "dim")


def _subscript(site: Site, place: Place, node: ast.Subscript) -> Iterator[Edit]:
    if any(
        isinstance(part, ast.Slice) and part.step is not None and number(part.step) == -1
        for part in ast.walk(node.slice)
    ) and isinstance(node.ctx, ast.Load):
        yield site.edit(place, node.value, 1, "the order should not be reversed")
    if (
        isinstance(node.ctx, ast.Load)
        and site.floating(node.value)
        and number(node.slice) is not None
    ):
        new = parsed("a.sum(axis=0)", a=node.value)
        yield site.edit(place, new, 3, "one row is used instead of the sum over all rows")
    index = Place(node, "slice")
    if isinstance(node.slice, ast.Name | ast.BinOp):
        for sign in "-+":
            new = parsed(f"a {sign} 1", a=node.slice)
            yield site.edit(index, new, 2, "the index is off by one")
    if isinstance(node.slice, ast.BinOp):
        for part in ast.walk(node.slice):
            if isinstance(part, ast.Name):
                yield site.edit(index, part, 2, f"the index should be {part.id}")


def _other_operand(site: Site, place: Place) -> Iterator[Edit]:
    """A different array or number in scope."""
    node = place.node
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
        return
    if not isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
        return
    known = site.facts(node)
    if known is None:
        return
    if not known.shape and known.kind == "i":
        yield from _other_size(site, place, known)
        return
    if not known.floating or (isinstance(node, ast.Call) and name_of_call(node) in REDUCTIONS):
        return
    for source in _targets_around(site.statement, node):
        reason = f"{WRONG_ARGUMENT}: {source} belongs here, not {text(node)}"
        yield site.edit(place, source, 2, reason)
    if not site.relevant(place):
        return
    handed_on = isinstance(place.parent, ast.Call) and calls_own_code(site, place.parent)
    for operand in site.scope:
        known_other, source = operand.facts, operand.source
        if (
            known_other.shape == known.shape
            and known_other.floating
            and not known_other.same_as(known)
            and source != text(node)
        ):
            reason = f"{WRONG_ARGUMENT}: {source} belongs here, not {text(node)}"
            yield site.edit(place, source, 3 if handed_on else 2, reason)


def _targets_around(statement: ast.AST, node: ast.AST) -> Iterator[str]:
    """The variables of the enclosing comprehensions that an expression does not use."""
    for around in ast.walk(statement):
        if not isinstance(around, ast.ListComp | ast.GeneratorExp):
            continue
        if node in ast.walk(around.elt):
            used = {part.id for part in ast.walk(around.elt) if isinstance(part, ast.Name)}
            for generator in around.generators:
                if isinstance(generator.target, ast.Name) and generator.target.id not in used:
                    yield generator.target.id


def calls_own_code(site: Site, call: ast.Call) -> bool:
    """Whether a call targets a function or a class of the same file."""
    called = site.unit.globals.get(name_of_call(call))
    own = site.unit.globals.get("__name__")
    return isinstance(called, FunctionType | type) and called.__module__ == own


def _other_size(site: Site, place: Place, known) -> Iterator[Edit]:
    """A different size."""
    if isinstance(place.parent, ast.Slice | ast.Subscript) or known.value is None:
        return
    for source, size in sizes(site).items():
        if size != known.value:
            reason = f"{WRONG_ARGUMENT}: {source} belongs here, not {text(place.node)}"
            yield site.edit(place, source, 2, reason)


def sizes(site: Site) -> dict[str, int]:
    """The sizes that can be written at a site, each in its most usual form."""
    found: dict[int, str] = {}
    for operand in site.scope:
        known = operand.facts
        if known.kind == "i" and not known.shape and known.value is not None:
            found.setdefault(int(known.value), operand.source)
    for operand in site.scope:
        shape = operand.facts.shape
        for axis, size in enumerate(shape):
            found.setdefault(size, f"{operand.source}.shape[{axis}]")
        if len(shape) > 1:
            found.setdefault(int(np.prod(shape)), f"{operand.source}.size")
    return {source: size for size, source in found.items() if size > 1}


def _other_order(site: Site, place: Place) -> Iterator[Edit]:
    """Two entries of a tuple, a list or a dict, swapped."""
    node = place.node
    if not isinstance(node, ast.Tuple | ast.List | ast.Dict):
        return
    field = "values" if isinstance(node, ast.Dict) else "elts"
    entries = getattr(node, field)
    if len(entries) > 8 or isinstance(place.parent, ast.Subscript | ast.keyword):
        return
    handed_on = isinstance(site.statement, ast.Return | ast.Lambda)
    what = "returned" if handed_on else "assigned"
    for i, j in itertools.combinations(range(len(entries)), 2):
        if isinstance(entries[i], ast.Starred) or isinstance(entries[j], ast.Starred):
            continue
        pair = ((Place(node, field, i), entries[j]), (Place(node, field, j), entries[i]))
        yield Edit(
            site.statement,
            pair,
            1 if handed_on else 3,
            f"{text(entries[i])} and {text(entries[j])} are {what} in the wrong order",
            "order",
        )


def _whole_statement(site: Site) -> Iterator[Edit]:
    """Assignments that should accumulate, updates with the wrong sign, wrong conditions."""
    statement = site.statement
    if isinstance(statement, ast.AugAssign):
        other = OPERATORS.get(type(statement.op))
        if other is not None:
            reason = "the sign of the update is wrong"
            yield Edit(statement, ((Place(statement, "op"), other()),), 1, reason)
    if isinstance(statement, ast.If):
        test = Place(statement, "test")
        yield site.edit(test, "True", 1, "this must happen in every case")
        new = ast.UnaryOp(ast.Not(), statement.test)
        yield site.edit(test, new, 1, "the condition is inverted")
    if isinstance(statement, ast.Assign | ast.AugAssign):
        yield from _accumulated(site, statement)
    if isinstance(statement, ast.AugAssign):
        yield from _repeated_indices(site, statement)


def _repeated_indices(site: Site, statement: ast.AugAssign) -> Iterator[Edit]:
    """An addition that counts repeated indices only once."""
    target = statement.target
    if not isinstance(target, ast.Subscript) or not isinstance(statement.op, ast.Add):
        return
    known = site.facts(target.slice)
    if known is None or known.kind != "i" or not known.shape or not site.numpy:
        return
    call = parsed(
        f"{site.numpy}.add.at(a, i, v)", a=target.value, i=target.slice, v=statement.value
    )
    reason = "+= adds only once at an index that occurs several times"
    for block, (field, index) in _blocks_with(site.unit.root, statement):
        new = located(ast.Expr(call), statement)
        yield Edit(statement, ((Place(block, field, index), new),), 1, reason)


def _accumulated(site: Site, statement: ast.Assign | ast.AugAssign) -> Iterator[Edit]:
    """An assignment that should accumulate, or the other way round."""
    for block, index in _blocks_with(site.unit.root, statement):
        if isinstance(statement, ast.AugAssign):
            if not isinstance(statement.op, ast.Add):
                return
            new: ast.stmt = ast.Assign([statement.target], statement.value)
            reason = "this is added to the previous value instead of replacing it"
        else:
            if len(statement.targets) != 1:
                return
            written = statement.targets[0]
            if not isinstance(written, ast.Name | ast.Attribute | ast.Subscript):
                return
            new = ast.AugAssign(written, ast.Add(), statement.value)
            reason = "the gradient is overwritten where it should be accumulated"
        place = Place(block, index[0], index[1])
        yield Edit(statement, ((place, located(new, statement)),), 1, reason)


def _blocks_with(root: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.AST, tuple[str, int]]]:
    """The block that holds a statement."""
    for node in ast.walk(root):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                for index, part in enumerate(block):
                    if part is statement:
                        yield node, (field, index)
