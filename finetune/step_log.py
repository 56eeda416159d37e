"""What each step measured, on its way from the device to history.csv and the progress bar."""

import math

import torch

from finetune.checkpoint import WorkFolder
from finetune.errors import TrainingError
from finetune.history import History
from finetune.progress import Progress
from finetune.training_data import TrainingData

READ_EVERY = 10


class StepLog:
    """Figures of steps, read from the device a few steps at a time, since reading waits for it."""

    def __init__(
        self, data: TrainingData, history: History, work: WorkFolder, *, norm_may_overflow: bool
    ) -> None:
        """With loss scaling a gradient norm may overflow: that step is skipped and no error."""
        self._data = data
        self._history = history
        self._work = work
        self._norm_may_overflow = norm_may_overflow
        self._steps: list[tuple[int, float, torch.Tensor]] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time to read."""
        return len(self._steps) >= READ_EVERY

    def add(
        self, step: int, rate: float, loss: torch.Tensor, scale: torch.Tensor, norm: torch.Tensor
    ) -> None:
        """Keep a step's figures; `step` counts from 0."""
        figures = torch.stack([loss.detach(), scale.detach(), norm.detach()])
        self._steps.append((step, rate, figures))

    def read(self, progress: Progress) -> None:
        """Move the figures into history.csv and the bar.

        Raises TrainingError where a loss is not finite.
        """
        if not self._steps:
            return
        values = torch.stack([figures for _, _, figures in self._steps]).tolist()
        steps, self._steps = self._steps, []
        for (step, rate, _), (loss, scale, norm) in zip(steps, values, strict=True):
            needed = (loss, scale) if self._norm_may_overflow else (loss, scale, norm)
            if not all(map(math.isfinite, needed)):
                raise self._not_finite(step, loss)
            self._history.append(
                {
                    "step": step + 1,
                    "epoch": step // self._data.steps_per_epoch + 1,
                    "loss": loss,
                    "learning_rate": rate,
                    "logit_scale": scale,
                    "grad_norm": norm,
                }
            )
        self._history.flush()
        progress.advance(0, note=f"loss {values[-1][0]:.3f}")

    def _not_finite(self, step: int, loss: float) -> TrainingError:
        what = "the gradient" if math.isfinite(loss) else f"the loss ({loss})"
        ids = self._data.ids(step)
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        kept = (
            f"the last good checkpoint is {self._work.checkpoint}"
            if self._work.checkpoint.exists()
            else "there is no checkpoint yet"
        )
        return TrainingError(
            f"{what} is not finite in step {step + 1:,}, with the images {shown}; {kept}:"
            f" start anew with --restart and a lower --learning-rate, or --precision fp32"
        )
