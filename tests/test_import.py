"""What `import jaxnn` brings, and what the package may not do."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxnn

PACKAGE = Path(jaxnn.__file__).parent
LAYERS = ["arguments", "meshes", "calls", "transformations", "op", "ops", "layer", "combinators"]
LAYERS += ["layers", "summary", "interop", "teaching", "training"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_imports_run_one_way():
    """Earlier ones of LAYERS only; and nothing looks at the catalogue or the checker."""
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("catalogue", "gradcheck", "__init__"):
            continue
        for module in imports(path):
            assert not module.startswith(("jaxnn.catalogue", "jaxnn.gradcheck")), path
            name = module.removeprefix("jaxnn.").split(".")[0]
            if module.startswith("jaxnn.") and part in LAYERS and name in LAYERS:
                assert LAYERS.index(name) <= LAYERS.index(part), path


def test_no_gradient_comes_from_autodiff():
    """Autodiff is the referee: only the checker calls it, and `jaxnn.autodiff`, to offer it."""
    calls = {"grad", "value_and_grad", "vjp", "jvp", "linearize", "jacobian", "hessian", "jacrev"}
    for path in PACKAGE.rglob("*.py"):
        if "gradcheck" in path.parts or path == PACKAGE / "autodiff.py":
            continue
        # of second order JAX differentiates the tangent map, which is the transposed backward, and
        # in place of cuDNN's kernels the tiles
        second_order = path.name in ("transformations.py", "cudnn.py")
        forbidden = calls - {"jvp"} if second_order else calls
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in forbidden:
                assert not (isinstance(node.value, ast.Name) and node.value.id == "jax"), path
            if isinstance(node, ast.ImportFrom) and node.module == "jax":
                assert not forbidden.intersection(alias.name for alias in node.names), path


def test_importing_the_library_does_not_load_the_referee():
    code = (
        "import sys, jaxnn;"
        "loaded = {m for m in sys.modules if m.startswith(('jaxnn.gradcheck', 'jaxnn.catalogue',"
        "'sklearn', 'matplotlib'))};"
        "assert not loaded, loaded"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_one_version():
    records = PACKAGE.parent / ".github"
    assert version("jaxnn") == jaxnn.__version__
    cited = re.search(r"^version: (.*)$", (records / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == jaxnn.__version__
    newest = re.search(r"^## (\S+)", (records / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == jaxnn.__version__


def test_the_package_tells_where_the_programs_are(tmp_path):
    """From a plain folder that is not installed, too."""
    (tmp_path / "jaxnn").symlink_to(PACKAGE)
    command = [sys.executable, "-m", "jaxnn"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"jaxnn {jaxnn.__version__}\n")
    assert "python -m jaxnn.gradcheck FILE" in said
    assert "python -m experiments" in said


def test_an_exported_network_is_serialised():
    pytest.importorskip("flatbuffers")  # of the extra `export`
    net = jaxnn.mlp((3, 4, 2))
    params, x = net.init(jax.random.key(0)), jnp.ones((5, 3))
    written = jax.export.export(jax.jit(net.apply))(params, x).serialize()
    assert jnp.array_equal(
        jax.export.deserialize(written).call(params, x), jax.jit(net.apply)(params, x)
    )
