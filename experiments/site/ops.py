"""A page for each op: its formula, its derivation, its code, and what was measured of it."""

import ast
import inspect
import os
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxnn
from experiments.common import count
from experiments.site import docstrings, mathematics, measured
from experiments.site.references import link, signature
from jaxnn.catalogue import ENTRIES, FAMILIES
from jaxnn.catalogue.case import Entry

RULES = {  # the functions that make an op, in the order in which one reads them
    "definition": "The definition, which `jax.grad` differentiates when the op is checked:",
    "forward": "The forward pass, which also returns the residuals:",
    "backward": "The backward pass:",
    "backward_input": "The backward pass to the input:",
    "backward_params": "The backward pass to the parameters:",
    "tangent": "The tangent, which forward mode runs:",
}
PACKAGE = Path(jaxnn.__file__).parent.parent


def write(folder: Path) -> None:
    """Write the pages of all ops, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    times = measured.rows("ops")
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _compile_quickly) as processes:
        for entry, report in zip(
            ENTRIES, processes.map(_report, range(len(ENTRIES)), chunksize=4), strict=True
        ):
            name = entry.op.__name__
            (folder / f"{name}.md").write_text(page(entry, report, times.get(name)))
    (folder / "index.md").write_text(index())


def _compile_quickly() -> None:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"


def _report(i: int) -> str:
    """What the checker says of an op, at its first case of the catalogue."""
    from jaxnn.gradcheck import check

    entry = ENTRIES[i]
    case = entry.cases[0]
    report = check(entry.op.bind(**case.options), *case.arguments(0, jnp.float32))
    report.raise_if_failed()
    return str(report)


def index() -> str:
    """The list of ops by family."""
    parts = [
        "# Ops",
        f"{len(ENTRIES)} pure functions, each with a backward derived and written by hand. Each "
        "page shows the formula, the derivation, the code that runs, the memory that the forward "
        "pass saves, and the report of the checker.",
    ]
    for family in FAMILIES:
        rows = [
            f"| [{name}]({name}.md) | {docstrings.prose(_first(entry), link)} |"
            for name, entry in ((entry.op.__name__, entry) for entry in family.ENTRIES)
        ]
        parts.append("\n".join([f"## {_title(family)}\n", "| op | formula |", "|---|---|", *rows]))
    listed = "\n".join(entry.op.__name__ for entry in ENTRIES)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{listed}\n```")
    return "\n\n".join(parts) + "\n"


def _title(family) -> str:
    return family.__doc__.splitlines()[0].removesuffix(" in the catalogue.").rstrip(",.")


def _first(entry: Entry) -> str:
    return entry.op.__doc__.splitlines()[0]


def page(entry: Entry, report: str, times: dict[str, str] | None) -> str:
    """The page of an op.

    Args:
        entry: the op in the catalogue.
        report: what the checker says of it.
        times: its row in the table of the benchmark, by the heads of the columns.
    """
    op = entry.op
    parts = docstrings.sections(op.__doc__)
    by_name = {part.name: part for part in parts if part.name}
    text, derivation, saved = _sorted([part for part in parts if not part.name])
    made = [f"# {op.__name__}", _summary(_first(entry)), text]
    made += ["## Shapes", docstrings.section(by_name["Shapes"], link)]
    made += ["## Backward", derivation]
    if kinks := _kinks(entry):
        made += ["## Kinks", kinks]
    made += ["## Saved for the backward", saved, _residuals(entry)]
    made += ["## Code", _code(op)]
    made += ["## Call", _call(op, by_name)]
    for name in ("Example", "Implementation notes", "Reference"):
        if name in by_name:
            made += [f"## {name}", docstrings.section(by_name[name], link)]
    made += ["## Checked", _checked(entry), docstrings.fenced("text", report)]
    if times:
        made += ["## Measured", _measured(times)]
    return "\n\n".join(part for part in made if part) + "\n"


def _summary(line: str) -> str:
    """The first line of a docstring, with the formula at its end typeset below."""
    formula = mathematics.summary_formula(line)
    words = line.removesuffix(f", {formula}.")
    if words == line:
        return docstrings.prose(line, link)
    return f"{docstrings.prose(words, link)}:\n\n$$\n{mathematics.latex(formula)}\n$$"


def _call(op, by_name: dict[str, docstrings.Section]) -> str:
    """The signature with the arguments and the errors, which the index and the links point to."""
    given = [by_name[name] for name in ("Args", "Raises") if name in by_name]
    described = "\n\n".join(docstrings.fields(section, link) for section in given)
    return f"````{{py:function}} jaxnn.{op.__name__}{signature(op)}\n\n{described}\n````"


def _sorted(parts: list[docstrings.Section]) -> tuple[str, str, str]:
    """The text of an op, its derivation and its residuals, from the paragraphs of a docstring."""
    lines = [line for part in parts for line in [*part.lines, ""]]
    starts = [i for i, line in enumerate(lines) if line.startswith("Backward")]
    saves = [i for i, line in enumerate(lines) if line.startswith(("Saves ", "`fwd` saves"))]
    begin, end = starts[0], saves[0] if saves else len(lines)
    after = next((i for i in range(end, len(lines)) if not lines[i].strip()), len(lines))
    if begin > end:
        raise ValueError("an op saves before it derives its backward")
    text, derivation = lines[:begin], lines[begin:end]
    first = derivation[0].removeprefix("Backward").lstrip(",: ")
    derivation[0] = first[:1].upper() + first[1:]
    return (
        docstrings.blocks(text + lines[after:], link),
        docstrings.blocks(derivation, link),
        docstrings.blocks(lines[end:after], link),
    )


def _kinks(entry: Entry) -> str:
    """The derivatives at the kinks of an element-wise op, with the options of its benchmark."""
    op = entry.op.bind(**entry.benchmark.options)
    at = [f"$y'({x:g}) = {float(jax.grad(op)(x)):.4g}$" for x in getattr(op, "kinks", ())]
    return f"The derivative at a kink is a convention: {', '.join(at)} for `{op}`." if at else ""


def _residuals(entry: Entry) -> str:
    """A table of the residuals at the realistic size of the benchmark."""
    op, case = entry.op.bind(**entry.benchmark.options), entry.benchmark
    shapes = jax.eval_shape(lambda: case.arguments(0, jnp.float32))
    _, residuals = jax.eval_shape(op.fwd, *shapes)
    leaves = [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(residuals)
        if hasattr(leaf, "dtype")
    ]
    size = sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves)
    if not leaves:
        return "There are no residuals."
    amount = f"{size / 2**20:.3g} MiB" if size >= 2**10 else f"{size} bytes"
    return (
        f"At the size {docstrings.prose(case.name, link)}, in float32, the residuals take "
        f"{amount} in {count(len(leaves), 'array')}, including saved arguments."
    )


def _code(op) -> str:
    parts = []
    for rule, words in RULES.items():
        function = getattr(op.rules, rule)
        if function is None:
            continue
        parts += [words, docstrings.fenced("python", _source(inspect.unwrap(function)))]
    file = Path(inspect.getsourcefile(inspect.unwrap(op.rules.definition))).relative_to(PACKAGE)
    return "\n\n".join([f"From `{file}`.", *parts])


def _source(function) -> str:
    """A function's code; a docstring of several lines stands elsewhere on the page."""
    source = textwrap.dedent(inspect.getsource(function))
    body = ast.parse(source).body[0].body
    first = body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if documented and first.end_lineno > first.lineno:
        lines = source.splitlines()
        del lines[first.lineno - 1 : first.end_lineno]
        source = "\n".join(lines)
    return source.rstrip()


def _checked(entry: Entry) -> str:
    case = entry.cases[0]
    options = "".join(f", {name}={value!r}" for name, value in case.options.items())
    words = f" with {docstrings.prose(options[2:], link)}" if options else ""
    return (
        f"The report of {{py:obj}}`jaxnn.gradcheck.check`, in float32{words}. The tests try "
        f"{count(len(entry.cases), 'case')} of this kind and "
        f"{count(len(entry.hard), 'hard case')}: "
        f"{docstrings.prose(', '.join(case.name for case in entry.hard), link)}."
    )


def _measured(times: dict[str, str]) -> str:
    lines = [" | ".join(times), "|".join(["---"] * len(times)), " | ".join(times.values())]
    return "\n".join(f"| {line} |" for line in lines) + (
        "\n\nForward and backward, against autodiff of the definition, on the machine that "
        "[Benchmarks](../benchmarks.md) names."
    )
