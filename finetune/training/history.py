"""history.csv: one row a step and one an evaluation, appended as training goes on.

What each step measured waits on the device, and is read from there for many steps at once.
"""

import csv
import io
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from finetune.console import Progress
from finetune.data.loader import TrainingData
from finetune.errors import TrainingError
from finetune.figures import METRICS, HistoryRow, is_evaluation
from finetune.files.atomic import write_text_atomically
from finetune.trackers.background import Trackers
from finetune.training.checkpoint import WorkFolder

STEP_COLUMNS = ("step", "epoch", "loss", "learning_rate", "logit_scale", "grad_norm")
WHOLE_NUMBERS = ("step", "epoch")


class History:
    """The rows so far, in memory and in a file; rows reach the file at `flush`.

    A row of a step holds STEP_COLUMNS; a row of an evaluation holds step, epoch and what of
    `measured` was measured, and comes after the row of its step.
    """

    def __init__(
        self, path: Path, rows: Iterable[HistoryRow] = (), measured: Collection[str] = METRICS
    ) -> None:
        """Start anew, or with the rows that `read_history` gave: a file that is there is replaced.

        `measured` are the columns of evaluations. Raises OSError; the file is then as it was.
        """
        self.path = path
        self.columns = (*STEP_COLUMNS, *measured)
        self.rows = list(rows)
        self._unwritten = 0
        header = self._line(dict.fromkeys(self.columns, ""), header=True)
        write_text_atomically(path, header + "".join(map(self._line, self.rows)))

    @classmethod
    def resume(
        cls, path: Path, step: int, evaluated: int, measured: Collection[str] = METRICS
    ) -> "History":
        """Go on after a checkpoint: rows that were written after it are dropped.

        Args:
            path: The file.
            step: Steps done at the checkpoint.
            evaluated: The step that was evaluated last at the checkpoint, -1 for none.
            measured: Columns of evaluations; those of earlier rows are dropped where they are not
                among them.
        """
        rows = read_history(path) if path.is_file() else []
        kept = [row for row in rows if row["step"] <= (evaluated if is_evaluation(row) else step)]
        return cls(path, kept, measured)

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row, its values as the file holds them; columns it lacks stay empty."""
        self.rows.append({name: type(value)(_cell(value)) for name, value in row.items()})
        self._unwritten += 1

    def flush(self, *, sync: bool = False) -> None:
        """Write what was appended; with `sync`, down to the disk."""
        if self._unwritten:
            new = self.rows[-self._unwritten :]
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write("".join(map(self._line, new)))
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            self._unwritten = 0

    def _line(self, row: Mapping[str, float | str], *, header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(
            text, self.columns, restval="", extrasaction="ignore", lineterminator="\n"
        )
        if header:
            writer.writeheader()
        else:
            writer.writerow({name: _cell(value) for name, value in row.items()})
        return text.getvalue()

    @property
    def evaluations(self) -> list[HistoryRow]:
        """The rows of evaluations."""
        return [row for row in self.rows if is_evaluation(row)]


def read_history(path: Path) -> list[HistoryRow]:
    """Read the rows of a history.csv, without empty cells.

    A last row that a crash cut off is left out.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
    rows: list[HistoryRow] = []
    for cells in csv.DictReader(lines):
        row = {name: float(cell) for name, cell in cells.items() if cell}
        rows.append({n: int(v) if n in WHOLE_NUMBERS else v for n, v in row.items()})
    return rows


def _cell(value: float | str) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)


READ_EVERY = 10
# A loss explodes where its mean over so many steps is so many times that of the first ones, or of
# chance: guessing among n pairs costs log(n).
WINDOW = 20
EXPLODED = 5.0
# Images that an error names: all of most batches.
NAMED = 64


class StepLog:
    """Figures of steps, read from the device a few steps at a time, since reading waits for it."""

    def __init__(
        self,
        data: TrainingData,
        history: History,
        work: WorkFolder,
        trackers: Trackers,
        progress: Progress,
        ids: Callable[[int], Sequence[str]],
        *,
        norm_may_overflow: bool,
    ) -> None:
        """`ids` gives the images of a step.

        With loss scaling a gradient norm may overflow: that step is skipped and no error.
        """
        self._data = data
        self._ids = ids
        self._history = history
        self._work = work
        self._trackers = trackers
        self._progress = progress
        self._norm_may_overflow = norm_may_overflow
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._bound = exploded_above(history, data.plan.batch_size)
        self._steps: list[tuple[int, float, torch.Tensor]] = []

    @property
    def is_full(self) -> bool:
        """Whether it is time to read."""
        return len(self._steps) >= READ_EVERY

    def add(
        self, step: int, rate: float, loss: torch.Tensor, scale: torch.Tensor, norm: torch.Tensor
    ) -> None:
        """Keep a step's figures; `step` counts from 0."""
        # SigLIP's scale has one element, CLIP's is a scalar
        figures = torch.stack([each.detach().reshape(()) for each in (loss, scale, norm)])
        self._steps.append((step, rate, figures))

    def read(self) -> None:
        """Move the figures into history.csv and the bar.

        Raises TrainingError where a loss is not finite or explodes.
        """
        if not self._steps:
            return
        values = torch.stack([figures for _, _, figures in self._steps]).tolist()
        steps, self._steps = self._steps, []
        for (step, rate, _), (loss, scale, norm) in zip(steps, values, strict=True):
            needed = (loss, scale) if self._norm_may_overflow else (loss, scale, norm)
            if not all(map(math.isfinite, needed)):
                what = "the gradient" if math.isfinite(loss) else f"the loss ({loss})"
                raise self._stopped(f"{what} is not finite", step)
            row: HistoryRow = {
                "step": step + 1,
                "epoch": step // self._data.steps_per_epoch + 1,
                "loss": loss,
                "learning_rate": rate,
                "logit_scale": scale,
                "grad_norm": norm,
            }
            self._history.append(row)
            self._trackers.log(step + 1, {n: v for n, v in row.items() if n != "step"})
            self._check_explosion(step, loss)
        self._history.flush()
        self._progress.advance(0, note=f"loss {values[-1][0]:.3f}")

    def _check_explosion(self, step: int, loss: float) -> None:
        self._recent.append(loss)
        if len(self._recent) < WINDOW:
            return
        mean = sum(self._recent) / WINDOW
        if self._bound is None:
            self._bound = exploded_above(self._history, self._data.plan.batch_size)
        elif mean > self._bound:
            raise self._stopped(
                f"the loss explodes: its mean over {WINDOW} steps is {mean:.3g}", step
            )

    def _stopped(self, what: str, step: int) -> TrainingError:
        ids = self._ids(step)
        shown = ", ".join(ids[:NAMED])
        if len(ids) > NAMED:
            shown += f" and {len(ids) - NAMED:,} more"
        kept = (
            f"the last good checkpoint is {self._work.checkpoint}"
            if self._work.checkpoint.exists()
            else "there is no checkpoint yet"
        )
        return TrainingError(
            f"{what} in step {step + 1:,}, with the images {shown}; {kept}:"
            f" start anew with --restart and a lower --learning-rate, or --precision fp32"
        )


def exploded_above(history: History, batch_size: int) -> float | None:
    """Return the mean loss that no run recovers from; None before the first steps are known."""
    first = [row["loss"] for row in history.rows if not is_evaluation(row)][:WINDOW]
    if len(first) < WINDOW:
        return None
    return EXPLODED * max(sum(first) / WINDOW, math.log(max(batch_size, 3)))
