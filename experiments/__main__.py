"""List the experiments, with a line on each.

python -m experiments
"""

import ast
from pathlib import Path

HELPERS = {"__init__", "__main__", "common", "text"}


def experiments() -> dict[str, str]:
    """The first line of each experiment's docstring, by the experiment's name."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return {
        source.stem: ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))).splitlines()[
            0
        ]
        for source in sources
        if source.stem not in HELPERS
    }


def main() -> None:
    print("python -m experiments.NAME [--help]\n")
    for name, line in experiments().items():
        print(f"{name:20} {line}")


if __name__ == "__main__":
    main()
