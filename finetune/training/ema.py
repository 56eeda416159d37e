"""An exponential moving average of the weights that are trained (Polyak averaging).

Of w after each step: average = d * average + (1 - d) * w. The decay d rises from 0.1 to its value,
min(decay, (1 + steps) / (10 + steps)), so that the first steps do not weigh for ever.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from finetune.errors import TrainingError, UsageError
from finetune.models.dual_encoder import DualEncoder


class MovingAverage:
    """Of the parameters of `dual` that want a gradient, in their own precision and device.

    Attributes:
        decay: Below 1; the average looks back over about 1 / (1 - decay) steps.
        steps: That were averaged.
    """

    def __init__(self, dual: DualEncoder, decay: float) -> None:
        if not 0 < decay < 1:
            raise UsageError(f"--ema must be above 0 and below 1, not {decay:g}")
        self.decay = decay
        self.steps = 0
        self._parameters = {
            name: parameter
            for name, parameter in dual.named_parameters()
            if parameter.requires_grad
        }
        self._averages = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights in; call it after each step of the optimizer."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = [parameter.detach() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self._averages.values()), weights, 1 - decay)
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages for its weights within: to evaluate or export them."""
        kept = [parameter.detach().clone() for parameter in self._parameters.values()]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters.values(), kept, strict=True):
                    parameter.copy_(value)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Overwrite the model's weights with the averages."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._averages[name])

    def state_dict(self) -> dict[str, Any]:
        """Return it for a checkpoint: a resumed run goes on to the same bits."""
        return {"steps": self.steps, "averages": self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a checkpoint. Raises TrainingError where it is of other parameters."""
        averages = state["averages"]
        if set(averages) != set(self._averages):
            other = min(set(averages) ^ set(self._averages))
            raise TrainingError(
                f"the checkpoint's moving average is of other parameters ({other}); continue with"
                f" the options of the interrupted run, or start anew with --restart"
            )
        self.steps = int(state["steps"])
        for name, average in self._averages.items():
            average.copy_(averages[name])
