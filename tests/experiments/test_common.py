import json
import os
import re
import signal
import subprocess
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta

import jax
import numpy as np
import optax
import pytest

import jaxnn
from experiments import common


@pytest.fixture
def parser(tmp_path):
    """The parser of a program that writes to `tmp_path`, which holds the result of another run."""
    (tmp_path / "result.json").touch()
    return common.Parser("digits", "An experiment.")


@pytest.fixture
def classifier():
    """A network, its loss, parameters, and examples of which most have the class 0."""
    net = jaxnn.mlp((4, 8, 3))
    x = np.array(jax.random.normal(jax.random.key(1), (60, 4), np.float32))
    labels = np.repeat(np.arange(3), [30, 20, 10])
    return net, jaxnn.softmax_cross_entropy, net.init(jax.random.key(0)), (x, labels)


def test_relative_errors():
    errors = common.relative_errors(
        ({"w": np.array([3.0, 4.5])}, np.zeros(2)), ({"w": np.array([3.0, 4.0])}, np.zeros(2))
    )
    assert errors == {"layer 0, w": 0.1, "layer 1": 0.0}


def test_names_of_leaves():
    tree = ({"w": 0}, [(), {"q": {"b": 0}}]), {"W¹": [0, 0]}
    names = [common.leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert names == ["layer 0.0, w", "layer 0.1.1, q, b", "layer 1, W¹, 0", "layer 1, W¹, 1"]
    assert common.leaf_name(()) == ""


def test_a_result_replaces_the_old_one_and_tells_its_origin(tmp_path):
    parser = common.Parser("digits", "An experiment.")
    args = parser.parse_args(["--output", str(tmp_path), "--seed", "3"])
    for value in (1, 2):
        common.write_result(tmp_path, args, {"value": value})
    (written,) = tmp_path.iterdir()
    result = json.loads(written.read_text())
    assert result["value"] == 2
    assert result["settings"] == {"output": str(tmp_path), "seed": 3}
    assert 0 <= result["seconds"] < 60
    assert datetime.now(UTC) - datetime.fromisoformat(result["date"]) < timedelta(minutes=1)
    assert result["versions"]["jaxnn"] == jaxnn.__version__
    assert {"python", "jax", "jaxlib", "numpy", "optax", "scikit-learn"} <= set(result["versions"])
    assert {"system", "processor", "cores", "device"} == set(result["machine"])


def test_a_value_that_is_not_finite_is_no_result(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite"):
        common.write_result(tmp_path, Namespace(), {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_commit(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        return subprocess.run(("git", *who, *arguments), cwd=tmp_path, check=True)

    def commit_of(root):
        monkeypatch.setattr(common, "__file__", str(root / "experiments" / "common.py"))
        return common._commit.__wrapped__()

    inner = tmp_path / "inner"
    inner.mkdir()
    try:
        git("init", "--quiet")
    except OSError:
        pytest.skip("there is no git")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    clean = commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == clean + "+"
    assert commit_of(inner) is None  # a copy that lies in the checkout of something else
    monkeypatch.setenv("PATH", "")
    assert commit_of(tmp_path) is None


def test_a_figure_is_a_png_and_always_the_same_svg(tmp_path):
    plt = common.pyplot()
    written = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([1, 2], "o", label="a")
        axes.imshow(np.eye(2))
        common.save_pictures(tmp_path, figure=figure)
        written.append((tmp_path / "figure.svg").read_bytes())
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert written[0] == written[1]
    assert b"<svg" in written[0]
    assert b"dc:date" not in written[0]


@pytest.mark.parametrize("optimizer", [optax.sgd(1e9), optax.adam(1e9)], ids=["sgd", "adam"])
def test_a_run_that_diverges_is_refused(classifier, optimizer, standard_promotion):
    with pytest.raises(FloatingPointError, match=r"non-finite|diverged"):
        common.fit(*classifier, epochs=3, optimizer=optimizer, progress=False)


def test_a_classifier_that_has_learned_nothing_is_named(classifier, capsys):
    net, loss, params, data = classifier
    dead = jax.tree.map(np.zeros_like, params)  # every prediction is the same
    options = {"metrics": jaxnn.accuracy, "epochs": 2, "progress": False}
    common.fit(net, loss, dead, data, learning_rate=1e-3, **options)
    assert capsys.readouterr().out == (
        "nothing learned: 50.0% of the training examples are right; the most frequent class alone "
        "is 50.0%\n"
    )
    common.fit(net, loss, params, data, learning_rate=0.5, **options | {"epochs": 60})
    assert capsys.readouterr().out == ""


def test_ctrl_c_in_a_destructor_is_not_lost(parser, tmp_path, capsys):
    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def program(args):
        Interrupted()
        time.sleep(20)

    with pytest.raises(SystemExit) as left:
        parser.run(program, parser.parse_args(["--output", str(tmp_path)]))
    assert left.value.code == 130
    assert capsys.readouterr().err == "python -m experiments.digits: interrupted\n"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (FloatingPointError("training diverged"), 1, "training diverged"),
    ],
)
def test_a_run_that_fails_leaves_one_line_and_no_result(
    parser, tmp_path, capsys, error, status, words
):
    def program(args):
        raise error

    with pytest.raises(SystemExit) as left:
        parser.run(program, parser.parse_args(["--output", str(tmp_path)]))
    assert left.value.code == status
    assert capsys.readouterr().err == f"python -m experiments.digits: {words}\n"
    assert not (tmp_path / "result.json").exists()


def test_a_wrong_gradient_is_seen(with_wrong_bias):
    net = jaxnn.mlp((4, 3, 2))
    params = net.init(jax.random.key(0))
    x, labels = jax.random.normal(jax.random.key(1), (5, 4)), np.array([0, 1, 1, 0, 1])
    wrong = with_wrong_bias(net)
    errors = common.relative_errors(
        *common.both_gradients(wrong, jaxnn.softmax_cross_entropy, params, x, labels)
    )
    assert errors.pop("layer 0, b") == pytest.approx(0.01)
    assert all(error < 1e-12 for error in errors.values())


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_a_missing_library_is_named_in_one_line(python, missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import experiments.digits"
    finished = python("-c", program)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(missing)
    assert line.endswith("is not installed: pip install 'jaxnn[experiments]'")
