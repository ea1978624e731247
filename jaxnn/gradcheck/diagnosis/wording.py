"""The sentences of a diagnosis: the mistake, the leaves that it affects, and its meaning."""

from jaxnn.gradcheck.diagnosis.leaf_mistakes import Key
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES
from jaxnn.gradcheck.diagnosis.tape import Tape

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


def sentence(key: Key, leaves: list[str], tape: Tape) -> str:
    """Describe the effect of a mistake on some leaves.

    Args:
        key: the mistake and its constant.
        leaves: the paths.
        tape: of the network.
    """
    names = ", ".join(f"params{path}" for path in leaves)
    several = len(leaves) > 1
    verb = "are" if several else "is"
    if key.id in CONSTANT_MEANING and key.constant is not None:
        times = f"{names} {verb} {key.constant:.7g} × the true gradient everywhere"
        return f"{times}, and {_number(key)} is {key.words}: {CONSTANT_MEANING[key.id]}"
    if key.id == "R1" and key.constant is not None:
        differs = f"{names} {'differ' if several else 'differs'} from the true gradient by "
        meaning = _meaning_of_decay(key.constant, leaves, tape)
        return f"{differs}{key.constant:g} × the parameter: {meaning}"
    if key.id == "Z2":
        return f"{names} {'hold' if several else 'holds'} {key.words}. {MISTAKES['Z2'].explanation}"
    made = f"{names} {verb} as this mistake makes {'them' if several else 'it'}."
    return f"{made} {MISTAKES[key.id].explanation}"


def _number(key) -> str:
    return "the sign" if key.id == "C1" else f"{key.constant:.7g}"


def _meaning_of_decay(c: float, leaves: list[str], tape: Tape) -> str:
    decay = tape.weight_decay
    if decay and any(path.endswith("['b']") for path in leaves):
        return "a parameter that is no weight is decayed."
    for multiple, meaning in MULTIPLES_OF_DECAY.items():
        if decay and abs(c / decay - multiple) < 1e-2:
            return meaning
    return "a term of an L2 penalty is missing." if c < 0 else "a term of an L2 penalty is added."
