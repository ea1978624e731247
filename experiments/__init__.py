"""Programs that train networks or measure them; each writes a result and pictures."""

import os
import signal
import sys


def _leave(number, frame):
    """End at once, with one line: as long as modules load, there is nothing to tidy up."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


# `python -m` calls the program "-m" while it imports this package
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
