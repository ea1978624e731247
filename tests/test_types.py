"""What a type checker tells users: their wrong calls are refused, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
USER_CODE = Path("tests/typing/user_code.py")


def test_mypy_refuses_the_wrong_calls_and_nothing_else():
    lines = (ROOT / USER_CODE).read_text().splitlines()
    marked = {n for n, line in enumerate(lines, start=1) if line.endswith("# refused")}
    command = [sys.executable, "-m", "mypy", str(USER_CODE)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    refused = re.findall(r"^(.+):(\d+): error:", result.stdout, re.MULTILINE)
    assert {path for path, _ in refused} == {str(USER_CODE)}, result.stdout + result.stderr
    assert {int(line) for _, line in refused} == marked, result.stdout
