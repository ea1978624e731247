"""A report says its verdict, in text, in HTML and as data."""

import math

import pytest

from jaxnn.gradcheck import Finding, GradientMismatch, Report, Row

RIGHT = Row("x", "float64[3]", 1e-16, "right")
FAULT = Row("w", "float64[2,3]", 0.5, "WRONG")
WRONG = Finding("gradient", "w", 0.5, "d_w is 0.5 × the true gradient")
RAISED = Finding("runs", "", math.nan, "forward raised ValueError: a < b")
REPAIR = "net.py:4: return dy * x: write 2 * dy * x here"


@pytest.mark.parametrize(
    ("rows", "findings", "verdict"),
    [
        ([RIGHT], [], "right"),
        ([RIGHT, FAULT], [WRONG], "WRONG"),
        ([FAULT], [RAISED, WRONG], "WRONG"),
        ([], [RAISED], "could not be run"),
        ([RIGHT._replace(verdict="not tested")], [], "not tested"),
        ([], [], "not tested"),
    ],
)
def test_the_verdict(rows, findings, verdict):
    report = Report("f", rows, findings)
    assert report.verdict == report.to_dict()["verdict"] == verdict
    assert str(report).splitlines()[0] == f"f: {verdict}"
    assert report.ok is (verdict == "right")
    if not report.ok:
        with pytest.raises(GradientMismatch, match=f"f: {verdict}"):
            report.raise_if_failed()


def test_the_text():
    report = Report(
        "f",
        [RIGHT, FAULT],
        [WRONG, WRONG],
        ["a note"],
        reproduce="check(f)",
        search=lambda: [REPAIR],
    )
    assert (
        str(report)
        == f"""f: WRONG

argument  array         error    verdict
x         float64[3]    1.0e-16  right
w         float64[2,3]  5.0e-01  WRONG

d_w is 0.5 × the true gradient

{REPAIR}

a note

again: check(f)"""
    )
    assert report.to_dict()["repairs"] == [REPAIR]


def test_the_html_is_escaped():
    html = Report("<f>", [FAULT, RIGHT], [WRONG, RAISED], search=lambda: ["a & b"])._repr_html_()
    assert "&lt;f&gt;" in html
    assert "a &lt; b" in html
    assert "a &amp; b" in html
    assert html.count("<tr>") == 3
    assert html.count("<p>") == html.count("</p>") == 3
