"""The sentences of a diagnosis: what was found in which leaves, and what it means."""

from jaxnn.gradcheck.diagnosis.leaf_mistakes import Key
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES
from jaxnn.gradcheck.diagnosis.tape import Trace

CONSTANT_MEANING = {
    "C1": "the sign of the error or of the loss is lost.",
    "C2": "the 1/N of the mean is missing.",
    "C3": "something divides by N once too often, such as a mean in place of a sum.",
    "C5": "a 2 or a ½ of the loss is missing or there twice.",
    "C6": "the mean over the outputs is missing or not in the loss.",
    "C7": "this is the update, not the gradient.",
    "C8": "several constants are missing or there twice.",
}
MULTIPLES_OF_DECAY = {
    -1.0: "the term of weight decay is missing.",
    1.0: "the term of weight decay is there once too often.",
    -2.0: "the term of weight decay has the wrong sign.",
}


def sentence(key: Key, leaves: list[str], made: Trace) -> str:
    """What a mistake did to some leaves.

    Args:
        key: the mistake and its constant.
        leaves: the paths.
        made: the trace.
    """
    what = ", ".join(f"params{path}" for path in leaves)
    several = len(leaves) > 1
    verb = "are" if several else "is"
    if key.id in CONSTANT_MEANING and key.constant is not None:
        times = f"{what} {verb} {key.constant:.7g} × the true gradient everywhere"
        return f"{times}, and {_value(key)} is {key.words}: {CONSTANT_MEANING[key.id]}"
    if key.id == "R1" and key.constant is not None:
        times = f"{what} {'differ' if several else 'differs'} from the true gradient by "
        return f"{times}{key.constant:g} × the parameter: {_decay(key.constant, leaves, made)}"
    if key.id == "Z2":
        return f"{what} {'hold' if several else 'holds'} {key.words}. {MISTAKES['Z2'].explanation}"
    return f"{what} {verb} what this mistake gives. {MISTAKES[key.id].explanation}"


def _value(key) -> str:
    return "the sign" if key.id == "C1" else f"{key.constant:.7g}"


def _decay(c: float, leaves: list[str], made: Trace) -> str:
    decay = made.weight_decay
    if decay and any(path.endswith("['b']") for path in leaves):
        return "a parameter that is no weight is decayed."
    for multiple, meaning in MULTIPLES_OF_DECAY.items():
        if decay and abs(c / decay - multiple) < 1e-2:
            return meaning
    return "a term of an L2 penalty is missing." if c < 0 else "a term of an L2 penalty is added."
