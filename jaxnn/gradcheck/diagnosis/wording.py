"""The sentences of a diagnosis: the mistake, the leaves that it affects, and its meaning."""

from jaxnn.gradcheck.diagnosis.graph import Graph
from jaxnn.gradcheck.diagnosis.keys import FITTED, Key
from jaxnn.gradcheck.diagnosis.mistakes import MISTAKES

CONSTANT_MEANING = {
    "C1": "a sign is lost, such as that of the error or of the loss.",
    "C2": "the 1/N of the mean is missing.",
    "C3": "something divides by N once too often, such as a mean instead of a sum.",
    "C5": "a 2 or a ½ of the loss is missing or present twice.",
    "C6": "the mean over the outputs is missing, or is not part of the loss.",
    "C7": "this is the update, not the gradient.",
    "C9": "the gradient was clipped by its norm.",
    "L8": "the root of the loss was differentiated.",
    "C8": "several constants are missing or present twice.",
}
MULTIPLES_OF_DECAY = {
    -1.0: "the weight decay term is missing.",
    1.0: "the weight decay term is included once too often.",
    -2.0: "the weight decay term has the wrong sign.",
    -0.5: "the weight decay term is half as large as it should be.",
}


def sentence(key: Key, leaves: list[str], graph: Graph, alone: bool = True) -> str:
    """Describe the effect of a mistake on some leaves.

    Args:
        key: the mistake and its constant.
        leaves: the paths.
        graph: the graph of the network.
        alone: whether these leaves have no other mistake.
    """
    names = ", ".join(f"params{path}" for path in leaves)
    several = len(leaves) > 1
    verb = "are" if several else "is"
    if key.id in CONSTANT_MEANING and key.constant is not None:
        times = f"{names} {verb} {key.constant:.7g} × the true gradient everywhere"
        if not alone:
            times = f"{names} {'have' if several else 'has'} the factor {key.constant:.7g} as well"
        return f"{times}, and {_number(key)} is {key.words}: {_meaning_of_constant(key)}"
    if key.id == "R1" and key.constant is not None:
        differs = f"{names} {'differ' if several else 'differs'} from the true gradient by "
        if not alone:
            differs = f"{names} {'contain' if several else 'contains'} the extra term "
        meaning = _meaning_of_decay(key, leaves, graph)
        return f"{differs}{key.constant:g} × {key.words}: {meaning}"
    if key.id == "Z1" and key.words:
        return f"{names} {verb} missing from the gradients. {MISTAKES['Z1'].explanation}"
    if key.id == "Z2":
        return f"{names} {'have' if several else 'has'} {key.words}. {MISTAKES['Z2'].explanation}"
    made = f"{names} {verb} exactly as this mistake makes {'them' if several else 'it'}"
    if not alone:
        made = f"{names} {'have' if several else 'has'} this mistake in addition to another"
    told = f" ({key.words})" if key.words else ""
    return f"{made}{told}. {MISTAKES[key.id].explanation}"


def _number(key) -> str:
    return "the sign" if key.id == "C1" else f"{key.constant:.7g}"


def _meaning_of_constant(key: Key) -> str:
    if key.words == FITTED:
        return "the gradient contains a number such as a learning rate or a momentum."
    return CONSTANT_MEANING[key.id]


def _meaning_of_decay(key: Key, leaves: list[str], graph: Graph) -> str:
    c, decay = key.constant or 0.0, graph.weight_decay
    if key.words == "its sign":
        return f"an L1 penalty term is {'missing' if c < 0 and decay else 'added'}."
    if decay and not any(path.endswith("['w']") for path in leaves):
        return "weight decay is applied to a parameter that is not a weight."
    for multiple, meaning in MULTIPLES_OF_DECAY.items():
        if decay and abs(c / decay - multiple) < 1e-2:
            return meaning
    return "an L2 penalty term is missing." if c < 0 else "an L2 penalty term is added."
