"""The tables that the benchmark wrote: `measured/SUITE.md`, with the machine in their heads."""

from pathlib import Path

FOLDER = Path(__file__).parent / "measured"


def rows(suite: str) -> dict[str, dict[str, str]]:
    """The rows of a table by the name in their first column, each by the heads of the columns."""
    file = FOLDER / f"{suite}.md"
    if not file.exists():
        return {}
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    heads, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {cells[0].split("`")[1]: dict(zip(heads, cells, strict=True)) for cells in body}


def page() -> str:
    """The page of all tables, each below its head."""
    parts = [FOLDER / f"{name}.md" for name in ORDER]
    return (
        "\n\n".join([HEAD, *(part.read_text().strip() for part in parts if part.exists())]) + "\n"
    )


ORDER = (
    "ops",
    "training",
    "attention",
    "per_example",
    "scaling",
    "peers",
    "startup",
    "ops-gpu",
    "attention-gpu",
    "training-gpu",
)
HEAD = """# Benchmarks

Each table was written by `python -m experiments.benchmark SUITE`, and its head names the machine,
the versions and the commit. The two sides of a comparison run in turn; the ratio is taken pair by
pair, and its median and quartiles are shown.

![Each op's time and temporary memory divided by autodiff's, on a CPU](pictures/benchmark.png)"""
