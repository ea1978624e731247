"""Build the documentation.

python -m experiments.site [--output DIR]
"""

import os
import shutil
import subprocess
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
    common.require("sphinx", extra="docs")
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
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command += [
        "-j",
        str(os.cpu_count() + 1),
        "-c",
        HERE,
        "-d",
        args.output / "doctrees",
        source,
        html,
    ]
    environment = _environment(args.output)
    if status := subprocess.run(command, env=os.environ | environment).returncode:
        sys.exit(status)
    print(f"The site begins at {html / 'index.html'}")


def _environment(output: Path) -> dict[str, str]:
    """The environment of the notebooks: this checkout, quick compilation, nobody's own settings."""
    profile = output / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")
    return {
        "IPYTHONDIR": str(profile.parent.resolve()),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str((output / "programs").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def main(arguments: list[str] | None = None) -> None:
    parser = common.Parser("site", experiments.site.__doc__.splitlines()[0], random=False)
    args = parser.parse_args(arguments)
    parser.make_folder(args.output)
    parser.run(build, args)


if __name__ == "__main__":
    main()
