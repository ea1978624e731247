"""The output shape and the cost of each layer of a network."""

from typing import NamedTuple

import jax

from jaxnn.arrays import as_array, leaves
from jaxnn.combinators import Around, Composed, Each, Serial
from jaxnn.layer import BuiltLayer, Layer, as_layer
from jaxnn.op import Op

COLUMNS = ("layer", "output", "parameters", "bytes saved", "flops")


class Row(NamedTuple):
    """One layer.

    Attributes:
        depth: the number of layers that contain it.
        layer: the layer, as it prints.
        output: the dtype and the shape of its output.
        parameters: the number of its parameters.
        saved_bytes: the bytes that its `fwd` saves for `bwd`, each array once; the parameters,
            which exist anyway, do not count.
        flops: the floating-point operations of its forward pass, as the compiler counts them.
    """

    depth: int
    layer: str
    output: str
    parameters: int
    saved_bytes: int
    flops: int


class Summary(NamedTuple):
    """The rows of a network, and their totals; it prints as a table.

    Attributes:
        rows: a row for each layer, containers before their contents.
        total: the whole network.
    """

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        cells = [COLUMNS, *map(_cells, self.rows), _cells(self.total)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self) -> str:
        return str(self)


def summary(net: Layer | Op, x, params=None) -> Summary:
    """The layers of a network with their output shapes, parameters, saved bytes and flops.

    Nothing is computed: shapes are traced.

    Args:
        net: a layer, or an op of one argument.
        x: an input, an array or a tree of them, or `jax.ShapeDtypeStruct`s instead.
        params: the parameters, or their shapes; by default those that `net.init` makes.

    Raises:
        TypeError: net is neither a layer nor an op of one argument, or x or params holds something
            other than arrays.
        ValueError: x does not fit the network.

    Example:
        >>> net = jaxnn.serial(jaxnn.Linear(64, 128), jaxnn.relu, jaxnn.Linear(128, 10))
        >>> print(jaxnn.summary(net, jnp.ones((32, 64))))
        layer            output           parameters  bytes saved    flops
        ------------------------------------------------------------------
        Linear(64, 128)  float32[32,128]       8,320        8,192  528,384
        relu             float32[32,128]           0       16,384    8,193
        Linear(128, 10)  float32[32,10]        1,290       16,384   82,240
        ------------------------------------------------------------------
        total            float32[32,10]        9,610       24,576  618,817
    """
    net = as_layer(net)
    x = _shapes("x", as_array("summary: x", x) if isinstance(x, list) else x)
    if params is None:
        params = jax.eval_shape(net.init, jax.random.key(0))
    params = _shapes("params", params)
    total = _row(net, params, x, 0)._replace(layer="total")  # an error here names its layer
    return Summary(tuple(_rows(net, params, x, 0)), total)


def _shapes(name: str, tree):
    """The shapes of a tree of arrays; leaves that are shapes already are unchanged."""

    def shape(path, leaf):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        return jax.eval_shape(
            lambda: as_array(f"summary: {name}{jax.tree_util.keystr(path)}", leaf)
        )

    leaves(f"summary: {name}", tree)
    return jax.tree_util.tree_map_with_path(shape, tree)


def _rows(net: Layer, params, x, depth: int):
    """The rows of a layer and of the layers inside it; those inside the outermost not indented."""
    inside = list(_inside(net, params, x))
    if depth or not inside:
        yield _row(net, params, x, max(depth - 1, 0))
    for layer, layer_params, layer_x in inside:
        yield from _rows(layer, layer_params, layer_x, depth + 1)


def _inside(net: Layer, params, x):
    """The layers inside a layer, each with its parameters and its input."""
    if isinstance(net, BuiltLayer):
        yield from _inside(net.net, params, x)
    elif isinstance(net, Around):
        layer_params = jax.eval_shape(net.params_of_layer, params)
        yield net.layer, layer_params, jax.eval_shape(net.input_of_layer, x)
    elif isinstance(net, Composed):
        for i, (layer, layer_params) in enumerate(zip(net.layers, params, strict=True)):
            yield layer, layer_params, x[i] if isinstance(net, Each) else x
            if isinstance(net, Serial):
                x = _output(layer, layer_params, x)


def _output(net: Layer, params, x):
    return jax.eval_shape(lambda params, x: net.fwd(params, x, jax.random.key(0))[0], params, x)


def _row(net: Layer, params, x, depth: int) -> Row:
    saved = []

    def forward(params, x):
        y, residuals = net.fwd(params, x, jax.random.key(0))
        given = set(map(id, jax.tree.leaves(params)))
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(residuals) if id(leaf) not in given}
        saved.append(sum(a.size * a.dtype.itemsize for a in arrays.values()))
        return y

    costs = jax.jit(forward).lower(params, x).cost_analysis() or {}
    output = _output(net, params, x)
    return Row(
        depth=depth,
        layer=type(net).__name__ if list(_inside(net, params, x)) else repr(net),
        output=", ".join(map(_described, jax.tree.leaves(output))),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        saved_bytes=saved[0],
        flops=int(costs.get("flops", 0)),
    )


def _described(leaf) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.parameters, row.saved_bytes, row.flops)
    return ("  " * row.depth + row.layer, row.output, *(f"{number:,}" for number in numbers))
