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


def test_the_list_tells_no_more_than_the_kind(capsys):
    find_the_bug.main(["--list"])
    assert len(capsys.readouterr().out.splitlines()) == len(NUMBERS)


def test_a_number_out_of_range_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as left:
        find_the_bug.main(["--number", "99"])
    assert left.value.code == 2
    assert "'99' is not an integer in 1 …" in capsys.readouterr().err
