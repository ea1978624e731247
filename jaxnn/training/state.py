"""A run of training: its state, and the exceptions that end it early."""

from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxnn.layer import Params, State

History = dict[str, list[float]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Training:
    """A run of `fit`: its progress, and everything needed to resume it.

        training = jaxnn.fit(net, loss, params, data, epochs=2)
        training = jaxnn.fit(net, loss, training, data, epochs=4)     two epochs more

    It is a pytree. The second line ends with the bits of a single run of four epochs.

    Attributes:
        params: the parameters.
        opt_state: the state of the optimizer.
        state: the state of the network; `()` if it has none.
        key: the random key of the run; the order of the examples and the keys of random layers
            follow from it and from the number of the epoch.
        epoch: the number of complete epochs.
        step: the number of complete steps of the next epoch.
        partial_loss: the loss of these steps, as a numerator and a denominator.
        history: a list with a number for each complete epoch, by name: "loss", measured while the
            parameters change; "seconds"; each metric by its name, and "validation_loss" and
            "validation_" with the name of a metric, measured after the epoch.
    """

    params: Params
    opt_state: Any
    state: State
    key: jax.Array
    epoch: int
    step: int
    partial_loss: tuple[Any, Any]
    history: History

    def with_measured(self, measured: dict[str, float], no_loss: tuple[Any, Any]) -> "Training":
        """The run after an epoch, with its figures appended to the history.

        Args:
            measured: the figures by name.
            no_loss: the `partial_loss` before the first step of an epoch.
        """
        grown = {name: [*self.history.get(name, []), n] for name, n in measured.items()}
        history = self.history | grown
        return replace(self, epoch=self.epoch + 1, step=0, partial_loss=no_loss, history=history)


class NonFiniteError(FloatingPointError):
    """The loss, a gradient or a parameter became infinite or NaN in training.

    Attributes:
        epoch: the epoch it happened in, from 1.
        step: the step in that epoch, from 1.
        leaf: the path of the first parameter leaf whose gradient or update is not finite, or
            `None` if only the loss is not.
        training: the `Training` with the last finite parameters, from just before that step.
    """

    def __init__(self, epoch: int, step: int, leaf: str | None, value, training: Training):
        self.epoch, self.step, self.leaf, self.training = epoch, step, leaf, training
        where = f"params{leaf} is the first leaf at fault" if leaf else "every gradient is finite"
        super().__init__(
            f"training hit a non-finite number in epoch {epoch}, step {step}: the loss is {value}, "
            f"{where}; the last finite parameters are in the .training.params of this error"
        )


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run of `fit` after a whole step.

    Attributes:
        signal_name: "Ctrl-C" or "SIGTERM".
        training: the `Training` up to there; `fit` resumes it.
    """

    def __init__(self, signal_name: str, training: Training, saved_to: Any):
        self.signal_name, self.training = signal_name, training
        kept = "in the .training of this exception"
        if saved_to is not None:
            kept += f" and in {saved_to}"
        done = f"epoch {training.epoch}"
        if training.step:
            done = f"step {training.step} of epoch {training.epoch + 1}"
        super().__init__(f"{signal_name} ended training after {done}; the run is {kept}")
