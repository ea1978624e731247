"""What the suites share: turns, ratios, tables, processes and the command line."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark, natives, ops, peers, report, timing
from experiments.benchmark.processes import measured_process
from jaxnn.catalogue import ENTRIES


@pytest.fixture
def quick(monkeypatch):
    """One run for each measurement, however short it is."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 1e-9)


def test_turns_are_turned_round_after_each():
    calls = []
    measured = timing.by_turns(
        {name: lambda name=name: calls.append(name) or len(calls) for name in "ABC"}, 3, "calls"
    )
    assert "".join(calls) == "ABCCBAABC"
    assert measured == {"A": [1, 6, 7], "B": [2, 5, 8], "C": [3, 4, 9]}


def test_ratios_are_taken_round_by_round():
    figures = timing.compared({"jaxnn": [1.0, 3.0, 4.0], "other": [2.0, 3.0, 2.0]})
    assert figures == {
        "seconds": {"jaxnn": 3.0, "other": 2.0},
        "ratio": {"other": {"q1": 0.75, "median": 1.0, "q3": 1.5}},
    }


def test_a_contest(quick):
    x = jnp.ones((30, 50))
    programs = {
        "jaxnn": timing.compiled(lambda x: x + 1, x),
        "autodiff": timing.compiled(lambda x: jnp.cumsum(x, 0) @ jnp.cumsum(x, 1).T, x),
    }
    figures = timing.contest(programs, 2, "sums")
    assert all(seconds > 0 for seconds in figures["seconds"].values())
    assert figures["costs"]["jaxnn"] == {"flops": 1500, "bytes": 2 * x.nbytes, "temporary_bytes": 0}
    assert figures["costs"]["autodiff"]["flops"] >= 2 * 30 * 30 * 50
    assert figures["costs"]["autodiff"]["temporary_bytes"] > 0


def test_a_short_run_is_repeated(monkeypatch):
    clock, runs = [0.0], {"jaxnn": 0, "other": 0}
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.05)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def contestant(name, seconds):
        def run():
            runs[name] += 1
            clock[0] += seconds

        return timing.Contestant(run, {})

    programs = {"jaxnn": contestant("jaxnn", 0.01), "other": contestant("other", 0.02)}
    figures = timing.contest(programs, 2, "naps")
    assert runs == {"jaxnn": 1 + 1 + 2 * 3, "other": 1 + 1 + 2 * 3}
    assert figures["ratio"]["other"]["median"] == pytest.approx(0.5)
    runs.update(jaxnn=0, other=0)
    monkeypatch.setattr(timing, "MOST_RUNS", 2)
    timing.contest(programs, 2, "naps")
    assert runs == {"jaxnn": 1 + 1 + 2 * 2, "other": 1 + 1 + 2 * 2}


def test_platforms(monkeypatch):
    assert timing.platforms() == ["cpu"]
    monkeypatch.setattr(jax, "devices", lambda platform: [platform])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert timing.platforms() == ["cpu", "gpu"]

    def only_gpu(platform):
        if platform == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return [platform]

    monkeypatch.setattr(jax, "devices", only_gpu)
    assert timing.platforms() == ["gpu"]


def test_a_table_has_columns_for_each_platform():
    measured = {"one": {"cpu": {"ms": 3}, "gpu": {"ms": 1}}, "two": {"cpu": {"ms": 4}}}
    table = report.table(measured, ("row", "ms"), lambda name, f: (name, str(f["ms"])))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert cells[0] == ["row", "cpu ms", "gpu ms"]
    assert cells[2:] == [["one", "3", "1"], ["two", "4", ""]]


@pytest.mark.parametrize(
    ("ours", "autodiff", "ratio"), [(0, 0, 1), (0, 8, 0), (4, 8, 0.5), (8, 0, np.inf)]
)
def test_memory_ratio(ours, autodiff, ratio):
    costs = {"jaxnn": {"temporary_bytes": ours}, "autodiff": {"temporary_bytes": autodiff}}
    assert report.memory_ratio({"costs": costs}) == ratio


@pytest.mark.parametrize("n_rows", [1, 2, 60])
@pytest.mark.parametrize("ratio", [0.03, 1.0, 1.2])
def test_ratios_are_readable_with_one_row_and_with_many(readable, n_rows, ratio):
    quartiles = {"q1": 0.99 * ratio, "median": ratio, "q3": 1.01 * ratio}
    costs = {"jaxnn": {"temporary_bytes": 0}, "autodiff": {"temporary_bytes": 8}}
    figures = {"ratio": {"autodiff": quartiles, "native": quartiles}, "costs": costs}
    rows = {f"linear_softmax_cross_entropy{i} (3,)": figures for i in range(n_rows)}
    figure = report.draw_ratios(rows, "A title")
    readable("ratios", figure)
    for axes in figure.axes:
        assert len(axes.get_xticks()) >= 2
        assert axes.bbox.height > 10 * n_rows
    report.plt.close(figure)


def test_every_op_has_a_row_and_every_counterpart_an_op():
    assert len(ops.rows(0)) == len(ENTRIES)
    counterparts = natives._OF_JAX | natives._OF_OPTAX | natives._OF_FLAX
    assert counterparts.keys() <= {entry.op.__name__ for entry in ENTRIES}


def test_rows_are_compiled_before_they_are_measured():
    calls = []

    def row(name):
        return timing.Row(
            lambda platform: calls.append(f"compile {name}") or f"{name} on {platform}",
            lambda program, rounds: calls.append(f"measure {name}") or (program, rounds),
        )

    first, second, third = map(row, "ABC")
    timing.compile_all([first, second], ["cpu"])
    assert sorted(calls) == ["compile A", "compile B"]
    assert [row("cpu", 15) for row in (first, second)] == [("A on cpu", 15), ("B on cpu", 15)]
    assert third("cpu", 16) == ("C on cpu", 16)
    assert calls[2:] == ["measure A", "measure B", "compile C", "measure C"]


def test_a_row_that_fails_leaves_the_others_and_their_results(monkeypatch, tmp_path, capsys):
    def compiled(platform):
        raise ValueError("too bad")

    figures = {"seconds": {"jaxnn": 0.5}}
    rows = {
        "good": timing.Row(lambda platform: None, lambda program, rounds: figures),
        "bad": timing.Row(compiled, lambda program, rounds: figures),
        "stopped": lambda platform, rounds: sys.exit(3),
    }
    suite = SimpleNamespace(
        __doc__="A suite.",
        HEADERS=("row", "ms"),
        LEGEND="",
        rows=lambda seed: rows,
        cells=lambda name, figures: (name, report.milliseconds(figures["seconds"]["jaxnn"])),
    )
    monkeypatch.setitem(benchmark.SUITES, "ops", suite)
    with pytest.raises(SystemExit):
        benchmark.main(["ops", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rows"] == {"good": {"cpu": figures}}
    assert result["failed"] == {"bad": "ValueError: too bad"}
    assert "500.00" in (tmp_path / "table.md").read_text()
    del rows["good"], rows["stopped"]
    with pytest.raises(SystemExit) as left:
        benchmark.main(["ops", "--output", str(tmp_path)])
    assert left.value.code == 1
    assert "failed: bad: ValueError: too bad" in capsys.readouterr().err


def test_a_suite_writes_result_table_and_picture(quick, monkeypatch, tmp_path, capsys):
    settings = ("--only", "global_avg_pool", "--pairs", "15", "--output", str(tmp_path))
    benchmark.main(["ops", *settings])
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    (name,) = rows
    assert name.startswith("global_avg_pool (")
    figures = rows[name]["cpu"]
    assert set(figures["costs"]) == {"jaxnn", "autodiff"}
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == printed
    assert "| `global_avg_pool` (64, 56, 56, 32) |" in printed
    assert (tmp_path / "ops_cpu.png").stat().st_size > 10_000


def test_attention_by_cudnn_is_skipped_without_a_gpu(tmp_path):
    benchmark.main(["attention", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rows"] == result["failed"] == {}
    assert set(result["skipped"].values()) == {"cuDNN computes on a GPU alone"}


def test_what_is_not_installed_is_skipped_and_said_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(peers.MODULES, "PyTorch", "no_such_module")
    benchmark.main(["peers", "--only", "PyTorch", "--output", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["rows"] == {}
    assert "no_such_module is not installed: pip install" in result["skipped"]["PyTorch"]
    assert "skipped: PyTorch" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))


def test_a_measured_process_sees_no_accelerator_and_shares_the_clock():
    code = (
        "import json, os, time;"
        "print('other output');"
        "names = 'JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES', 'PYTHONDONTWRITEBYTECODE';"
        "seen = {name: os.environ.get(name) for name in names};"
        "print(json.dumps({'finished_at': time.monotonic()} | seen))"
    )
    start = time.monotonic()
    figures = measured_process("cpu", "-c", code)
    assert 0 < figures.pop("seconds_from_start") < time.monotonic() - start
    assert list(figures.values()) == ["cpu", "", None]


def test_a_measured_process_that_fails():
    with pytest.raises(RuntimeError, match=r"(?s)failed:.*ValueError: too bad"):
        measured_process("cpu", "-c", "raise ValueError('too bad')")


def test_measured_programs_load_nothing_beside_what_they_measure():
    """What a library's process imports before it is asked to train would count against it."""
    code = (
        "import sys, experiments.benchmark.peer, experiments.benchmark.processes;"
        "print({'jax', 'matplotlib', 'sklearn', 'tqdm'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


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
