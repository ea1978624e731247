"""Experiments that are interrupted, and go on with `--resume`."""

import functools
import json
import os
import shlex
import signal
import sys
from types import SimpleNamespace

import jax
import pytest

import jaxnn
from experiments import common, digits, resume, two_layer

KILLED = """
import os, signal, sys
from experiments import {name}, resume
from jaxnn.training.resume import Checkpoint

save = Checkpoint.save

def killed_before_a_save(checkpoint, training, **options):
    if checkpoint.folder.name == {network!r} and training.epoch == 1:
        os.kill(os.getpid(), signal.{signal})
    save(checkpoint, training, **options)

resume.SECONDS = 0.0
Checkpoint.save = killed_before_a_save
{name}.main(sys.argv[1:])
"""
TWO_LAYER = ("--hidden", "5", "--f", "sigmoid", "--g", "sigmoid")
EXPERIMENTS = {  # the program, its settings, the networks before that which is killed, and that
    "digits": (digits.main, ("--hidden", "8"), (), "network"),
    "two_layer": (
        *(two_layer.main, TWO_LAYER),
        *(("regression_sigmoid_sigmoid",), "classification_sigmoid_sigmoid"),
    ),
}
STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -signal.SIGKILL}


def result(folder):
    found = json.loads((folder / "result.json").read_text())
    del found["settings"]["output"]
    for name in ("date", "seconds", "seconds_per_epoch"):
        found.pop(name, None)
    return found


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def checkpoints(folder):
    """What each network's checkpoint holds, by the name of its folder."""
    return {
        path.parent.name: json.loads(jaxnn.load_metadata(path)["training"])
        for path in folder.glob("checkpoint/*/training.safetensors")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an experiment that was left alone."""

    @functools.cache
    def run(name):
        main, settings, *_ = EXPERIMENTS[name]
        folder = tmp_path_factory.mktemp(name)
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            main([*settings, "--epochs", "3", "--output", str(folder)])
        return folder

    return run


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("digits", "SIGKILL"),
        ("digits", "SIGTERM"),
        ("digits", "SIGINT"),
        ("two_layer", "SIGKILL"),
        ("two_layer", "SIGTERM"),
    ],
)
def test_a_run_that_was_killed_goes_on(name, by, whole, python, tmp_path, standard_promotion):
    main, settings, complete, network = EXPERIMENTS[name]
    settings = [*settings, "--epochs", "3", "--output", str(tmp_path)]
    killed = python("-c", KILLED.format(name=name, network=network, signal=by), *settings)
    assert killed.returncode == STATUS[by], killed.stderr
    assert "Traceback" not in killed.stderr
    assert not (tmp_path / "result.json").exists()
    if by != "SIGKILL":
        again = shlex.join([*settings, "--resume"])
        assert killed.stderr.splitlines()[-1].endswith(f"python -m experiments.{name} {again}")
    before = checkpoints(tmp_path)
    assert set(before) == {*complete, network}
    assert before[network]["epoch"] < 3

    with jax.enable_x64(False):
        main([*settings, "--resume"])
    assert result(tmp_path) == result(whole(name))
    assert pictures(tmp_path) == pictures(whole(name))
    for kept in complete:  # it was not trained again: its times are those of before
        assert checkpoints(tmp_path)[kept]["history"] == before[kept]["history"]


@pytest.fixture
def begin(tmp_path):
    """Parse a command line and begin a run in the folder `tmp_path`."""

    def begun(*arguments, name="digits", program=lambda args: None):
        parser = common.Parser(name, "An experiment.", trains=True)
        parser.add_argument("--hidden", nargs="+", type=int, default=[8])
        parser.add_argument("--learning-rate", type=float)
        args = parser.parse_args(["--output", str(tmp_path), *map(str, arguments)])
        parser.run(program, args)
        return args

    return begun


def test_a_new_run_removes_the_checkpoint_and_a_resumed_one_keeps_it(begin):
    file = resume.folder(begin(), "ReLU, He") / "training.safetensors"
    assert file.parent.name == "ReLU_He"
    file.parent.mkdir()
    file.touch()
    begin("--resume")
    assert file.exists()
    begin()
    assert not file.parent.exists()


def test_resuming_nothing_begins_a_run(begin, capsys):
    begin("--resume")
    assert "a new one begins" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (("--learning-rate", 0.5), "digits", "--learning-rate None, not 0.5;"),
        (("--hidden", 8, 9), "digits", "--hidden 8, not 8 9;"),
        (("--seed", 1), "digits", "--seed 0, not 1;"),
        ((), "cnn", "experiments.digits, not experiments.cnn;"),
    ],
)
def test_other_settings_are_refused(begin, capsys, arguments, name, words):
    kept = resume.folder(begin(), "network")
    kept.mkdir()
    with pytest.raises(SystemExit) as left:
        begin(*arguments, "--resume", name=name)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert kept.exists()


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_a_folder_of_something_else_stays(begin, capsys, tmp_path, options):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "thesis.pdf").touch()
    with pytest.raises(SystemExit):
        begin(*options)
    assert "in the way" in capsys.readouterr().err
    assert (tmp_path / "checkpoint" / "thesis.pdf").exists()


@pytest.mark.parametrize("by", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemError])
def test_the_line_on_how_to_go_on(begin, capsys, tmp_path, by, raised):
    def program(args):
        try:
            os.kill(os.getpid(), getattr(signal, by))
        except KeyboardInterrupt:
            raise raised from None  # code outside Python may raise another exception

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        begin("--hidden", 5, "--resume", program=program)
    assert left.value.code == STATUS[by]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"to resume: python -m experiments.digits --output {tmp_path} --hidden 5 --resume"
    )
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_a_recorder_drops_the_epochs_that_the_checkpoint_lacks(tmp_path):
    def at(epoch):
        return SimpleNamespace(epoch=epoch)

    first = resume.Recorder(tmp_path, lambda training: [training.epoch, 0.1 + 0.2])
    for epoch in (1, 2, 3):
        first(at(epoch))
    with first.path.open("a") as file:
        file.write("[4, [4, 0.3")  # the process was killed while it wrote
    second = resume.Recorder(tmp_path, lambda training: "again")
    assert second.epochs(at(2)) == [[1, 0.1 + 0.2], [2, 0.1 + 0.2]]
    second(at(3))
    assert second.epochs(at(3))[2] == "again"
    third = resume.Recorder(tmp_path, lambda training: None)
    assert third.epochs(at(3)) == second.epochs(at(3))
    with pytest.raises(resume.CannotResume, match="lacks epoch 4"):
        third.epochs(at(4))


def test_progress_without_a_terminal(monkeypatch, capsys):
    clock = iter(range(0, 100, 20))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    lines = common.Lines()
    monkeypatch.setattr(common, "Lines", lambda: lines)
    assert list(common.progress("abc", "letters", "letter")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "letters: 1 of 3 letters\n"
