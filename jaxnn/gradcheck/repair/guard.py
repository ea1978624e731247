"""Runs that cannot hang, print or warn."""

import contextlib
import ctypes
import io
import threading
import time
import warnings

import numpy as np


class OutOfTime(BaseException):
    """Raised inside a run that takes too long; `except Exception` does not catch it."""


@contextlib.contextmanager
def silence():
    """Drop the output and the warnings of the code."""
    output = io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield


class Watchdog:
    """A thread that raises `OutOfTime` in the thread that runs for too long.

    It uses no signals, which belong to the main program, and works in every thread.

        with Watchdog() as watchdog:
            with watchdog.limit(0.5):
                run()
    """

    def __init__(self):
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._deadline, self._rung = float("inf"), False
        self._closed = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closed.set()

    @contextlib.contextmanager
    def limit(self, seconds: float):
        """Raise `OutOfTime` in the body after some seconds."""
        with self._lock:
            self._rung, self._deadline = False, time.perf_counter() + seconds
        try:
            yield
        except OutOfTime:
            self._rung = False
            raise
        finally:
            with self._lock:
                self._deadline = float("inf")
            if self._rung:
                self._await_ring()

    def _await_ring(self):
        """Absorb an exception sent just after the body ended."""
        with contextlib.suppress(OutOfTime):
            for _ in range(1000):
                time.sleep(0.001)

    def _watch(self):
        while not self._closed.wait(0.02):
            with self._lock:
                if time.perf_counter() > self._deadline:
                    self._rung, self._deadline = True, float("inf")
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(self._thread), ctypes.py_object(OutOfTime)
                    )
