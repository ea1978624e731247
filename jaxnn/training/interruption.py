"""Ctrl-C and SIGTERM, noted while a step runs and obeyed after it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether the run was asked to end.

    Attributes:
        signal_name: "Ctrl-C" or "SIGTERM" once it was asked; `None` before that.
    """

    def __init__(self):
        self.signal_name: str | None = None


@contextmanager
def noticed() -> Iterator[Interruption]:
    """A context in which the first Ctrl-C or SIGTERM is only noted; a second one acts at once.

    Signals reach only the main thread; in another one nothing is noted.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before: dict[int, Any] = {}

    def note(number, frame):
        interruption.signal_name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        restore()

    def restore():
        while before:
            signal.signal(*before.popitem())

    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        # keep a handler that was set outside Python, or a signal that is ignored
        if handler not in (None, signal.SIG_IGN):
            before[number] = handler
            signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
