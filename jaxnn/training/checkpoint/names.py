"""The names of a tree's leaves, and the description of a tree in a file."""

import ast
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

LEAF = "array"
KEY = re.compile(
    r"""\[(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]"""  # ['w']
    r"""|\[(?:<flat index )?(?P<other>[^\[\]<>'"]+)>?\]"""  # [0], [<flat index 0>]
    r"""|\.(?P<field>\w+)"""  # .mu
)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name: the path to each, joined by dots, such as `0.w`.

    Raises:
        ValueError: two leaves have the same name.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = keystr(path, simple=True, separator=".")
        if name in leaves:
            raise ValueError(
                f"two leaves have the name {name!r}, because a key holds a dot: rename the key"
            )
        leaves[name] = leaf
    return leaves


def described(tree: Any) -> str | None:
    """The dicts, tuples and lists of a tree as JSON; any other node counts as a dict.

    `None` if a key is neither a string nor an integer.
    """
    try:
        return json.dumps(_node(tree), separators=(",", ":"))
    except _Undescribed:
        return None


def rebuilt(description: str, leaves: Mapping[str, Any]) -> Any:
    """The tree of a description, with the leaves of these names."""

    def node(found, path):
        if found == LEAF:
            return leaves[".".join(path)]
        if found is None:
            return None
        ((kind, children),) = found.items()
        if kind == "dict":
            return {key: node(child, (*path, str(key))) for key, child in children}
        nodes = [node(child, (*path, str(i))) for i, child in enumerate(children)]
        return tuple(nodes) if kind == "tuple" else nodes

    return node(json.loads(description), ())


def nested(leaves: Mapping[str, Any]) -> Any:
    """Dicts of dicts, from names joined by dots.

    Raises:
        ValueError: a name is both that of a leaf and the beginning of another.
    """
    if set(leaves) == {""}:
        return leaves[""]
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split(".")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                break
        if not isinstance(inner, dict) or last in inner:
            raise ValueError(f"{name!r} and another tensor would have the same place: pass `like`")
        inner[last] = leaf
    return tree


def dotted(names: Collection[str]) -> dict[str, str]:
    """The names in a file by their dotted form, if all are paths as JAX prints them.

    `[0]['w']` becomes `0.w`. Names of any other kind are unchanged.
    """
    found = {}
    for name in names:
        keys = list(KEY.finditer(name))
        if "".join(key.group() for key in keys) != name:
            return {name: name for name in names}
        found[".".join(_text(key) for key in keys)] = name
    return found if len(found) == len(names) else {name: name for name in names}


class _Undescribed(Exception):
    pass


def _node(tree):
    if tree is None:
        return None
    children, _ = tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
    if len(children) == 1 and not children[0][0]:
        return LEAF
    if type(tree) in (tuple, list):
        return {type(tree).__name__: [_node(child) for _, child in children]}
    return {"dict": [[_key(path[0]), _node(child)] for path, child in children]}


def _key(entry) -> str | int:
    for attribute in ("key", "name", "idx"):
        key: Any = getattr(entry, attribute, None)
        if type(key) in (str, int):
            return key
    raise _Undescribed


def _text(key: re.Match) -> str:
    return ast.literal_eval(key["text"]) if key["text"] else key["other"] or key["field"]
