"""The weights of PyTorch and Hugging Face networks, by the names of their tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.arrays import as_arrays, as_numpy, unwrapped
from jaxnn.combinators import Around, Composed
from jaxnn.interop.torch_modules import (
    PARTS,
    RULES,
    STATE_RULES,
    Name,
    Rule,
    Stored,
    matches,
    require_name,
)
from jaxnn.layer import BuiltLayer, Layer, Params, State, as_layer
from jaxnn.op import Op
from jaxnn.tied import Path, Tied


def params_from_torch(
    net: Layer | Op,
    tensors: Mapping[str, Any],
    names: Mapping[Path, Name],
    *,
    ignore: Sequence[str] = (),
    conv1d: Sequence[str] = (),
) -> Params:
    """Params of a network from the tensors of a PyTorch module.

    `names` maps the path of each layer in the params of `net`, as in `tied`, to the prefix of its
    module in PyTorch: `{(0,): "encoder.ln_1"}` reads "encoder.ln_1.weight" and "encoder.ln_1.bias".
    Axes are put into jaxnn's order; dtypes do not change. Only weights are read: the layers of
    `net` must have the options of the modules, such as stride, ε and the activation (PyTorch's GELU
    is `gelu.bind(approximate=False)`).

        jaxnn                        PyTorch, under the prefix
        Linear                       weight (O, I), bias
        Conv                         weight (O, I/G, *kernel), bias
        ConvTranspose                weight (I, O/G, *kernel), with the kernel flipped; bias
        LayerNorm, RMSNorm,          weight, bias
        GroupNorm, BatchNorm
        Embedding, PReLU             weight
        RNN, GRU, LSTM               weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, and with
                                     `reverse` the same with _reverse at the end. `("lstm", 1)`
                                     means the layer after that, …_l1, and `("cell", None)` a
                                     cell, whose tensors have no number.
        Bidirectional                both directions of one layer
        MultiHeadAttention           in_proj_weight, in_proj_bias and out_proj, of
                                     torch.nn.MultiheadAttention; or the linear layers q_proj,
                                     k_proj, v_proj and out_proj or o_proj; or c_attn, with queries,
                                     keys and values packed into one, and c_proj, of GPT-2. Under
                                     other names: `{"q": …, "k": …, "v": …, "o": …}` or
                                     `{"qkv": …, "o": …}`, each the full prefix of a linear layer.
        TransformerBlock             norm1, self_attn, norm2, linear1 and linear2, of
                                     torch.nn.TransformerEncoderLayer(norm_first=True); with `cross`
                                     those of a TransformerDecoderLayer. For other modules `names`
                                     has the layers inside instead.

    A path may also lead to a single array, such as `(3, "alpha")`: its name is then that of a
    tensor, which is read unchanged. The params of any other layer are read in this way. A tensor of
    an array that `tied` replaces may be missing; if it is there, it must be equal.

    Args:
        net: a layer.
        tensors: an array for each name: `{name: tensor.numpy() for name, tensor in
            module.state_dict().items()}`, or `safetensors.numpy.load_file(path)`.
        names: the prefix for each path.
        ignore: patterns of tensors that may be unused, such as "attn.bias" or "lm_head.*". A
            pattern matches a whole name, or its end after a dot. The running statistics of a
            `BatchNorm` count as used; `state_from_torch` reads them.
        conv1d: patterns of prefixes of linear layers whose weight is stored as (I, O), as by the
            Conv1D of GPT-2: `("c_attn", "c_proj", "c_fc")`. A square weight fits both ways, so a
            missing pattern is not always noticed.

    Returns:
        Params in the tree of `net.init`, as copies.

    Raises:
        TypeError: a tensor is not an array of floating-point numbers, or a name does not have the
            type that its layer needs.
        ValueError: `names` lacks a layer that has parameters, or has a path where there is none; a
            tensor is missing, has a wrong shape, differs from the one it is tied to, or is unused.

    Reference: `torch.nn` of PyTorch 2.14; `Conv1D` of Hugging Face's transformers.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(3, 2), jaxnn.relu, jaxnn.LayerNorm(2))
        >>> tensors = {"fc.weight": jnp.ones((2, 3)), "fc.bias": jnp.zeros(2)}
        >>> tensors |= {"ln.weight": jnp.ones(2), "ln.bias": jnp.zeros(2)}
        >>> params = jaxnn.params_from_torch(net, tensors, {(0,): "fc", (2,): "ln"})
        >>> jax.tree.map(jnp.shape, params)
        ({'b': (2,), 'w': (3, 2)}, (), {'bias': (2,), 'scale': (2,)})
    """
    caller = "params_from_torch"
    net = as_layer(net)
    _require_tensors(caller, tensors)
    _require_patterns(caller, ignore=ignore, conv1d=conv1d)
    stored = Stored(tensors, tuple(conv1d))
    rules = _rules(caller, net, names, stored, PARAMS)
    arrays, used = _arrays(caller, tensors, rules, _ties(net))
    for rule in _rules(caller, net, names, stored, STATE, complete=False):
        used.update(rule.tensors)
    known = (*ignore, "num_batches_tracked")
    unused = [
        name
        for name in tensors
        if name not in used and not any(matches(name, pattern) for pattern in known)
    ]
    if unused:
        n = len(unused)
        what = f"{n} tensors are not used, the first is" if n > 1 else "there is one unused tensor,"
        raise ValueError(
            f"{caller}: {what} {unused[0]!r}; add its layer to names, or match it with ignore"
        )
    return _filled(PARAMS.tree(net), arrays)


def state_from_torch(
    net: Layer | Op, tensors: Mapping[str, Any], names: Mapping[Path, Name]
) -> State:
    """State of a network from the tensors of a PyTorch module: the statistics of its batch norms.

    The "mean" and "var" of a `BatchNorm` are running_mean and running_var. Both libraries keep the
    unbiased variance; the momentum of one is 1 minus that of the other.

    Args:
        net: a layer.
        tensors: as for `params_from_torch`.
        names: likewise; only those of stateful layers matter.

    Returns:
        The state, in the tree of `net.init_state`. The arrays are copies.

    Raises:
        TypeError: a tensor is not an array of floating-point numbers, or a name is not a prefix.
        ValueError: `names` lacks a layer that has a state, or a tensor is missing or has a wrong
            shape.

    Example:
        >>> net = jaxnn.serial(jaxnn.BatchNorm(2), jaxnn.relu)
        >>> tensors = {"bn.running_mean": jnp.array([1.0, 2.0]), "bn.running_var": jnp.ones(2)}
        >>> state = jaxnn.state_from_torch(net, tensors, {(0,): "bn"})
        >>> print(net.apply(net.init(jax.random.key(0)), jnp.array([[1.0, 3.0]]), state))
        [[0.       0.999995]]
    """
    caller = "state_from_torch"
    net = as_layer(net)
    _require_tensors(caller, tensors)
    rules = _rules(caller, net, names, Stored(tensors, ()), STATE)
    arrays, _ = _arrays(caller, tensors, rules, {})
    return _filled(STATE.tree(net), arrays)


def params_to_torch(
    net: Layer | Op,
    params: Params,
    names: Mapping[Path, Name],
    *,
    state: State = None,
    conv1d: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The inverse of `params_from_torch`, and with `state` also of `state_from_torch`.

    The tensors of one prefix for a `MultiHeadAttention` are those of torch.nn.MultiheadAttention.
    An array that `tied` replaces is written twice, under both names.

    Args:
        net: a layer.
        params: its params.
        names: as for `params_from_torch`.
        state: optional, its state.
        conv1d: as for `params_from_torch`.

    Returns:
        NumPy arrays by name: `module.load_state_dict({n: torch.from_numpy(a) for n, a in
        tensors.items()})` loads them.

    Raises:
        TypeError: a name does not have the type that its layer needs, or params or state holds
            something other than arrays of floating-point numbers.
        ValueError: params or state are not those of the network, `names` lacks a layer or has a
            path where there is none, or two arrays that differ have one name.

    Example:
        >>> layer = jaxnn.Linear(3, 2)
        >>> tensors = jaxnn.params_to_torch(layer, layer.init(jax.random.key(0)), {(): "fc"})
        >>> {name: tensor.shape for name, tensor in tensors.items()}
        {'fc.weight': (2, 3), 'fc.bias': (2,)}
    """
    caller = "params_to_torch"
    net = as_layer(net)
    _require_patterns(caller, conv1d=conv1d)
    written: dict[str, np.ndarray] = {}
    for kind, tree in ((PARAMS, params), (STATE, state)):
        if tree is None and kind is STATE:
            continue
        name = f"{caller}: {kind.name}"
        tree = as_arrays(name, unwrapped(name, tree))
        arrays, wanted = _leaves(tree), _leaves(kind.tree(net))
        for path, array in arrays.items():
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise TypeError(
                    f"{caller}: {kind.name} must be floating point, got {array.dtype} at {path}"
                )
        shapes, wanted_shapes = ({k: a.shape for k, a in d.items()} for d in (arrays, wanted))
        if shapes != wanted_shapes:
            where = next(iter(sorted(set(shapes.items()) ^ set(wanted_shapes.items()), key=str)))[0]
            raise ValueError(
                f"{caller}: {kind.name} do not fit the network at {where}: there the shape is "
                f"{shapes.get(where)}, and it must be {wanted_shapes.get(where)}"
            )
        ties = _ties(net) if kind is PARAMS else {}
        for rule in _rules(caller, net, names, Stored((), tuple(conv1d)), kind):
            values = rule.write(*(_stored_array(arrays, ties, key) for key in rule.arrays))
            for name, value in zip(rule.tensors, map(np.array, values), strict=True):
                if name in written and not np.array_equal(written[name], value):
                    raise ValueError(f"{caller}: two arrays that differ have the name {name!r}")
                written[name] = value
    return written


class Kind(NamedTuple):
    """The arrays that are read or written: params or state.

    Attributes:
        name: their name in messages.
        tree: a function from a layer to the shapes of these arrays.
        rules: the rules of each class of layers.
    """

    name: str
    tree: Callable[[Layer], Any]
    rules: dict[type, Callable]


PARAMS = Kind("params", lambda layer: jax.eval_shape(layer.init, jax.random.key(0)), RULES)
STATE = Kind("state", lambda layer: jax.eval_shape(layer.init_state), STATE_RULES)


def _require_tensors(caller: str, tensors) -> None:
    """Raise unless tensors is a dict of arrays by name."""
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise TypeError(
            f"{caller}: tensors must be a dict of arrays by name, got {type(tensors).__name__}"
        )


def _require_patterns(caller: str, **options) -> None:
    """Raise unless each option is a sequence of patterns; a single string is not."""
    for option, patterns in options.items():
        is_sequence = isinstance(patterns, Sequence | set) and not isinstance(patterns, str)
        if not is_sequence or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(f"{caller}: {option} must be a tuple of patterns, got {patterns!r:.80}")


def _rules(
    caller: str,
    net: Layer,
    names: Mapping[Path, Name],
    stored: Stored,
    kind: Kind,
    *,
    complete: bool = True,
) -> list[Rule]:
    """The rules of all layers, with paths from the root; if `complete`, every array has one."""
    if not isinstance(names, Mapping):
        raise TypeError(
            f"{caller}: names must be a dict of prefixes by path, got {type(names).__name__}"
        )
    nodes = list(_layers(net))
    names, known = _with_parts(caller, nodes, names)
    ties = _ties(net)
    found: list[Rule] = []
    for path, layer in nodes:
        if isinstance(layer, BuiltLayer | Around | Composed):
            continue
        own = {path + key: leaf for key, leaf in _leaves(kind.tree(layer)).items()}
        where = f"the {type(layer).__name__} at {path}"
        rules = [_of_one_array(caller, key, names[key]) for key in own if key in names]
        given = {key for rule in rules for key in rule.arrays}
        known |= given
        make = _of_class(kind.rules, layer)
        if path in names and (make or _of_class(PARAMS.rules, layer)):
            known.add(path)
        if path in names and make and not given.issuperset(own):
            require_name(caller, names[path], make, path, layer)
            for rule in make(layer, names[path], stored):
                keys = tuple(path + key for key in rule.arrays)
                if given.isdisjoint(keys) and own.keys() >= set(keys):
                    rules.append(rule._replace(arrays=keys))
        for key in own:
            covered = _tie(ties, key) or any(key in rule.arrays for rule in rules)
            if complete and not covered:
                raise ValueError(f"{caller}: {_uncovered(where, key, make, path in names)}")
        for rule in rules:
            shapes = tuple(a.shape for a in jax.eval_shape(rule.write, *map(own.get, rule.arrays)))
            found.append(rule._replace(shapes=shapes, layer=where))
    if kind is PARAMS and (unknown := [path for path in names if path not in known]):
        raise ValueError(
            f"{caller}: names has {unknown[0]}, where the network has no layer with parameters"
        )
    return found


def _of_one_array(caller: str, key: Path, name: Name) -> Rule:
    """The rule that an array is a tensor, unchanged."""
    if not isinstance(name, str):
        raise TypeError(
            f"{caller}: names[{key}], for one array, must be the name of a tensor, got {name!r}"
        )
    return Rule((key,), (name,))


def _uncovered(where: str, key: Path, make: Callable | None, named: bool) -> str:
    """The message that no rule makes an array of a layer."""
    if make is None:
        return f"there is no rule for {where}, so names must list each of its arrays, such as {key}"
    if named:
        return f"names has nothing for the array {key} of {where}"
    return f"names has nothing for {where}"


def _layers(layer: Layer, path: Path = ()) -> Iterator[tuple[Path, Layer]]:
    """A layer and all layers inside it, each with the path of its params."""
    yield path, layer
    if isinstance(layer, BuiltLayer):
        yield from _layers(layer.net, path)
    elif isinstance(layer, Around):
        yield from _layers(layer.layer, path)
    elif isinstance(layer, Composed):
        for i, inner in enumerate(layer.layers):
            yield from _layers(inner, (*path, i))


def _with_parts(
    caller: str, nodes: list[tuple[Path, Layer]], names: Mapping[Path, Name]
) -> tuple[dict[Path, Name], set[Path]]:
    """The names, with those of the layers inside the layers that have parts; and those paths."""
    all_names, known = dict(names), set()
    for path, layer in nodes:
        parts = _of_class(PARTS, layer)
        if parts is not None and path in all_names:
            require_name(caller, all_names[path], parts, path, layer)
            known.add(path)
            for inner, name in parts(layer, all_names[path]).items():
                all_names.setdefault(path + inner, name)
    return all_names, known


def _of_class(table: Mapping[type, Callable], layer: Layer) -> Callable | None:
    """The entry of the first class of a layer that has one."""
    return next((table[c] for c in type(layer).__mro__ if c in table), None)


def _arrays(
    caller: str, tensors: Mapping[str, Any], rules: list[Rule], ties: dict
) -> tuple[dict[Path, Any], set[str]]:
    """The arrays by path, and the names of the tensors they are made from."""
    arrays: dict[Path, Any] = {}
    for rule in rules:
        optional = all(_tie(ties, key) for key in rule.arrays)
        if optional and not any(name in tensors for name in rule.tensors):
            continue
        for name, shape in zip(rule.tensors, rule.shapes, strict=True):
            _require_tensor(caller, tensors, name, shape, rule)
        made = rule.read(*(as_numpy(name, tensors[name]) for name in rule.tensors))
        arrays |= dict(zip(rule.arrays, made, strict=True))
    made_of = {key: rule.tensors for rule in rules for key in rule.arrays}
    for key in arrays:
        tie = _tie(ties, key)
        if tie and not np.array_equal(arrays[key], _stored_array(arrays, ties, key)):
            raise ValueError(
                f"{caller}: tensor {made_of[key][0]!r} gives an array at {key} that differs from "
                f"the one it is tied to, at {tie[0]}"
            )
    return arrays, {name for rule in rules for name in rule.tensors}


def _require_tensor(caller: str, tensors: Mapping[str, Any], name: str, shape, rule: Rule) -> None:
    """Raise unless a rule's tensor is there, of this shape and of floating-point numbers."""
    if name not in tensors:
        close = get_close_matches(name, list(tensors), n=1)
        hint = f"; the closest name is {close[0]!r}" if close else ""
        raise ValueError(f"{caller}: there is no tensor {name!r}, which {rule.layer} needs{hint}")
    tensor = tensors[name]
    if not isinstance(tensor, np.ndarray | jax.Array):
        raise TypeError(
            f"{caller}: tensor {name!r} must be a NumPy or JAX array, got "
            f"{type(tensor).__name__}; convert a PyTorch tensor with tensor.numpy()"
        )
    if isinstance(tensor, np.ndarray):
        as_numpy(f"{caller}: tensor {name!r}", tensor)
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise TypeError(f"{caller}: tensor {name!r} must be floating point, got {tensor.dtype}")
    if tensor.shape != shape:
        turned = rule.linear and tensor.shape == shape[::-1]
        hint = f"; if it is stored as (I, O), match {rule.linear!r} with conv1d" if turned else ""
        raise ValueError(
            f"{caller}: tensor {name!r} has shape {tensor.shape}, but {rule.layer} needs {shape}"
            f"{hint}"
        )


def _stored_array(arrays: Mapping[Path, Any], ties: dict, key: Path):
    """An array, or the one it is tied to."""
    transpose = False
    while (tie := _tie(ties, key)) is not None:
        key, swapped = tie
        transpose ^= swapped
    return arrays[key].T if transpose else arrays[key]


def _ties(net: Layer) -> dict[Path, tuple[Path, bool]]:
    """Where each tied path leads, and whether the array is transposed there."""
    ties = {}
    for path, layer in _layers(net):
        if isinstance(layer, Tied):
            shapes = PARAMS.tree(layer.layer)
            at, to = (path + _from_the_front(shapes, keys) for keys in (layer.path, layer.to))
            ties[at] = (to, layer.transpose)
    return ties


def _tie(ties: dict, key: Path) -> tuple[Path, bool] | None:
    """Where the array at a path is stored instead, and whether transposed; `None` if it is not."""
    for at, (to, transpose) in ties.items():
        if key[: len(at)] == at:
            return to + key[len(at) :], transpose
    return None


def _from_the_front(tree, path: Path) -> Path:
    """A path without negative positions."""
    keys: Path = ()
    for key in path:
        keys += (key % len(tree) if isinstance(key, int) else key,)
        tree = tree[key]
    return keys


def _leaves(tree) -> dict[Path, Any]:
    """The leaves of a tree by path."""
    return {
        tuple(key.idx if hasattr(key, "idx") else key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _filled(tree, arrays: Mapping[Path, Any]):
    """A tree with the arrays at its paths, copied."""
    leaves = [jnp.array(arrays[path]) for path in _leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
