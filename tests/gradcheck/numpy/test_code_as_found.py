"""Code in the conventions of courses, books and small libraries passes; planted mistakes do not."""

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest

from jaxnn.gradcheck import check_numpy

random = np.random.default_rng(3)
X = random.normal(size=(6, 3))
H, C = random.normal(size=(6, 4)), random.normal(size=(6, 4))
W, B = random.normal(size=(3, 4)), random.normal(size=4)
LABELS = np.array([0, 2, 1, 2, 0, 1])
ONE_HOT = np.eye(3)[LABELS]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    exponentials = np.exp(z - z.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def half_square(output, y):
    return 0.5 * np.sum((output - y) ** 2)


class LeavesResults:
    """Everything stays in the object; forward takes a flag."""

    slip = 1

    def __init__(self):
        self.weights, self.biases = W, B[None]

    def forward(self, inputs, training):
        self.inputs, self.output = inputs, inputs @ self.weights + self.biases

    def backward(self, dvalues):
        self.dweights = self.inputs.T @ dvalues
        self.dbiases = self.slip * dvalues.sum(0, keepdims=True)
        self.dinputs = dvalues @ self.weights.T


class FusedLoss:
    """The backward takes the probabilities that forward left, where dy usually stands."""

    slip = 1

    def forward(self, inputs, y_true):
        self.output = softmax(inputs)
        return -np.log(self.output[np.arange(len(inputs)), y_true]).mean()

    def backward(self, dvalues, y_true):
        self.dinputs = dvalues.copy()
        self.dinputs[np.arange(len(dvalues)), y_true] -= self.slip
        self.dinputs /= len(dvalues)


class LossOfTwoLayers:
    """No backward: loss gives the gradients too; the parameters are in a dict."""

    slip = 1

    def __init__(self, reg=0.3):
        self.params = {"W1": W, "b1": B, "W2": W.T, "b2": B[:3]}
        self.reg = reg

    def loss(self, inputs, y=None):
        p = self.params
        hidden = np.maximum(0, inputs @ p["W1"] + p["b1"])
        probabilities = softmax(hidden @ p["W2"] + p["b2"])
        loss = -np.log(probabilities[range(len(y)), y]).mean()
        loss += 0.5 * self.reg * (np.sum(p["W1"] ** 2) + np.sum(p["W2"] ** 2))
        delta = (probabilities - np.eye(3)[y]) / len(y)
        below = delta @ p["W2"].T * (hidden > 0)
        return loss, {
            "W1": inputs.T @ below + self.reg * p["W1"],
            "b1": below.sum(0),
            "W2": hidden.T @ delta + self.slip * self.reg * p["W2"],
            "b2": delta.sum(0),
        }


class GradientOfLoss:
    """Prediction, loss and the gradient of the loss, of weights and a bias that is a number."""

    slip = 1

    def __init__(self):
        self.weights, self.bias, self.lr = W[:, 0], 0.5, 0.1

    def predict(self, inputs):
        return inputs @ self.weights + self.bias

    def compute_loss(self, inputs, y):
        return np.mean((self.predict(inputs) - y) ** 2)

    def compute_gradients(self, inputs, y):
        error = 2 * (self.predict(inputs) - y) / len(y)
        return inputs.T @ error, self.slip * np.sum(error)


class Momentum:
    def __init__(self):
        self.learning_rate, self.velocity = 0.1, 0

    def update(self, parameter, gradient):
        self.velocity = 0.9 * self.velocity + 0.1 * gradient
        return parameter - self.learning_rate * self.velocity


class SignOfGradient:
    def step(self, parameter, gradient):
        return parameter - 0.01 * np.sign(gradient)


class OwnsOptimizers:
    """Each parameter has an optimizer, which sees the gradient; nobody else does."""

    slip = 1

    def __init__(self, optimizer):
        self.W, self.w0 = W, B[None]
        self.W_opt, self.w0_opt = copy.copy(optimizer), copy.copy(optimizer)

    def forward_pass(self, inputs, training=True):
        self.layer_input = inputs
        return inputs @ self.W + self.w0

    def backward_pass(self, accum_grad):
        before = self.W
        update = "update" if hasattr(self.W_opt, "update") else "step"
        grad_w0 = self.slip * accum_grad.sum(0, keepdims=True)
        self.W = getattr(self.W_opt, update)(self.W, self.layer_input.T @ accum_grad)
        self.w0 = getattr(self.w0_opt, update)(self.w0, grad_w0)
        return accum_grad @ before.T


class LazyAndLogging:
    """Weights come with the first input, and a list keeps what went by."""

    slip = 1

    def __init__(self, width):
        self.width, self.parameters, self.seen = width, {}, {"Z": []}

    def forward(self, inputs, retain_derived=True):
        if not self.parameters:
            self.parameters = {"W": np.random.normal(size=(inputs.shape[1], self.width))}
        self.inputs = inputs
        self.seen["Z"].append(inputs @ self.parameters["W"])
        return np.tanh(self.seen["Z"][-1])

    def backward(self, dLdy, retain_grads=True):
        dZ = dLdy * (1 - np.tanh(self.seen["Z"][-1]) ** 2)
        self.gradients = {"W": self.slip * self.inputs.T @ dZ}
        return dZ @ self.parameters["W"].T


class Slots:
    __slots__ = ("b", "grad_b", "grad_w", "kept", "w")
    slip = 1

    def __init__(self):
        self.w, self.b = W, B

    def forward(self, inputs):
        self.kept = inputs
        return inputs @ self.w + self.b

    def backward(self, g):
        self.grad_w, self.grad_b = self.kept.T @ g, self.slip * g.sum(0)
        return g @ self.w.T


@dataclass
class DataClass:
    weight: np.ndarray
    cache: dict = field(default_factory=dict)
    grads: dict = field(default_factory=dict)
    slip: float = 1

    def fprop(self, inputs):
        self.cache = {"inputs": inputs, "z": inputs @ self.weight}
        return sigmoid(self.cache["z"])

    def bprop(self, upstream):
        s = sigmoid(self.cache["z"])
        dz = upstream * s * (1 - s)
        self.grads["weight"] = self.slip * self.cache["inputs"].T @ dz
        return dz @ self.weight.T


class Marked(np.ndarray):
    """An array that may carry its gradient `g`."""


def marked(array):
    return np.array(array).view(Marked)


class OnTheArrays:
    """Gradients are left on the arrays themselves."""

    slip = 1

    def __init__(self):
        self.w, self.b = marked(W), marked(B)

    def __call__(self, inp, target):
        self.inp, self.target = inp, target
        self.out = marked(inp @ self.w + self.b)
        return np.mean((self.out - target) ** 2)

    def backward(self):
        self.out.g = 2 * (self.out - self.target) / self.out.size
        self.inp.g = self.out.g @ self.w.T
        self.w.g = self.inp.T @ self.out.g
        self.b.g = self.slip * self.out.g.sum(0)


class Recurrent:
    """The backward names the output and the input in its own way."""

    slip = 1

    def __init__(self):
        self.W_ih, self.W_hh = W, random.normal(size=(4, 4))

    def forward(self, inputs, h_prev_t):
        return np.tanh(inputs @ self.W_ih + h_prev_t @ self.W_hh)

    def backward(self, delta, h_t, h_prev_l, h_prev_t):
        dz = delta * (1 - h_t**2)
        self.dW_ih, self.dW_hh = self.slip * h_prev_l.T @ dz, h_prev_t.T @ dz
        return dz @ self.W_ih.T, dz @ self.W_hh.T


class Cost:
    def compute(self, output, target):
        return -np.mean(np.sum(target * np.log(output + 1e-7), 1))


class GuardInside:
    """A small number guards the logarithm, in a method of an object inside."""

    def __init__(self):
        self.weight, self.cost = W[:, :3], Cost()

    def forward(self, inputs, target):
        self.inputs, self.delta = inputs, (softmax(inputs @ self.weight) - target) / len(inputs)
        return self.cost.compute(softmax(inputs @ self.weight), target)

    def backward(self):
        self.d_weight = self.inputs.T @ self.delta
        return self.delta @ self.weight.T


class Columns:
    """Lists of weights, examples in columns; the backward starts at the loss."""

    slip = 1

    def __init__(self):
        self.weights, self.biases = [W.T, W], [B[:, None], B[:3, None]]

    def feedforward(self, a):
        for w, b in zip(self.weights, self.biases, strict=True):
            a = sigmoid(w @ a + b)
        return a

    def backprop(self, x, y):
        activations = [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            activations.append(sigmoid(w @ activations[-1] + b))
        nabla_w, nabla_b = [None, None], [None, None]
        delta = activations[-1] - y
        for layer in (1, 0):
            a = activations[layer + 1]
            delta = delta * a * (1 - a)
            nabla_w[layer], nabla_b[layer] = delta @ activations[layer].T, self.slip * delta
            delta = self.weights[layer].T @ delta
        return nabla_b, nabla_w


class HoldsItsData:
    """The data are in the object, and nothing is given or returned; the step is a part of it."""

    slip = 1

    def __init__(self, inputs, y):
        self.input, self.y, self.weights = inputs, y, W
        self.history, self.velocity = np.zeros(3), np.zeros((3, 4))

    def feedforward(self):
        self.output = sigmoid(self.input @ self.weights)

    def backprop(self):
        delta = 2 * (self.y - self.output) * self.output * (1 - self.output)
        self.history = self.history + 1
        self.velocity = 0.9 * self.velocity + 1
        self.weights = self.weights + self.input.T @ (delta * self.output ** (self.slip - 1))


class Slope:
    """A parameter that is a number, known by the gradient beside it."""

    slip = 1

    def __init__(self):
        self.alpha, self.d_alpha = 0.25, 0.0

    def forward(self, inputs):
        self.inputs = inputs
        return np.where(inputs > 0, inputs, self.alpha * inputs)

    def backward(self, dy):
        self.d_alpha = self.slip * np.sum(dy * np.minimum(self.inputs, 0))
        return dy * np.where(self.inputs > 0, 1, self.alpha)


class GivesItsBackward:
    """Calling it returns the output and the function that takes dy back."""

    slip = 1

    def __init__(self):
        self.W, self.d_W = W, np.zeros_like(W)

    def __call__(self, inputs):
        def backprop(d_out):
            self.d_W += self.slip * inputs.T @ d_out
            return d_out @ self.W.T

        return inputs @ self.W, backprop


class Scalar:
    """A number that remembers how it came about."""

    def __init__(self, data, parents=(), slopes=()):
        self.data, self.grad, self.parents, self.slopes = data, 0.0, parents, slopes

    def __add__(self, other):
        return Scalar(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        return Scalar(self.data * other.data, (self, other), (other.data, self.data))

    def tanh(self):
        t = np.tanh(self.data)
        return Scalar(t, (self,), (1 - t**2,))

    def backward(self, upstream=1.0):
        self.grad += upstream
        for parent, slope in zip(self.parents, self.slopes, strict=True):
            parent.backward(upstream * slope)


class ForgetfulScalar(Scalar):
    def tanh(self):
        return ForgetfulScalar(np.tanh(self.data), (self,), (1,))

    def __add__(self, other):
        return ForgetfulScalar(self.data + other.data, (self, other), (1, 1))

    def __mul__(self, other):
        return ForgetfulScalar(self.data * other.data, (self, other), (other.data, self.data))


class Neuron:
    def __init__(self, kind):
        self.w, self.b = [kind(0.5), kind(-0.25)], kind(0.125)

    def __call__(self, x):
        return (self.w[0] * x[0] + self.w[1] * x[1] + self.b).tanh()


def sum_of_squares(output):
    return np.sum((output - H) ** 2)


OBJECTS = {
    "data inside": (lambda: HoldsItsData(X, H), (), {"loss": sum_of_squares}, "weights"),
    "a slope": (Slope, (X,), {}, "alpha"),
    "gives its backward": (GivesItsBackward, (X,), {}, "W"),
    "results left": (LeavesResults, (X, True), {}, "biases"),
    "probabilities for dy": (FusedLoss, (X, LABELS), {}, "inputs"),
    "loss gives gradients": (LossOfTwoLayers, (X, LABELS), {}, "params['W2']"),
    "gradient of a loss": (GradientOfLoss, (X, B[[0, 1, 2, 3, 0, 1]]), {}, "bias"),
    "momentum inside": (lambda: OwnsOptimizers(Momentum()), (X,), {}, "w0"),
    "sign inside": (lambda: OwnsOptimizers(SignOfGradient()), (X,), {}, "w0"),
    "lazy and logging": (lambda: LazyAndLogging(4), (X,), {}, "parameters['W']"),
    "slots": (Slots, (X,), {}, "b"),
    "a data class": (lambda: DataClass(W), (X,), {}, "weight"),
    "on the arrays": (OnTheArrays, (marked(X), marked(H)), {}, "b"),
    "a cell": (Recurrent, (X, H), {}, "W_ih"),
    "columns": (Columns, (X[:1].T,), {"loss": half_square, "y": X[1:2].T}, "biases[0]"),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_an_object_passes_as_found(case):
    make, args, options, _ = OBJECTS[case]
    report = check_numpy(make(), None, *args, **options)
    assert report.verdict == "right", report


@pytest.mark.parametrize("case", OBJECTS)
def test_a_wrong_factor_in_one_gradient_is_found_there(case, monkeypatch):
    make, args, options, path = OBJECTS[case]
    net = make()
    monkeypatch.setattr(type(net), "slip", 3.0, raising=False)
    if isinstance(net, DataClass):
        net.slip = 3.0
    report = check_numpy(net, None, *args, **options)
    assert report.verdict == "WRONG", report
    wrong = [row.leaf for row in report.rows if row.verdict == "WRONG"]
    assert path in wrong, report
    assert set(wrong) <= {path, path.replace("[0]", "[1]")}, report


def test_a_guard_in_an_object_inside_is_a_note():
    report = check_numpy(GuardInside(), None, X, ONE_HOT)
    assert report.verdict == "right", report
    assert any("right up to the guard" in note for note in report.notes)


def test_probabilities_may_stand_for_dy_only_in_a_loss():
    class Product(FusedLoss):
        def forward(self, inputs, scale):
            self.output = inputs * scale
            return self.output

        def backward(self, dvalues, scale):
            self.dinputs = self.output * scale

    assert check_numpy(Product(), None, X, 2.0).verdict == "WRONG"


def lstm_step(x, prev_h, prev_c, Wx, Wh):
    n = prev_h.shape[1]
    z = x @ Wx + prev_h @ Wh
    i, f, o, g = (
        sigmoid(z[:, :n]),
        sigmoid(z[:, n : -n * 2]),
        sigmoid(z[:, -n * 2 : -n]),
        np.tanh(z[:, -n:]),
    )
    next_c = f * prev_c + i * g
    return o * np.tanh(next_c), next_c, (x, prev_h, prev_c, Wx, Wh, i, f, o, g, next_c)


def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, Wx, Wh, i, f, o, g, c = cache
    dc = dnext_c + dnext_h * o * (1 - np.tanh(c) ** 2)
    gates = [dc * g * i * (1 - i), dc * prev_c * f * (1 - f)]
    gates += [dnext_h * np.tanh(c) * o * (1 - o), dc * i * (1 - g**2)]
    dz = np.hstack(gates)
    return dz @ Wx.T, dz @ Wh.T, dc * f, x.T @ dz, prev_h.T @ dz


def lstm_step_backward_stale(dnext_h, dnext_c, cache):
    dx, dh, _, dWx, dWh = lstm_step_backward(dnext_h, dnext_c, cache)
    return dx, dh, dnext_c * cache[6], dWx, dWh


def pull_back(x, W):
    y = np.tanh(x @ W)

    def backward(dy):
        dz = dy * (1 - y**2)
        return dz @ W.T, x.T @ dz

    return y, backward


def pull_back_without_tanh(x, W):
    y, _ = pull_back(x, W)
    return y, lambda dy: (pull_back(x, W)[1](dy)[0], x.T @ dy)


def embedding(tokens, table):
    return table[tokens], (tokens, table.shape)


def embedding_backward(dout, cache):
    d_table = np.zeros(cache[1])
    np.add.at(d_table, cache[0], dout)
    return d_table


def embedding_backward_last(dout, cache):
    d_table = np.zeros(cache[1])
    d_table[cache[0]] += dout
    return d_table


def hinge(scores, y):
    """The gradient comes with the loss."""
    rows = np.arange(len(y))
    margins = np.maximum(0, scores - scores[rows, y][:, None] + 1) * (1 - np.eye(3)[y])
    d_scores = (margins > 0) / len(y)
    d_scores[rows, y] -= d_scores.sum(1)
    return margins.sum() / len(y), d_scores


def hinge_one_sided(scores, y):
    loss, d_scores = hinge(scores, y)
    return loss, np.maximum(d_scores, 0)


def cost_of_line(X, y, w, b):
    return np.mean((X @ w + b - y) ** 2) / 2


def gradient_of_line(X, y, w, b):
    error = X @ w + b - y
    return np.mean(error), X.T @ error / len(y)


def gradient_of_line_summed(X, y, w, b):
    error = X @ w + b - y
    return np.sum(error), X.T @ error / len(y)


def propagate(w, b, X, Y):
    m = X.shape[1]
    A = sigmoid(w.T @ X + b)
    cost = np.squeeze(-np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A)) / m)
    return {"dw": X @ (A - Y).T / m, "db": np.sum(A - Y) / m}, cost


def propagate_summed(w, b, X, Y):
    grads, cost = propagate(w, b, X, Y)
    return {"dw": grads["dw"], "db": grads["db"] * X.shape[1]}, cost


TOKENS = np.array([[0, 1, 1], [4, 0, 2]])
LSTM = (X, H[:, :2], C[:, :2], random.normal(size=(3, 8)), random.normal(size=(2, 8)))
BINARY = (LABELS[None] > 0) * 1.0
FUNCTIONS = {
    "two outputs": (lstm_step, lstm_step_backward, lstm_step_backward_stale, LSTM, "prev_c"),
    "tokens": (
        embedding,
        embedding_backward,
        embedding_backward_last,
        (TOKENS, random.normal(size=(5, 3))),
        "table",
    ),
    "a pullback": (pull_back, None, pull_back_without_tanh, (X, W), "W"),
    "loss and gradient": (hinge, None, hinge_one_sided, (X, LABELS), "scores"),
    "another order": (
        cost_of_line,
        gradient_of_line,
        gradient_of_line_summed,
        (X, H[:, 0], W[:, 0], 0.5),
        "b",
    ),
    "gradients and cost": (propagate, None, propagate_summed, (W[:, :1], 0.5, X.T, BINARY), "b"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_pass_as_found(case):
    forward, backward, _, args, _ = FUNCTIONS[case]
    report = check_numpy(forward, backward, *args)
    assert report.verdict == "right", report


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_mistake_in_a_function_is_found_where_it_is(case):
    forward, backward, wrong, args, path = FUNCTIONS[case]
    report = check_numpy(*((wrong, None) if backward is None else (forward, wrong)), *args)
    assert report.verdict == "WRONG", report
    assert [row.leaf for row in report.rows if row.verdict == "WRONG"] == [path], report


def test_numbers_with_a_tape_may_be_parameters():
    for kind, verdict in ((Scalar, "right"), (ForgetfulScalar, "WRONG")):
        neuron = Neuron(kind)
        report = check_numpy(neuron, None, [kind(0.75), kind(-1.5)])
        assert report.verdict == verdict, report
        assert len(report.rows) == 5
        assert neuron.b.grad == 0.0
        assert type(neuron.b.data) is float


def test_a_number_that_only_looks_like_a_parameter_is_none():
    class Line:
        def __init__(self):
            self.slope, self.w = 0.5, W

        def forward(self, inputs):
            self.inputs = inputs
            return self.slope * inputs @ self.w

        def backward(self, dy):
            self.dw = self.slope * self.inputs.T @ dy
            return self.slope * dy @ self.w.T

    report = check_numpy(Line(), None, X)
    assert report.verdict == "right", report
    assert [row.leaf for row in report.rows] == ["inputs", "w"]


def test_the_first_reason_is_given_where_nothing_runs():
    def forward(x, y):
        return np.sum(x[np.arange(len(y)), y])

    def backward(dout, x, y):
        raise OverflowError("the author's own")

    report = check_numpy(forward, backward, X, LABELS)
    assert report.verdict == "could not be run"
    assert "OverflowError: the author's own" in str(report)


def jacobian_of_softmax(y):
    return y[..., None] * np.eye(y.shape[-1]) - y[..., None] * y[..., None, :]


@pytest.mark.parametrize("x", [X[0], X])
def test_a_derivative_may_be_a_jacobian(x):
    report = check_numpy(softmax, jacobian_of_softmax, x)
    assert report.ok, report
    wrong = check_numpy(softmax, lambda y: (y * (1 - y))[..., None] * np.eye(y.shape[-1]), x)
    assert "only the diagonal of softmax's Jacobian" in wrong.findings[0].message


class BeginsAtLabels:
    def __init__(self):
        self.weights = np.array([[0.5, -1.0], [0.25, 2.0], [1.0, -0.5]])

    def forward(self, x):
        self.x, self.output = x, np.tanh(x @ self.weights)
        return self.output

    def backward(self, y):
        delta = (self.output - y) * (1 - self.output**2)
        self.dweights = self.x.T @ delta


def test_labels_alone_are_no_incoming_gradient():
    report = check_numpy(BeginsAtLabels(), X)
    assert report.verdict == "could not be run"
    assert "pass the loss that it differentiates as loss=" in report.findings[0].message
    labels = np.tanh(X[:, :2])
    named = check_numpy(
        BeginsAtLabels(), X, loss=lambda output, y: 0.5 * np.sum((output - y) ** 2), y=labels
    )
    assert named.ok, named


def softmax_backward(dout, p):
    return p * (dout - (dout * p).sum(-1, keepdims=True))


def softmax_backward_with_mean(dout, probs):
    return probs * (dout - (dout * probs).mean(-1, keepdims=True))


def test_probabilities_are_the_output():
    assert check_numpy(softmax, softmax_backward, X).verdict == "right"
    report = check_numpy(softmax, softmax_backward_with_mean, X)
    assert report.findings[0].message == "d_z uses the mean of dy·p instead of its sum (C3)"
    assert "write (dout * probs).sum" in report.repairs[0]


class LossOfInput:
    """The loss runs forward, or reads the output that forward stored."""

    slip = 1

    def __init__(self):
        self.W = W

    def forward(self, x):
        self.x, self.out = x, x @ self.W
        return self.out

    def loss(self, x, y):
        return half_square(self.forward(x), y)

    def stored_loss(self, y):
        return half_square(self.out, y) + np.sum(self.W**2)

    def backward(self, y):
        self.dW = self.slip * self.x.T @ (self.out - y)


class WithPenalty(LossOfInput):
    def backward(self, y):
        super().backward(y)
        self.dW += 2 * self.slip * self.W


@pytest.mark.parametrize(("kind", "loss"), [(LossOfInput, "loss"), (WithPenalty, "stored_loss")])
def test_a_loss_may_be_a_method_of_the_object(kind, loss):
    net = kind()
    report = check_numpy(net, None, X, loss=getattr(net, loss), y=H)
    assert report.verdict == "right", report
    net.slip = 2
    report = check_numpy(net, None, X, loss=getattr(net, loss), y=H)
    assert [(f.leaf, f.law) for f in report.findings] == [("W", "gradient")]
