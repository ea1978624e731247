"""Build the documentation.

python -m experiments.site [--output DIR]
"""

import os
import shutil
import sys
from pathlib import Path

import experiments.site
from experiments import common

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OF_THE_REPOSITORY = {
    "CONTRIBUTING.md": "extend.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}


def build(args) -> None:
    """Write the sources, pages made of the code included, and have Sphinx build the site."""
    sphinx = common.require("sphinx.cmd.build", extra="docs")
    from experiments.site import api, measured, ops

    source, html = args.output / "source", args.output / "html"
    for folder in (source, html):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "pages", source)
    for name, page in OF_THE_REPOSITORY.items():
        shutil.copy(ROOT / ".github" / name, source / page)
    shutil.copytree(ROOT / "experiments" / "gallery", source / "pictures")
    ops.write(source / "ops")
    api.write(source / "api")
    (source / "benchmarks.md").write_text(measured.page())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    status = sphinx.main(
        [
            *("-W", "--keep-going", "-q", "-b", "html", "-j", "auto"),
            *("-c", str(HERE), "-d", str(args.output / "doctrees"), str(source), str(html)),
        ]
    )
    if status:
        sys.exit(status)
    print(f"The site begins at {html / 'index.html'}")


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("site", experiments.site.__doc__.splitlines()[0], random=False)
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    parser.run(build, args)


if __name__ == "__main__":
    main()
