"""The public names of jaxnn, and the pages that describe them."""

import inspect
from functools import cache
from typing import Any, NamedTuple

import jaxnn
import jaxnn.gradcheck
from jaxnn.op import Op

MODULES = {  # public modules, and the titles of their pages
    "jaxnn.gradcheck": "Checking gradients",
    "jaxnn.per_example": "The gradient of each example",
    "jaxnn.curvature": "Curvature",
    "jaxnn.jacobians": "Jacobians as arrays",
}
GROUPS = {  # of the names in `jaxnn` itself, by the module that defines them, longest first
    "jaxnn.training.checkpoint": "Files",
    "jaxnn.training": "Training",
    "jaxnn.interop": "Weights of other libraries",
    "jaxnn.teaching": "Closed forms",
    "jaxnn.layers": "Layers",
    "jaxnn.op": "Ops and their contract",
    "jaxnn.transformations": "Ops and their contract",
    "jaxnn.autodiff": "Ops and their contract",
    "jaxnn": "Networks",
}


class Name(NamedTuple):
    """A public name.

    Attributes:
        full: how it is imported, such as `jaxnn.gradcheck.check`.
        thing: the object.
        group: the title of its page; of an op, "Ops".
    """

    full: str
    thing: Any
    group: str


@cache
def names() -> dict[str, Name]:
    """Every public name, by its full name."""
    found = {}
    for name in jaxnn.__all__:
        thing, full = getattr(jaxnn, name), f"jaxnn.{name}"
        if not inspect.ismodule(thing):
            found[full] = Name(full, thing, _group(thing))
    for module, title in MODULES.items():
        for name in public(_module(module)):
            full = f"{module}.{name}"
            found[full] = Name(full, getattr(_module(module), name), title)
    return found


def public(module) -> list[str]:
    """The public names of a module: those in its list, or else those that it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    )


def _module(full: str):
    return getattr(jaxnn, full.removeprefix("jaxnn."))


def _group(thing) -> str:
    if isinstance(thing, Op):
        return "Ops"
    module = thing.__module__ + "."
    return next(title for prefix, title in GROUPS.items() if module.startswith(prefix + "."))


def link(code: str) -> str | None:
    """The full name that some code in backticks refers to, if it is a public one."""
    for full in (code, f"jaxnn.{code}", *(f"{module}.{code}" for module in MODULES)):
        if full in names():
            return full
    return None


def signature(thing) -> str:
    """The parameters with their defaults, without annotations."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return ""
    shown = [p.replace(annotation=p.empty, default=_Default.of(p)) for p in parameters]
    return str(inspect.Signature(shown))


class _Default:
    """A default that prints as one writes it."""

    def __init__(self, value):
        self.value = value

    @classmethod
    def of(cls, parameter):
        given = parameter.default is not parameter.empty
        return cls(parameter.default) if given else parameter.empty

    def __repr__(self) -> str:
        value = self.value
        if isinstance(value, Op) or not hasattr(value, "__name__"):
            text = repr(value)
            return text if not text.startswith("<") else "…"
        return value.__name__
