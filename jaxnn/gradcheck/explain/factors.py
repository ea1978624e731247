"""The constants by which a gradient may be too large or too small, and their meanings."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LEARNING_RATE = re.compile(
    r"(.*[._'\[])?(lr|eta|alpha|rate|learning_?rate|step_?size)\W*", re.IGNORECASE
)


SMALL_NUMBERS = (3.0, 4.0, 6.0, 8.0, 1.5, 4 / 3)


class Constant(NamedTuple):
    """A factor with a meaning.

    Attributes:
        value: the number.
        remark: follows "is 7 × the true gradient everywhere".
        besides: a clause that adds the factor to another mistake.
        mistake: the id of the mistake.
    """

    value: float
    remark: str
    besides: str
    mistake: str


def known_constants(
    sizes: dict[str, int], options: dict[str, int | float], products: bool = True
) -> list[Constant]:
    """The constants with a meaning, the simplest first; each stands for its negative as well.

    Args:
        sizes: sizes by their meaning.
        options: numeric options by name.
        products: whether to include products of two of them.
    """
    numbers: dict[int, str] = {}
    for what, size in sizes.items():
        if size > 2:
            numbers.setdefault(size, what)
    settings = {name: value for name, value in options.items() if _is_telling(value)}
    found: dict[float, Constant] = {}
    for constant in (*_of_sizes(numbers), *_of_two(), *_of_options(settings)):
        found.setdefault(_rounded(constant.value), constant)
    if not products:
        return list(found.values())
    several: dict[float, Constant] = {}
    for constant in _of_products(numbers, settings):
        value = _rounded(constant.value)
        known = several.setdefault(value, constant)
        if known.remark != constant.remark:
            several[value] = known._replace(remark="", mistake="")
    return [*found.values(), *(several[value] for value in several if value not in found)]


def value_of(c: float, constants: Iterable[Constant], tolerance: float) -> Constant | None:
    """The constant that a number is, apart from its sign, or `None`.

    Args:
        c: the number.
        constants: the simplest first.
        tolerance: the relative error of c.
    """
    if abs(c + 1) <= tolerance:
        return Constant(
            -1.0, ": a difference is the wrong way round", "the sign is wrong as well", "C1"
        )
    for constant in constants:
        if abs(abs(c) - constant.value) <= tolerance * constant.value:
            if c > 0:
                return constant
            wrong = "and the sign is wrong"
            return constant._replace(
                value=-constant.value,
                remark=f"{constant.remark}, {wrong}",
                besides=f"{constant.besides}, {wrong}",
            )
    return None


def _rounded(value) -> float:
    return float(f"{value:.9g}")


def _is_telling(value) -> bool:
    return isinstance(value, int | float) and 1e-9 < abs(value) < 1e9 and abs(value) not in (1, 2)


def _of_sizes(numbers) -> Iterator[Constant]:
    missing = "the 1/N of a mean is missing"
    often = "it is divided once too often, or a mean is used instead of a sum"
    for size, what in numbers.items():
        yield Constant(size, f", and {size} is {what}: {missing}", f"{missing} as well", "C2")
        yield Constant(
            1 / size,
            f", and 1/{size} is one over {what}: {often}",
            f"it is also divided by {size}, {what}",
            "C3",
        )


def _of_two() -> Iterator[Constant]:
    half, two = "a ½ is missing, or a 2 is superfluous", "a 2 is missing, or a ½ is superfluous"
    yield Constant(2.0, f": {half}", f"{half} as well", "C5")
    yield Constant(0.5, f": {two}", f"{two} as well", "C5")


def _of_options(settings) -> Iterator[Constant]:
    for name, value in settings.items():
        size = abs(value)
        if LEARNING_RATE.fullmatch(name):
            update = "this is the update, not the gradient"
            yield Constant(
                size, f", and {value:g} is {name}: {update}", f"it is multiplied by {name}", "C7"
            )
        yield from _once_too_often_or_missing(size, name, f"{value:g}")
        if 0 < value < 1:
            yield from _once_too_often_or_missing(1 - value, f"1 − {name}", f"{1 - value:g}")


def _once_too_often_or_missing(value, name, number) -> Iterator[Constant]:
    often = f"a factor {name} is superfluous, or a division by {name} is missing"
    missing = f"the factor {name} is missing, or a division by it is superfluous"
    yield Constant(value, f", and {number} is {name}: {often}", f"{often} as well", "C8")
    inverse = f", which is one over {name}: {missing}"
    yield Constant(1 / value, inverse, f"{missing} as well", "C8")


def _of_products(numbers, settings) -> Iterator[Constant]:
    """Products and quotients of two constants."""
    named: list[tuple[float, str]] = [*numbers.items()]
    named += [(abs(value), name) for name, value in settings.items()]
    named += [(1 - value, f"1 − {name}") for name, value in settings.items() if 0 < value < 1]
    for n, what in numbers.items():
        yield _several(n / (n - 1), f"{n}/{n - 1}, with {n} {what}")
        yield _several((n - 1) / n, f"{n - 1}/{n}, with {n} {what}")
        yield _several(2 * n, f"2 × {n}, and {n} is {what}")
        yield _several(n / 2, f"{n}/2, and {n} is {what}")
        yield _several(2 / n, f"2/{n}, and {n} is {what}")
        yield _several(1 / (2 * n), f"1/(2 × {n}), and {n} is {what}")
    for value in SMALL_NUMBERS:
        yield Constant(value, "", f"it is also too large by the factor {value:.3g}", "")
        yield Constant(1 / value, "", f"it is also too large by the factor {1 / value:.3g}", "")
    for i, (a, first) in enumerate(named):
        yield _several(a**0.5, f"the square root of {first}")
        yield _several(a**-0.5, f"one over the square root of {first}")
        for b, second in named[i:]:
            words = f"{a:g} is {first} and {b:g} is {second}" if a != b else f"{a:g} is {first}"
            yield _several(a * b, f"{a:g} × {b:g}, where {words}")
            yield _several(1 / (a * b), f"1/({a:g} × {b:g}), where {words}")
            if a != b:
                yield _several(a / b, f"{a:g}/{b:g}, where {words}")
                yield _several(b / a, f"{b:g}/{a:g}, where {words}")


def _several(value, words) -> Constant:
    return Constant(
        float(value), f", which is {words}", f"it is also too large by the factor {value:.3g}", "C8"
    )
