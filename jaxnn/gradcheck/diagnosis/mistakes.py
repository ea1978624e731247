"""Common mistakes in backward passes, each with its fix.

The table serves three purposes: its entries are the answers of `diagnose`, the mistakes that tests
plant, and exercises. `wrong_outputs`, `wrong_steps`, `wrong_leaves` and `whole` produce them.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """A mistake in a backward pass.

    Attributes:
        id: a letter and a number: S shapes and order, C constants, Z zeros, R regularisation,
            A activations, L losses, B beginnings, D data and caches, N normalisation,
            V convolution, E embedding, T time, K kinks.
        name: a short description.
        explanation: a sentence that explains the mistake.
        fix: the way to correct it.
    """

    id: str
    name: str
    explanation: str
    fix: str


MISTAKES: dict[str, Mistake] = {
    mistake.id: mistake
    for mistake in (
        Mistake(
            "S1",
            "weight gradient transposed",
            "dW is (outputs, inputs), the other convention, but W is (inputs, outputs).",
            "With y = x·W, dW = xᵀ·δ has exactly the shape of W.",
        ),
        Mistake(
            "S2",
            "bias gradient not summed over the batch",
            "db still has one row for each example, although every example shares the same b.",
            "db = Σₙ δₙ: sum over the batch axis.",
        ),
        Mistake(
            "S3",
            "bias gradient summed over the wrong axis",
            "δ was summed over its units, or over everything, instead of over the batch.",
            "db = δ.sum(axis=0), one number for each unit.",
        ),
        Mistake(
            "S4",
            "batch axis kept in the bias gradient",
            "The numbers are right but the summed axis was kept, so db is (1, n) and not (n,).",
            "Sum without keepdims=True, or give b the shape (1, n) too.",
        ),
        Mistake(
            "S5",
            "bias broadcast along the wrong axis",
            "A bias of shape (n, 1) is added to rows of n units: the forward pass broadcasts it to "
            "another matrix.",
            "Give b the shape (n,) and compare shapes before adding.",
        ),
        Mistake(
            "S6",
            "δ passed back through the wrong matrix",
            "The gradient of a linear layer's input is δ·Wᵀ, with the W of that layer.",
            "dx = δ·Wᵀ for y = x·W: a square W hides a missing transpose.",
        ),
        Mistake(
            "S7",
            "rows or columns in another order",
            "The numbers are right, but rows or columns of the gradient are in another order.",
            "Keep the order of the parameter's axes in its gradient.",
        ),
        Mistake(
            "S8",
            "wrong reduction over the batch",
            "The gradient of a parameter that every example shares is the sum of their gradients.",
            "db = Σₙ δₙ.",
        ),
        Mistake(
            "C1",
            "wrong sign",
            "The gradient points uphill where it should point downhill: the error was taken as "
            "y − ŷ, or a minus sign of the loss was lost.",
            "Differentiate the loss with respect to ŷ, which gives ŷ − y; subtract in the update.",
        ),
        Mistake(
            "C2",
            "factor N: sum over the batch instead of the mean",
            "The gradient is that of N times the loss: the 1/N of the mean is missing.",
            "Divide once by the batch size, best at the loss: δ = ∂L/∂z / N.",
        ),
        Mistake(
            "C3",
            "factor 1/N: divided by the batch size once too often",
            "The gradient is divided by N although the loss already does so, or does not do so at "
            "all; for example, a bias gradient that is a mean over the batch instead of a sum.",
            "Keep the 1/N of the loss in δ and use plain sums after it.",
        ),
        Mistake(
            "C4",
            "every layer divides by N",
            "Each layer divides the gradient that it passes down by N, so the gradient is too "
            "small by a power of N that grows with the distance from the output.",
            "Divide once, at the loss; no layer divides.",
        ),
        Mistake(
            "C5",
            "factor 2 or ½",
            "A factor 2 or ½, such as the 2 of (e²)' = 2e, is in the loss but not in its "
            "derivative, or the reverse.",
            "Differentiate exactly the loss that is reported.",
        ),
        Mistake(
            "C6",
            "number of outputs in the mean",
            "The mean also runs over the K outputs, or should but does not.",
            "Decide whether the loss sums or averages over outputs, and use it in both passes.",
        ),
        Mistake(
            "C7",
            "update instead of the gradient",
            "The gradient has already been multiplied by the learning rate.",
            "Return ∂L/∂θ; the optimizer multiplies by η.",
        ),
        Mistake(
            "C8",
            "several constant factors",
            "The gradient is a constant multiple of the true one, by a product of small powers of "
            "2, N, K and η.",
            "Write down every constant of the loss once and follow it through the backward pass.",
        ),
        Mistake(
            "C9",
            "gradient clipped",
            "The gradient was clipped, entry by entry or by its norm, before it was returned.",
            "Clip between the backward pass and the update; a gradient check comes before it.",
        ),
        Mistake(
            "Z1",
            "gradient never written",
            "The gradient is zero throughout: it was never computed, or a value on its path is "
            "detached.",
            "Compute it, and let nothing between the loss and the parameter stop the gradient.",
        ),
        Mistake(
            "Z2",
            "not a number",
            "The gradient holds NaN or infinity, as −y/p does where p underflows, or log 0.",
            "Compute from logits (log-softmax, log-sigmoid) instead of probabilities.",
        ),
        Mistake(
            "Z3",
            "rows or columns missing",
            "Some rows or columns are zero while all others are right: a loop or a slice ends one "
            "element too early.",
            "Use whole-array products, or check the bounds of the loop.",
        ),
        Mistake(
            "R1",
            "weight decay",
            "The gradient differs from the true one by a multiple of the parameter, or of its "
            "sign: a penalty term is missing, doubled, or applied to a parameter that has none.",
            "Add λ·W to the gradient of each weight once (penalty ½·λ·‖W‖²), to no bias.",
        ),
        Mistake(
            "A1",
            "activation derivative missing",
            "δ passes an activation as if its derivative were 1.",
            "Multiply by f'(z): δ = (δ_next·W_nextᵀ) ⊙ f'(z).",
        ),
        Mistake(
            "A2",
            "activation derivative at the wrong argument",
            "A derivative written in z was given a = f(z), or one written in a was given z.",
            "Check which one the formula takes: σ' = σ(z)(1 − σ(z)) = a(1 − a), tanh' = 1 − a².",
        ),
        Mistake(
            "A3",
            "another factor instead of the activation derivative",
            "δ is multiplied by something other than the derivative of the activation, such as its "
            "value, the derivative squared or the complement of a mask.",
            "Multiply once by f'(z).",
        ),
        Mistake(
            "A4",
            "mask from the upstream gradient",
            "The sign of the incoming gradient decides what passes the activation, instead of "
            "f'(z) or in addition to it.",
            "Multiply by f'(z) with the z of the forward pass, which for relu is the mask z > 0.",
        ),
        Mistake(
            "A5",
            "activation derivative at the error",
            "The derivative of the activation is evaluated at the error or at another incoming "
            "gradient, not at the activation's own input or output.",
            "δ = error ⊙ f'(z): evaluate f' at the forward pass's z.",
        ),
        Mistake(
            "A6",
            "output derivative missing",
            "∂L/∂ŷ is used as if it were ∂L/∂z: the derivative of the output activation is "
            "missing, everywhere or for some of the layers.",
            "δ = ∂L/∂ŷ ⊙ f'(z) at the output, the same δ for every layer.",
        ),
        Mistake(
            "L1",
            "only the diagonal of softmax's Jacobian",
            "∂pᵢ/∂zⱼ is taken to be zero for i ≠ j, but each output depends on every logit.",
            "δ = p ⊙ (g − p·g) with g = ∂L/∂p, which is p − y for cross-entropy.",
        ),
        Mistake(
            "L2",
            "output derivative applied twice",
            "p − y is already the gradient at the logits, but was multiplied by the derivative of "
            "an output activation again.",
            "Use p − y as δ, or ∂L/∂p with the Jacobian: not both.",
        ),
        Mistake(
            "L3",
            "softmax or sigmoid applied twice",
            "The loss applies softmax or sigmoid to probabilities, which have already passed "
            "through it.",
            "Pass the logits, not the probabilities, to a loss that expects logits.",
        ),
        Mistake(
            "L4",
            "gradient at the probabilities used as that at the logits",
            "−y/p is ∂L/∂p; the Jacobian of softmax is missing.",
            "δ = p − y at the logits.",
        ),
        Mistake(
            "L5",
            "wrong cross-entropy",
            "The gradient is that of a different loss, such as one without the one-hot target, "
            "without the logarithm, or with a normalisation other than softmax over the classes.",
            "p = e^z/Σₖ e^z along the class axis, and δ = p − onehot(label).",
        ),
        Mistake(
            "L6",
            "wrong binary cross-entropy",
            "The gradient is that of a different loss, such as one with a term missing or of the "
            "wrong sign, or the squared error instead of the cross-entropy, or the reverse.",
            "At the logits, δ = p − y for L = −(y·log p + (1 − y)·log(1 − p)), and "
            "δ = 2·(p − y)·p·(1 − p) for (p − y)².",
        ),
        Mistake(
            "L7",
            "target broadcast",
            "Each prediction is compared with the targets of all examples, (N, 1) − (N,), so the "
            "mean of the targets takes the place of the target.",
            "Give prediction and target the same shape.",
        ),
        Mistake(
            "L8",
            "wrong regression loss",
            "The gradient is that of a different function of prediction and target, such as e² or "
            "sign(e) instead of 2e, or the root of the mean squared error.",
            "(e²)' = 2e; √MSE has the further factor 1/(2·√MSE).",
        ),
        Mistake(
            "L10",
            "smoothed labels",
            "The gradient uses smoothed labels, but the loss uses plain ones.",
            "Use the same target in the loss and in its derivative.",
        ),
        Mistake(
            "B1",
            "upstream gradient replaced by 1",
            "The backward pass begins with 1 instead of ∂L/∂ŷ.",
            "Begin with the derivative of the loss, and multiply each step by the gradient of its "
            "output.",
        ),
        Mistake(
            "D1",
            "weight gradient from z instead of a",
            "dW uses the previous layer's output before its activation.",
            "dW = aᵀ·δ with a, the actual input of the layer.",
        ),
        Mistake(
            "D2",
            "weights already updated",
            "δ is passed back through weights that the update has changed, or through dW.",
            "Finish the backward pass before updating; δ passes back through the W of the forward "
            "pass.",
        ),
        Mistake(
            "D3",
            "values of another batch",
            "The cache, the inputs or their order belong to a different batch from the targets.",
            "Shuffle inputs and targets together and run the forward pass before each backward.",
        ),
        Mistake(
            "D4",
            "gradients not zeroed",
            "The previous gradient is still in the accumulator.",
            "Set gradients to zero before each backward pass.",
        ),
        Mistake(
            "D5",
            "examples missing",
            "Some examples are not in the gradient: it was assigned in a loop instead of "
            "accumulated, or a slice is too short.",
            "Add the contribution of every example, and divide by their number.",
        ),
        Mistake(
            "D6",
            "cache overwritten in place",
            "The forward pass changed an array that the backward pass reads, for example by an "
            "activation in place, so that z already holds a.",
            "Copy the arrays that the backward reads, or write into another array.",
        ),
        Mistake(
            "D7",
            "branches overwrite each other",
            "A variable that is used twice keeps the gradient of one use only: = instead of +=.",
            "Add up the gradients of all uses.",
        ),
        Mistake(
            "D8",
            "weight gradient from another layer's input",
            "dW uses a value of the forward pass that is not the input of its layer.",
            "dW = xᵀ·δ with x, the input of that layer.",
        ),
        Mistake(
            "D9",
            "wrong weights of examples or outputs",
            "Examples or outputs are weighted differently from the loss.",
            "Use the same weights in the loss and in its derivative.",
        ),
        Mistake(
            "N1",
            "mean of a normalisation treated as a constant",
            "The mean depends on every input, and a term of it is missing from dx.",
            "dx = r·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) with dx̂ = γ·dy.",
        ),
        Mistake(
            "N2",
            "variance of a normalisation treated as a constant",
            "The variance, or the root mean square, depends on every input, and its term is "
            "missing from dx.",
            "dx = r·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) with dx̂ = γ·dy; an RMS norm has no mean(dx̂).",
        ),
        Mistake(
            "N3",
            "scale of a normalisation without x̂",
            "dγ multiplies dy by something other than the normalised input x̂.",
            "dγ = Σ dy·x̂ and dβ = Σ dy, over the batch.",
        ),
        Mistake(
            "N4",
            "wrong factor in a normalisation",
            "A factor or a sign in the gradient of the normalisation's input is wrong.",
            "dx = r·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) with dx̂ = γ·dy and r = 1/√(σ² + ε).",
        ),
        Mistake(
            "V1",
            "kernel flipped or its axes swapped",
            "The backward of a cross-correlation rotates the kernel by 180° for dx, only there.",
            "dW correlates x with dy, without a flip; dx convolves dy with W.",
        ),
        Mistake(
            "E1",
            "repeated rows of an embedding not added up",
            "A row that is looked up several times does not have the sum of the gradients of its "
            "uses.",
            "Add up the gradients of equal ids: np.add.at, or x.at[ids].add in JAX.",
        ),
        Mistake(
            "T1",
            "no gradient through time",
            "The state passed from one step to the next is treated as a constant.",
            "Carry the gradient of the state back from each time step to the previous one.",
        ),
        Mistake(
            "K1",
            "different convention at a kink",
            "The difference is confined to inputs that are exactly at a kink, where the derivative "
            "is a matter of convention.",
            "Use the same convention, such as relu'(0) = 0, or keep such inputs out of the "
            "comparison.",
        ),
    )
}
