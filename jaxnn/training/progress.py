"""What a person sees while a network is trained."""

import sys
import time
from contextlib import suppress

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """A progress bar, or now and then a line where nobody could see a bar move.

    Args:
        total: epochs of the whole run.
        done: epochs that are complete.
        shown: `True` for a bar in any case, `False` for nothing at all; `None` for a bar on a
            terminal and in a notebook, and lines anywhere else.
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
        """Show how many epochs are done, with a fraction for the one that runs."""
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
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def _is_notebook() -> bool:
    with suppress(NameError):
        return get_ipython().has_trait("kernel")  # type: ignore[name-defined]  # noqa: F821
    return False
