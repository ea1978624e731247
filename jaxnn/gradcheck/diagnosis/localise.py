"""The place at which a backward pass goes wrong, from the leaves that are wrong."""

from jaxnn.gradcheck.diagnosis.graph import Graph


def localise(graph: Graph, wrong: list[int]) -> str:
    """A sentence on the stage at fault; the backward pass runs from the last layer to the first.

    Args:
        graph: the graph of the network.
        wrong: the positions of the wrong leaves.
    """
    if not wrong:
        return "Every leaf agrees."
    layers = _layers(graph)
    names = [graph.paths[i] for i in wrong]
    if len(wrong) == len(graph.paths) and len(wrong) > 1:
        return (
            "Every leaf is wrong: look at the beginning of the backward pass (the loss, its "
            "reduction or the derivative of the output)."
        )
    if len(wrong) == 1:
        (name,) = names
        if name.endswith("['b']"):
            return f"Only params{name} is wrong: δ is right, so look at its sum over the batch."
        if len(graph.paths) > 1:
            return f"Only params{name} is wrong: δ is right, so look at its product with the input."
    for above in range(1, len(layers)):
        if sorted(i for layer in layers[:above] for i in layer) == wrong:
            first = ", ".join(f"params{graph.paths[i]}" for i in layers[above])
            return (
                f"Everything below the layer of {first} is wrong and the rest is right: "
                "look at how δ passes back through that layer's W and the activation before it."
            )
    return f"Wrong are {', '.join(f'params{name}' for name in names)}; the other leaves are right."


def _layers(graph: Graph) -> list[list[int]]:
    """The positions of the leaves of each step with parameters; none for a branched network."""
    layers = []
    for i, node in enumerate(graph.nodes):
        if node.inputs != (i - 1,):
            return []
        leaves = [graph.leaf_of(place) for place in node.places_of_leaves if place.size]
        layers += [leaves] if leaves else []
    return layers
