"""Every exercise shows one wrong backward, and its diagnosis names the mistake in it."""

import pytest

from experiments import find_the_bug

NUMBERS = range(1, len(find_the_bug.EXERCISES) + 1)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_diagnosis_names_the_mistake(number):
    mistake, right, _ = find_the_bug.EXERCISES[number - 1]
    assert right in find_the_bug.BACKWARD
    assert mistake in {named.id for named in find_the_bug.answer(number).mistakes}


def test_the_backward_without_a_mistake_is_right(monkeypatch):
    monkeypatch.setattr(find_the_bug, "source", lambda number: find_the_bug.BACKWARD)
    assert find_the_bug.answer(1).ok


def test_an_exercise_keeps_its_answer_until_asked(capsys):
    find_the_bug.main(["--number", "3"])
    shown = capsys.readouterr().out
    assert "d1 = d2 @ w2.T" in shown
    assert "A1" not in shown
    find_the_bug.main(["--number", "3", "--answer"])
    assert "A1" in capsys.readouterr().out


@pytest.mark.parametrize("number", NUMBERS)
def test_the_wrong_line_can_be_repaired(number):
    _, right, wrong = find_the_bug.EXERCISES[number - 1]
    line = find_the_bug.wrong_lines(number)[-1]
    shown = find_the_bug.source(number).splitlines()[line - 1]
    extra = shown.strip().startswith("w2 =")
    repaired = "pass" if extra else shown.replace(wrong.splitlines()[-1].strip(), right)
    assert find_the_bug.is_repaired(number, line, repaired)
    assert not find_the_bug.is_repaired(number, line, shown)
    assert not find_the_bug.is_repaired(number, line, "1 / 0")


def test_the_guess_comes_before_the_answer(capsys, monkeypatch):
    said = iter(["9", "what?", "11", "d1 = d2 @ w2.T", "d1 = d2 @ w2.T * (1 - a1 * a1)"])
    shown = []

    def reply(question):
        shown.append(capsys.readouterr().out)
        return next(said)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", reply)
    find_the_bug.main(["--number", "3"])
    after = capsys.readouterr().out
    assert "A1" not in "".join(shown)
    assert [line for text in shown[1:] for line in text.splitlines()] == [
        "Line 9 is right.",
        "Please give the number of a line.",
        "Yes, line 11.",
        "With this line, some gradient is still wrong.",
    ]
    assert after.startswith("Yes: with this line every gradient is right.")
    assert " 11      d1 = d2 @ w2.T\nshould be\n         d1 = (d2 @ w2.T) * (1 - a1**2)\n" in after
    assert "A1" in after


def test_the_answer_speaks_of_the_code():
    text = find_the_bug.in_code(str(find_the_bug.answer(3)))
    assert "\ndw1             (5, 6) " in text
    assert "params" not in text
    assert find_the_bug.letters("δ at N") == [
        find_the_bug.LETTERS["δ"],
        find_the_bug.LETTERS["N"],
    ]


def test_the_list_tells_no_more_than_the_kind(capsys):
    find_the_bug.main(["--list"])
    assert len(capsys.readouterr().out.splitlines()) == len(NUMBERS)


def test_a_number_out_of_range_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as left:
        find_the_bug.main(["--number", "99"])
    assert left.value.code == 2
    assert "'99' is not an integer in 1 …" in capsys.readouterr().err
