"""Run an experiment by its name, or list the experiments with a line on each.

python -m experiments [NAME [OPTION ...]]
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path


def experiments() -> dict[str, str]:
    """The first line of the docstring of each program, by the program's name.

    A program is a module that defines `main`, or a folder with a `__main__.py`.
    """
    folder, found = Path(__file__).parent, {}
    for path in folder.glob("[!_]*.py"):
        module = _parsed(path)
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[path.stem] = _first_line(module)
    for path in folder.glob("*/__main__.py"):
        found[path.parent.name] = _first_line(_parsed(path.with_name("__init__.py")))
    return dict(sorted(found.items()))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(module: ast.Module) -> str:
    return ast.get_docstring(module).splitlines()[0]


def main(arguments: list[str] | None = None) -> None:
    name, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("python -m experiments NAME [--help]\n")
        for experiment, line in experiments().items():
            print(f"{experiment:20} {line}")
        return
    known = experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "python -m experiments lists all"
        print(f"python -m experiments: error: no experiment {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = options
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
