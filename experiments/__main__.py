"""List the experiments, with a line on each.

python -m experiments
"""

import ast
from pathlib import Path

HELPERS = {"__init__", "__main__", "common", "readme", "resume", "text"}


def experiments() -> dict[str, str]:
    """The first line of each experiment's docstring, by the experiment's name."""
    folder = Path(__file__).parent
    sources = {path.stem: path for path in folder.glob("*.py") if path.stem not in HELPERS}
    sources |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    return {name: _first_line(source) for name, source in sorted(sources.items())}


def _first_line(source: Path) -> str:
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))).splitlines()[0]


def main() -> None:
    print("python -m experiments.NAME [--help]\n")
    for name, line in experiments().items():
        print(f"{name:20} {line}")


if __name__ == "__main__":
    main()
