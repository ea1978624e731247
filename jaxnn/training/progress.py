"""The progress bar that `fit` shows while it trains a network."""

import sys
import time
from contextlib import suppress

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A progress bar, or lines at intervals where a bar cannot move.

    Args:
        total: the number of epochs of the whole run.
        done: the number of complete epochs.
        shown: `True` for a bar in any case, `False` for nothing at all; `None` for a bar on a
            terminal and in a notebook, and lines elsewhere.
    """

    def __init__(self, total: int, done: int, shown: bool | None):
        self.total, self.figures = total, ""
        self.spoken = time.monotonic()
        self.bar = None
        self.lines = False
        if shown is None and not (sys.stderr.isatty() or _is_notebook()):
            self.lines = True
        elif shown is not False:
            from tqdm.auto import tqdm

            self.bar = tqdm(
                total=total,
                initial=done,
                desc="fit",
                unit="epoch",
                bar_format="{l_bar}{bar}| {n:.4g}/{total} [{elapsed}<{remaining}{postfix}]",
            )

    def at(self, epochs: int | float) -> None:
        """Show the number of epochs done, with a fraction for the current one."""
        if self.bar is not None:
            self.bar.update(epochs - self.bar.n)
        elif self.lines and time.monotonic() - self.spoken > SECONDS_BETWEEN_LINES:
            self.spoken = time.monotonic()
            print(f"fit: {epochs:.4g} of {self.total} epochs{self.figures}", file=sys.stderr)

    def measured(self, figures: dict[str, float]) -> None:
        """Show figures of the last epoch."""
        shown = {
            name.replace("_", " "): f"{n:.4g}" for name, n in figures.items() if name != "seconds"
        }
        self.figures = "".join(f", {name} {number}" for name, number in shown.items())
        if self.bar is not None:
            self.bar.set_postfix(shown)

    def close(self) -> None:
        """Close the bar, which remains on the screen."""
        if self.bar is not None:
            self.bar.close()


def _is_notebook() -> bool:
    with suppress(NameError):
        return get_ipython().has_trait("kernel")  # type: ignore[name-defined]  # noqa: F821
    return False
