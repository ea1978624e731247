"""The GPT and the LSTM, which differ in the network and in one picture."""

import json

import jax
import numpy as np
import pytest

from experiments import char_gpt, char_lstm, text

pytestmark = pytest.mark.thorough

PROSE = "the cat sat on the mat, and the dog sat on the cat. " * 60
SMALL = ("--context", "16", "--batch-size", "8", "--steps", "60", "--sample", "20")
MODELS = {
    "char_gpt": (char_gpt.main, ("--dim", "16", "--heads", "2", "--blocks", "1"), "attention"),
    "char_lstm": (char_lstm.main, ("--dim", "8", "--hidden", "24"), "hidden_units"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory, readable):
    """The result of a small model of a small text, and the names of its pictures."""
    main, sizes, picture = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text(PROSE)
    files = ("--text", str(folder / "text.txt"), "--output", str(folder))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        main([*SMALL, *sizes, "--learning-rate", "0.02", "--twin", *files])
    return folder, (picture, "curves")


def test_result(model):
    folder, _ = model
    result = json.loads((folder / "result.json").read_text())
    losses = result["curves"]["held_out_loss"]
    assert result["held_out_loss"] == losses[-1] < losses[0]
    assert result["held_out_loss"] < 1.5  # guessing by frequency: 2.5
    assert result["perplexity"] == pytest.approx(np.exp(losses[-1]))
    assert all(error <= 1e-5 for error in result["gradient_error"].values())
    assert result["held_out_loss_by_autodiff"] == pytest.approx(result["held_out_loss"], abs=1e-3)
    assert len(result["sample"]) == 20
    assert set(result["sample"]) <= set(PROSE)


def test_pictures(model):
    folder, pictures = model
    for name in pictures:
        data = (folder / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 200_000


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys, standard_promotion):
    (tmp_path / "text.txt").write_text(PROSE)
    main, sizes, _ = MODELS["char_lstm"]
    settings = [*SMALL, *sizes, "--text", str(tmp_path / "text.txt"), "--output"]
    save = text.Round.save

    def saved_and_interrupted(done, *arguments):
        save(done, *arguments)
        if done.step == 40:
            raise KeyboardInterrupt

    with jax.enable_x64(False):
        main([*settings, str(tmp_path / "whole")])
        monkeypatch.setattr(text.Round, "save", saved_and_interrupted)
        with pytest.raises(SystemExit) as left:
            main([*settings, str(tmp_path / "parts")])
        monkeypatch.undo()
        main([*settings, str(tmp_path / "parts"), "--resume"])
        (tmp_path / "text.txt").write_text(PROSE.replace("cat", "tac"))
        with pytest.raises(SystemExit):
            main([*settings, str(tmp_path / "parts"), "--resume"])
    assert left.value.code == 130
    assert "the text has changed" in capsys.readouterr().err.splitlines()[-1]
    whole, parts = (
        json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "parts")
    )
    for result in (whole, parts):
        del result["settings"]["output"], result["seconds"], result["date"]
    assert whole == parts


def test_a_loss_that_overflows_is_reported_in_one_line(tmp_path, capsys, standard_promotion):
    (tmp_path / "text.txt").write_text(PROSE)
    main, sizes, _ = MODELS["char_lstm"]
    files = ("--text", str(tmp_path / "text.txt"), "--output", str(tmp_path))
    with jax.enable_x64(False), pytest.raises(SystemExit) as left:
        main([*SMALL, *sizes, *files, "--learning-rate", "1e38"])
    assert left.value.code == 1
    assert "non-finite" in capsys.readouterr().err.splitlines()[-1]


def test_windows_and_targets_are_one_character_apart():
    x, target = text._windows(np.arange(11), 3)
    np.testing.assert_array_equal(x, [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    np.testing.assert_array_equal(target, x + 1)


def test_a_character_of_the_attention_sees_none_after_it():
    net = char_gpt.network(5, dim=16, heads=2, blocks=2, context=8)
    params = net.init(jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):
        maps = char_gpt.attention_maps(net, params, np.array([0, 3, 1, 4, 2, 2]), 2)
    assert maps.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-6)
    assert (np.triu(maps, 1) == 0).all()


@pytest.mark.parametrize("n_units", [3, 2 * char_lstm.SHOWN_UNITS + 1])
def test_hidden_units_from_the_slowest_to_the_fastest(readable, n_units):
    random, t = np.random.default_rng(0), np.arange(40)
    hidden = random.choice([-0.5, 0.5], (4, 40, n_units))
    hidden[..., 1] = np.cos(np.pi * t)
    hidden[..., 2] = np.cos(0.1 * t)
    figure = char_lstm.draw_hidden_units(hidden, hidden[0], "a b\n$" * 8)
    readable("hidden_units", figure)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == min(n_units, 2 * char_lstm.SHOWN_UNITS)
    assert names[0].startswith("unit 3, r = 0.9")
    assert names[-1].startswith("unit 2, r = −1.0")
    char_lstm.plt.close(figure)


def test_the_title_has_the_nearest_and_the_farthest_head(readable):
    here = np.eye(char_gpt.SHOWN)
    back = np.eye(char_gpt.SHOWN, k=-2)
    back[:2, 0] = 1
    figure = char_gpt.draw_attention(np.array([[here, back]]), "m" * char_gpt.SHOWN)
    readable("attention", figure)
    far = (2 * (char_gpt.SHOWN - 2) + 1) / char_gpt.SHOWN
    assert figure.get_suptitle() == f"The heads look 0.0 to {far:.1f} characters back on average"
    char_gpt.plt.close(figure)


@pytest.mark.parametrize("main", [char_gpt.main, char_lstm.main])
def test_bad_texts(main, leaves_with_one_line, tmp_path):
    (tmp_path / "short").write_text("too short")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    for name, words in (
        ("none", "cannot be read: No such file"),
        ("bytes", "is not UTF-8 text"),
        ("short", "a text of 9 characters has 0 windows of 64"),
    ):
        arguments = ("--text", tmp_path / name, "--output", tmp_path)
        assert words in leaves_with_one_line(main, *arguments)


def test_heads_must_divide(leaves_with_one_line, tmp_path):
    arguments = ("--dim", 10, "--heads", 4, "--output", tmp_path)
    assert "--dim 10" in leaves_with_one_line(char_gpt.main, *arguments)
