"""Tests of the LaTeX made of docstrings."""

import inspect
import random
import re
from fractions import Fraction

import pytest

import jaxnn
from experiments.site import mathematics
from jaxnn.catalogue import ENTRIES

FORMULAS = {
    # Indices, exponents, primes and accents.
    "xᵢⱼ + hₜ₋₁ + hₙₜ₋₁": r"x_{ij} + h_{t-1} + h_{n, t-1}",
    "p_tk + p_sink + b_u": r"p_{t k} + p_{\mathrm{sink}} + b_{u}",
    "dyₜ_d·vⱼ_d": r"dy_{t d} \cdot v_{j d}",
    "y_c = x_{c,1}": r"y_{c} = x_{c, 1}",
    "yₜ = x_(L − 1 − t)": r"y_{t} = x_{L - 1 - t}",
    "e⁻ˣ + e^(β·x) + e^vₖ + r³": r"e^{-x} + e^{\beta \cdot x} + e^{v_{k}} + r^{3}",
    "xₙᵀ·Q⁻¹": r"x_{n}^{\top} \cdot Q^{-1}",
    "σ(−x)^γ·h'(e)": r"\sigma(- x)^{\gamma} \cdot h'(e)",
    "r = σ(r' + r\")": r"r = \sigma(r' + r'')",
    "ẋ + Ẇ + i̇ + γ̇ + x̃ + ȳ": r"\dot{x} + \dot{W} + \dot{i} + \dot{\gamma} + \tilde{x} + \bar{y}",
    "x̂˙ = ẋₜ": r"\dot{\hat{x}} = \dot{x}_{t}",
    "v̇ar + ḃias": r"\dot{\mathrm{var}} + \dot{\mathrm{bias}}",
    # Names, differentials and functions.
    "dŷ + dβ + dbias + dsinkₕ": r"d\hat{y} + d\beta + d\mathrm{bias} + d\mathrm{sink}_{h}",
    "d‖v‖ + ∂‖δ‖ₚ": r"d \lVert v \rVert + \partial \lVert \delta \rVert_{p}",
    "do' = dh ⊙ o": r"do' = dh \odot o",
    "scale·q + λα + 2π": r"\mathrm{scale} \cdot q + \lambda \alpha + 2 \pi",
    "e^log_variance": r"e^{\mathrm{log\_variance}}",
    "tanh² x·dy": r"\tanh^{2} x \cdot dy",
    "log σ(x) − log'(p)": r"\log \sigma(x) - \log'(p)",
    "mean ẋ − mean": r"\operatorname{mean} \dot{x} - \mathrm{mean}",
    "g.bwd(dy₂)": r"g{.}\mathrm{bwd}(dy_{2})",
    # Sums, brackets and symbols.
    "Σₙₚ dy[n, p]": r"\sum_{n, p} dy[n, p]",
    "Σ_{s: z_s = k} γ_t(s)": r"\sum_{s \colon z_{s} = k} \gamma_{t}(s)",
    "Πⱼ≠ᵢ xⱼ": r"\prod_{j \ne i} x_{j}",
    "maxₖ≠c xₖ": r"\max_{k \ne c} x_{k}",
    "⟨dy, ẏ⟩ + ‖x‖² + |x − 1| + ⌊x⌋ + ⌈x⌉": (
        r"\langle dy, \dot{y} \rangle + \lVert x \rVert^{2} + \lvert x - 1 \rvert"
        r" + \lfloor x \rfloor + \lceil x \rceil"
    ),
    "|·|'(0) = 0": r"\lvert \cdot \rvert'(0) = 0",
    "KL(p‖m)": r"\operatorname{KL}(p \parallel m)",
    "[z = k] − (Xₙ·Y)ₜₛ": r"[z = k] - (X_{n} \cdot Y)_{ts}",
    "a ← b ⊗ c, x ∈ ℝⁿ": r"a \leftarrow b \otimes c,\  x \in \mathbb{R}^{n}",
    "½·x ≤ ∞": r"\tfrac{1}{2} \cdot x \le \infty",
    # Fractions.
    "pᵢ = e^(xᵢ)/Σⱼ e^(xⱼ)": r"p_{i} = \frac{e^{x_{i}}}{\sum_{j} e^{x_{j}}}",
    "∂L/∂xₖ·dL": r"\frac{\partial L}{\partial x_{k}} \cdot dL",
    "∂/∂xⱼ Σₖ tₖ": r"\frac{\partial}{\partial x_{j}} \, \sum_{k} t_{k}",
    "∂log p_t(z)/∂x_tk": r"\frac{\partial \log p_{t}(z)}{\partial x_{t k}}",
    "sinh e/cosh e": r"\frac{\sinh e}{\cosh e}",
    "√(x² + 1)/√2 + √(a, b)": r"\frac{\sqrt{x^{2} + 1}}{\sqrt{2}} + \sqrt{(a, b)}",
    "Σ s·L / Σ s·w": r"\frac{\sum s \cdot L}{\sum s \cdot w}",
    "(1/N)·Σ x": r"\frac{1}{N} \cdot \sum x",
    # Words and code.
    "dh where h > 0, else −h": r"dh \text{ where } h > 0, \text{ else } {-} h",
    "a row of x's": r"\text{a row of } x \text{'s}",
    "the mean of a, b and a": r"\text{the mean of } a,\  b \text{ and } a",
    "ds, summed over the axes that are 1": (r"ds, \text{ summed over the axes that are } 1"),
    "h = `hard_sigmoid`, so": r"h = \texttt{hard}\_\texttt{sigmoid}\text{, so}",
    # Anything else.
    "a((b": "a(( b",
    "#%&$~^\\{x": r"\# \% \& \$ \sim \hat{} \backslash \{ x",
    "☃ + Α": r"\text{☃} + \text{Α}",
}


@pytest.mark.parametrize("source", FORMULAS)
def test_each_construct_has_its_latex(source):
    assert mathematics.latex(source) == FORMULAS[source]


PRECEDENCE = {
    "a·b/c·d": r"\frac{a \cdot b}{c} \cdot d",
    "a/b/c": r"\frac{a/b}{c}",
    "a/(b·c)": r"\frac{a}{b \cdot c}",
    "a/(b/c)": r"\frac{a}{b/c}",
    "(a/b + 1)·c": r"(a/b + 1) \cdot c",
    "(a + b)·c/(d − 1)²": r"\frac{(a + b) \cdot c}{(d - 1)^{2}}",
    "(a + b)/c²": r"\frac{a + b}{c^{2}}",
    "a + b/c": r"a + \frac{b}{c}",
    "(a/b)²": "(a/b)^{2}",
    "f(a/b)/c": r"\frac{f(a/b)}{c}",
    "(a, b)/c": r"\frac{(a, b)}{c}",
    "(a − u·⟨u, a⟩)/c": r"\frac{a - u \cdot \langle u, a \rangle}{c}",
    "Σ aₙ/bₙ": r"\sum \frac{a_{n}}{b_{n}}",
    "1/2π": r"\frac{1}{2 \pi}",
}


def test_a_formula_in_a_line_of_text_keeps_its_slashes():
    assert mathematics.latex("(s/K)·Σ v + 1/(a + b)", inline=True) == (
        r"(s/K) \cdot \sum v + 1/(a + b)"
    )


@pytest.mark.parametrize("source", PRECEDENCE)
def test_a_fraction_bar_groups_as_the_slash_does(source):
    assert mathematics.latex(source) == PRECEDENCE[source]


def test_arithmetic_keeps_its_value():
    draw = random.Random(0)
    values = {name: Fraction(draw.randint(2, 99), draw.randint(2, 99)) for name in "abc"}
    values["frac"] = Fraction.__truediv__
    for _ in range(500):
        source = _expression(draw, depth=3)
        python = mathematics.latex(source).replace(r"\cdot", "*").replace(r"\frac", "frac")
        python = python.replace("}{", "),(").replace("{", "((").replace("}", "))")
        try:
            expected = eval(source.replace("·", "*").replace("−", "-"), values)
        except ZeroDivisionError:
            continue
        assert eval(python, values) == expected, source


def _expression(draw, depth):
    """A sum of products and quotients of names and brackets."""
    terms = []
    for _ in range(draw.randint(1, 2)):
        factors = [
            f"({_expression(draw, depth - 1)})" if depth and draw.random() < 0.4 else letter
            for letter in draw.choices("abc", k=draw.randint(1, 4))
        ]
        terms.append("".join(f + draw.choice("·/") for f in factors[:-1]) + factors[-1])
    return draw.choice(["", "−"]) + draw.choice([" + ", " − "]).join(terms)


DISPLAYS = {
    "one line": ("dx = dy      (N,)", r"dx = dy \qquad (N,)"),
    "columns and relations": (
        """\
dW = xᵀ·dy      (I, O)     ⟨dy, ẏ⟩
db = Σₙ dy      (O,)       every row""",
        r"""\begin{aligned}
dW & = x^{\top} \cdot dy &  & (I, O) &  & \langle dy, \dot{y} \rangle \\
db & = \sum_{n} dy &  & (O,) &  & \text{every row}
\end{aligned}""",
    ),
    "two formulas in a line": (
        """\
da = x     dm = b
dcd = y    dm = c""",
        r"""\begin{aligned}
da & = x & dm & = b \\
\text{dcd} & = y & dm & = c
\end{aligned}""",
    ),
    "spaces before a relation": (
        """\
dW[k] = x
db    = y""",
        r"""\begin{aligned}
dW[k] & = x \\
db & = y
\end{aligned}""",
    ),
    "accents have no width": (
        """\
r = x
ẋ = y""",
        r"""\begin{aligned}
r & = x \\
\dot{x} & = y
\end{aligned}""",
    ),
    "lines that are not aligned": (
        """\
a + b = x,  c = y
a = z
b ← z""",
        r"""\begin{aligned}
 & a + b = x, \quad c = y \\
 & \begin{aligned}
a & = z \\
b & \leftarrow z
\end{aligned}
\end{aligned}""",
    ),
    "a continuation": (
        """\
sum    y = a
mean   y = b
         + c""",
        r"""\begin{aligned}
 & \text{sum} & y & = a \\
 & \mathrm{mean} & y & = b \\
 &  &  & + c
\end{aligned}""",
    ),
    "a reason of one line": (
        """\
dy = −dŷ          e falls
dx = dy where x > 0, else 0""",
        r"""\begin{aligned}
dy & = - d\hat{y} \qquad e \text{ falls} \\
dx & = dy \text{ where } x > 0, \text{ else } 0
\end{aligned}""",
    ),
}


@pytest.mark.parametrize("case", DISPLAYS)
def test_a_block_keeps_its_alignment(case):
    source, expected = DISPLAYS[case]
    assert mathematics.display(source.split("\n")) == expected


SUMMARIES = {
    "Linear map of the last axis, y = x·W + b.": "y = x·W + b",
    "GELU, y = x·Φ(x), Φ the normal distribution function.": "y = x·Φ(x)",
    "Glu, y = a·σ(b) with a and b the halves of x's last axis.": "y = a·σ(b)",
    "Dropout, y = m ⊙ x/(1 − p): a random mask m.": "y = m ⊙ x/(1 − p)",
    "Squared error, L = Σₖ (ŷₖ − yₖ)²: no ½, no 1/K.": "L = Σₖ (ŷₖ − yₖ)²",
    "Threshold, y = x where x > θ, else a value.": "y = x where x > θ, else a value",
    "Soft, y = x − λ where x > λ, x + λ where x < −λ, else 0.": (
        "y = x − λ where x > λ, x + λ where x < −λ, else 0"
    ),
    "PReLU, y = x where x > 0, else a·x, with one slope a.": "y = x where x > 0, else a·x",
    "Attention, y = softmax(q·kᵀ)·v for each head.": "y = softmax(q·kᵀ)·v",
    "Reversed: yₜ = x_(L − 1 − t) for t < L, else yₜ = xₜ.": (
        "yₜ = x_(L − 1 − t) for t < L, else yₜ = xₜ"
    ),
    "Sum of a segment, yₛ = Σ vₙ over the n with idₙ = s.": "yₛ = Σ vₙ over the n with idₙ = s",
    "Sum of a tuple, y = x₀ + x₁ + ….": "y = x₀ + x₁ + …",
    "Divergence of N(μ, e^v) from N(0, 1), ½·Σₖ (μₖ² − 1).": "½·Σₖ (μₖ² − 1)",
    "Max pooling, y = the largest number of each window.": None,
    "Log-cosh: about ½·e² for a small error, |e| − log 2 for a large one.": None,
    "Gated recurrent unit over a whole sequence.": None,
}


@pytest.mark.parametrize("summary", SUMMARIES)
def test_a_summary_has_its_formula(summary):
    assert mathematics.summary_formula(summary) == SUMMARIES[summary]


PUBLIC = [getattr(jaxnn, name) for name in jaxnn.__all__]
DOCSTRINGS = {
    **{e.op.__name__: inspect.getdoc(e.op) for e in ENTRIES},
    **{
        o.__name__: inspect.getdoc(o) for o in PUBLIC if inspect.isclass(o) or inspect.isfunction(o)
    },
}
KNOWN = mathematics.GREEK | set(
    re.findall(
        r"\w+",
        """approx backslash bar begin cdot colon cos cosh det dot dots ell end exp frac ge hat in
        infty langle lceil le leftarrow lfloor log lvert lVert mapsto mathbb mathrm max mid min
        mp nabla ne odot operatorname oplus otimes parallel partial pm prod propto qquad quad rangle
        rceil rfloor rvert rVert sim sin sinh sqrt sum surd tanh text texttt tfrac tilde times to
        top varepsilon varphi""",
    )
)


@pytest.mark.parametrize("name", DOCSTRINGS)
def test_every_block_is_well_formed(name):
    docstring = DOCSTRINGS[name]
    for block in re.findall(r"(?:^ +\S.*\n?)+", docstring, re.MULTILINE):
        _check(mathematics.display(inspect.cleandoc("\n" + block).split("\n")))
    for line in docstring.splitlines():
        _check(mathematics.latex(line))
    if formula := mathematics.summary_formula(docstring.splitlines()[0]):
        _check(mathematics.latex(formula))


def _check(tex):
    """Balanced braces and environments, known commands, and no character that MathJax lacks."""
    assert set(re.findall(r"\\([A-Za-z]+)", tex)) <= KNOWN
    bare = re.sub(r"\\[#$%&_{} ,;\\]|\\backslash", "", tex)
    assert not re.search(r"[#$%]", bare)
    assert not re.search(r"\\(?![A-Za-z])", bare)
    outside = re.sub(r"\\text(?:tt)?\{[^{}]*\}", "", bare)
    assert outside.isascii()
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += {"{": 1, "}": -1}[brace]
        assert depth >= 0
    assert depth == 0
    assert outside.count(r"\begin{aligned}") == outside.count(r"\end{aligned}")
    assert "&" not in outside or r"\begin{aligned}" in outside
    assert not re.search(r"[\^_](?!\{)", outside)
    words = "".join(re.findall(r"\\text\{([^{}]*)\}", bare))
    assert set(re.findall(r"[^\x00-\x7f]", words)) <= set("–│é")
