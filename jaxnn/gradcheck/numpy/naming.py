"""The meaning of common names of backward arguments and gradients."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import product

FORWARD_METHODS = (
    "forward",
    "forward_pass",
    "fprop",
    "call",
    "compute",
    "__call__",
    "feedforward",
    "feed_forward",
    "forward_propagation",
    "forward_prop",
    "loss",
    "cost",
    "compute_loss",
    "compute_cost",
    "calculate_loss",
    "loss_function",
    "cost_function",
    "apply",
    "activation",
    "activate",
    "f",
    "fn",
    "predict",
)
BACKWARD_METHODS = (
    "backward",
    "backward_pass",
    "bprop",
    "backprop",
    "back_prop",
    "backpropagate",
    "backpropagation",
    "backward_propagation",
    "backward_prop",
    "gradient",
    "gradients",
    "compute_gradient",
    "compute_gradients",
    "compute_grads",
    "get_gradients",
    "grad",
    "derivative",
    "deriv",
    "prime",
    "delta",
    "df",
)

_FLAGS = re.IGNORECASE
_QUANTITY = (
    r"[a-z]|out|output|outputs|value|values|next|up|upstream|hidden|cell|state|act|activation"
    r"|activations|loss|score|scores|logits|result|res|pred|last|prev"
)
UPSTREAM = re.compile(
    rf"d_?(?:{_QUANTITY})\d*(?:_\w+)?|dl_?d?_?\w+|d_?(?:{_QUANTITY})_?\d*|g|gy|gz|go|gout|err|errors?|e"
    r"|\w*delta\w*|\w*grad\w*|\w*upstream\w*|\w*cotangents?\w*|d_?err\w*|top_diff|sensitivity|ct|g_\w+",
    _FLAGS,
)
CACHE = re.compile(
    r"\w*(?:cache|residual|context|saved|tape|memo)s?\w*|memory|mem|ctx|res|stash|store", _FLAGS
)
CONTEXT = re.compile(r"ctx|context|cxt", _FLAGS)
OUTPUT = re.compile(
    r"y|a\d*|al|o|out|outs?|outputs?|activations?|activated|result|forward_output|s"
    r"|(?:\w+_)?(?:out|output)",
    _FLAGS,
)
PROBABILITIES = re.compile(r"p|probs?|probabilit(?:y|ies)", _FLAGS)
PREDICTION = re.compile(
    r"(?:y_?)?(?:pred\w*|hat|prob\w*|output\w*|out|logits?|scores?)|yhat|y_?hat|y_?p(?:red)?|p|q"
    r"|a\d*|al|predicted\w*|estimate\w*|approx\w*|x|z|h",
    _FLAGS,
)
LABELS = re.compile(
    r"y|ys|y_?(?:true|target|train|real|actual|label|onehot|one_hot|batch)s?|yt|t|ts|targets?"
    r"|labels?|true|truth|actual|expected|desired|ground_truth|gt|real|onehot|one_hot|classes",
    _FLAGS,
)
LEARNING_RATE = re.compile(
    r"(?:\w+_)?(?:learning_?rate|l_?rate|step_?size|lr|eta|alpha|rate)\d*", _FLAGS
)
NUMBER_AS_PARAMETER = re.compile(
    r"_*(?:w|b|weight|bias|theta|intercept|slope|coef(?:ficient)?)_?\d*_*", _FLAGS
)
DATA = re.compile(r"_*(?:x|xs|inputs?\w*|data|features?|samples?|images?)_*", _FLAGS)
RESET = re.compile(
    r"_?(?:zero|reset|clear|flush|clean|init|empty)_?(?:all_?)?(?:the_?)?(?:param\w*_)?"
    r"(?:d|delta|grad|nabla|acc)\w*|zero|reset|flush",
    _FLAGS,
)
DERIVATIVE = re.compile(r"\w*(?:prime|deriv\w*|gradient|slope)\d*|d[_A-Z]\w*|df|grad", _FLAGS)

_WORDS_WITH_D = re.compile(
    r"d\d*|data\w*|dims?|dimensions?|depth|dtype|device|decay|dropout\w*|drop\w*|direction|dilation"
    r"|default|debug|dict\w*|dist\w*|diff\w*|duration|den\w*|degree|deg|done|draw|dst|dt|deep",
    _FLAGS,
)
_MARKED = re.compile(
    r"(?:d_?l_?d_?|d_?j_?d_?|d_?loss_?d_?|d_?cost_?d_?|d_?e_?d_?|∂_?|g_"
    r"|(?:grad(?:ient)?s?|nabla|delta|deriv|diff)_?(?:of_|wrt_)?|d_|d)(\w*)"
    r"|(\w+?)_?(?:grad(?:ient)?s?|delta|diff|deriv|prime)",
    _FLAGS,
)
_CONTAINER = re.compile(r"_?param(?:eter)?s?|data|values?|_?caches?|state|net|model|theta", _FLAGS)
_GROUPS = (
    re.compile(r"w|ws|weights?|kernels?|w_?\d*|weight_?matrix|filters?|theta|mat|w\w{0,3}", _FLAGS),
    re.compile(r"b|bs|bias(?:es)?|b_?\d*|intercept|offsets?|b\w{0,3}", _FLAGS),
    re.compile(r"gamma|scale|g", _FLAGS),
    re.compile(r"beta|shift|offset", _FLAGS),
    re.compile(r"x|xs|inp\w*|input\w*|a_?prev|prev\w*|inps|features?|data", _FLAGS),
)

EXACT, ALIKE, KIN, UNKNOWN = 4.0, 3.5, 2.0, 0.0
UNMARKED = 0.5  # a name without a mark such as d or grad is less likely to be that of a gradient


def is_upstream(name: str) -> bool:
    """Whether a parameter of a backward has the name of an upstream gradient."""
    if UPSTREAM.fullmatch(name):
        return True
    return name.startswith("d") and len(name) > 1 and not _WORDS_WITH_D.fullmatch(name)


def without_marks(names: tuple) -> list[tuple]:
    """The `W` in names such as `dW` or `grads["W"]`; an empty list for other names."""
    choices = []
    for name in names:
        matches: Iterator[str] = _unmarked(name) if isinstance(name, str) else iter(())
        choices.append([name, *matches])
    if len(names) > 1 and names[-1] == "g":
        choices[-1].append("")
    return [tuple(n for n in of if n != "") for of in product(*choices) if of != tuple(names)]


def _unmarked(name: str) -> Iterator[str]:
    match = _MARKED.fullmatch(name)
    if match:
        yield match[1] or match[2] or ""
    if match and name[0] in "dD" and len(name) > 1 and match[1] != name[1:].lstrip("_"):
        yield name[1:].lstrip("_")


def bare(names: tuple) -> tuple:
    """Names without those of containers, such as `params`, unless there are no others."""
    inner = tuple(n for n in names if not (isinstance(n, str) and _CONTAINER.fullmatch(n)))
    return inner or names


@cache
def likeness(variable: tuple, candidate: tuple) -> float:
    """How well the name of an array fits the gradient of a variable; 0 if it says nothing."""
    wanted = bare(variable)
    best = UNKNOWN
    for of in [*without_marks(candidate), candidate]:
        marked = of is not candidate
        given = bare(of) if of else ()
        best = max(best, _one_likeness(wanted, given) - (0 if marked else UNMARKED))
    return best


def _one_likeness(wanted: tuple, given: tuple) -> float:
    if not given:
        return UNKNOWN
    starts = [i for i, part in enumerate(wanted) if i == 0 or isinstance(part, str)]
    for score, fold in ((EXACT, str), (ALIKE, lambda part: str(part).lower().replace("_", ""))):
        for start in starts:
            if [fold(p) for p in wanted[start:]] == [fold(p) for p in given]:
                return score
    numbers = [[n for n in names if isinstance(n, int)] for names in (wanted, given)]
    words = [[n for n in names if isinstance(n, str)] for names in (wanted, given)]
    if numbers[0] != numbers[1]:
        return UNKNOWN
    if not words[0] or not words[1]:
        return KIN if numbers[0] else UNKNOWN
    return (
        KIN
        if any(g.fullmatch(words[0][-1]) and g.fullmatch(words[1][-1]) for g in _GROUPS)
        else UNKNOWN
    )
