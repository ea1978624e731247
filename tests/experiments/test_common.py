import json
from argparse import Namespace

import jax
import numpy as np
import pytest

import jaxnn
from experiments import common


def test_relative_errors():
    errors = common.relative_errors(
        ({"w": np.array([3.0, 4.5])}, np.zeros(2)), ({"w": np.array([3.0, 4.0])}, np.zeros(2))
    )
    assert errors == {"[0]['w']": 0.1, "[1]": 0.0}


def test_a_result_replaces_the_old_one_and_holds_the_versions(tmp_path):
    for value in (1, 2):
        common.write_result(tmp_path, Namespace(output=tmp_path, seed=3), {"value": value})
    (written,) = tmp_path.iterdir()
    result = json.loads(written.read_text())
    assert result["value"] == 2
    assert result["settings"] == {"output": str(tmp_path), "seed": 3}
    assert set(result["versions"]) == {"jax", "jaxlib", "jaxnn", "numpy", "python"}
    assert {"processor", "cores", "device"} <= set(result["platform"])


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path):
    common.write_result(tmp_path, Namespace(), {"value": 1})
    with pytest.raises(ValueError, match="JSON"):
        common.write_result(tmp_path, Namespace(), {"value": float("nan")})
    assert json.loads((tmp_path / "result.json").read_text())["value"] == 1


def test_a_wrong_gradient_is_seen(with_wrong_bias):
    net = jaxnn.mlp((4, 3, 2))
    params = net.init(jax.random.key(0))
    x, labels = jax.random.normal(jax.random.key(1), (5, 4)), np.array([0, 1, 1, 0, 1])
    wrong = with_wrong_bias(net)
    errors = common.relative_errors(
        *common.both_gradients(wrong, jaxnn.softmax_cross_entropy, params, x, labels)
    )
    assert errors.pop("[0]['b']") == pytest.approx(0.01)
    assert all(error < 1e-12 for error in errors.values())


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_a_missing_library_is_named_in_one_line(python, missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import experiments.digits"
    finished = python("-c", program)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(missing)
    assert line.endswith("is not installed: pip install 'jaxnn[experiments]'")
