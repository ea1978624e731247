import json

import numpy as np
import pytest

from experiments import benchmark
from jaxnn.catalogue import ENTRIES


def test_training(python, tmp_path):
    settings = ("training", "--only", "64-128-10", "--pairs", 15, "--output", tmp_path)
    finished = python("-m", "experiments.benchmark", *settings)
    assert finished.returncode == 0, finished.stderr
    assert "| 64-128-10 | " in finished.stdout
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert list(rows) == ["64-128-10"]
    row = rows["64-128-10"]
    assert all(row["seconds"][side] > 0 for side in ("jaxnn", "autodiff"))
    assert all(row["temporary_bytes"][side] > 0 for side in ("jaxnn", "autodiff"))
    assert 0 < row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]


def test_every_op_has_a_row():
    assert len(benchmark.ops(0)) == len(ENTRIES)


def test_an_op(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "LEAST_SECONDS", 1e-9)
    settings = ("--only", "global_avg_pool", "--pairs", "15", "--output", str(tmp_path))
    benchmark.main(["ops", *settings])
    (name,) = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert name.startswith("global_avg_pool (")


def test_the_sides_take_turns_in_going_first(monkeypatch):
    monkeypatch.setattr(benchmark, "LEAST_SECONDS", 1e-9)
    calls = []
    sides = tuple(benchmark.Side(lambda name=name: calls.append(name), 0) for name in "AB")
    seconds = benchmark.measure(sides, 3, "calls")
    assert "".join(calls).endswith("ABBAAB")
    assert seconds.shape == (3, 2)


def test_summary_and_table():
    sides = benchmark.Side(None, 1024), benchmark.Side(None, 2048)
    seconds = np.array([[0.01, 0.02], [0.03, 0.03], [0.04, 0.02]])
    row = benchmark.summary(sides, seconds)
    assert row == {
        "seconds": {"jaxnn": 0.03, "autodiff": 0.02},
        "ratio": {"q1": 0.75, "median": 1.0, "q3": 1.5},
        "temporary_bytes": {"jaxnn": 1024, "autodiff": 2048},
    }
    *_, line = benchmark.markdown({"net": row}).splitlines()
    assert line == "| net | 30.00 | 20.00 | 1.000 [0.750, 1.500] | 1.0 | 2.0 |"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["training", "--pairs", "14"], "14"),
        (["reading"], "reading"),
        (["training", "--only", "1-2-3"], "1-2-3"),
    ],
)
def test_a_bad_option(leaves_with_one_line, tmp_path, arguments, named):
    assert named in leaves_with_one_line(benchmark.main, "--output", tmp_path, *arguments)
