"""Where a backward pass goes wrong, from which leaves are wrong."""

import jax

from jaxnn.gradcheck.diagnosis.tape import Trace


def localise(made: Trace, wrong: list[int]) -> str:
    """A sentence on the stage at fault; the pass runs from the last layer to the first.

    Args:
        made: the trace.
        wrong: the positions of the wrong leaves.
    """
    if not wrong:
        return "Every leaf agrees."
    layers = _layers(made)
    names = [made.paths[i] for i in wrong]
    if len(wrong) == len(made.paths) and len(wrong) > 1:
        return (
            "Every leaf is wrong: look at the beginning of the backward pass, that is the loss, "
            "its reduction or the derivative of the output."
        )
    if len(wrong) == 1:
        (name,) = names
        if name.endswith("['b']"):
            return f"Only params{name} is wrong: δ is right, look at its sum over the batch."
        if len(made.paths) > 1:
            return f"Only params{name} is wrong: δ is right, look at its product with the input."
    for above in range(1, len(layers)):
        if sorted(i for layer in layers[:above] for i in layer) == wrong:
            first = ", ".join(f"params{made.paths[i]}" for i in layers[above])
            return (
                f"Everything below the layer of {first} is wrong and all from there on is right: "
                "look at how δ passes back through that layer's W and the activation before it."
            )
    return f"Wrong are {', '.join(f'params{name}' for name in names)}; the other leaves are right."


def _layers(made: Trace) -> list[list[int]]:
    """The positions of the leaves of each stage that has any."""
    return [leaves for s in made.stages if (leaves := jax.tree.leaves(s.leaves))]
