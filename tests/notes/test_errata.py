"""Every erratum of the five notes has its test."""

import re
from pathlib import Path

ERRATA = {"000": 10, "001": 15, "002": 7, "003": 28, "004": 11}


def test_every_erratum_has_a_test():
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_0*.py"))
    tested = set(re.findall(r"^def test_(\d{3})_(\d+)_", source, flags=re.M))
    assert tested == {(note, str(i + 1)) for note, n in ERRATA.items() for i in range(n)}
