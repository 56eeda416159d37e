"""TensorBoard: event files below `tensorboard/` of the trackers' folder.

To look: `tensorboard --logdir FOLDER/tensorboard`. A resumed run writes into the same folder and
hides what was written after its checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from finetune.trackers.run import TrackedRow, TrackedRun


class TensorBoardTracker:
    """Scalars as they come; settings and final figures as tables of text."""

    def __init__(self, run: TrackedRun) -> None:
        known = run.state.get("tensorboard")
        name = known or _new_name(run.folder / "tensorboard", run.file_name)
        self._writer = SummaryWriter(
            str(run.folder / "tensorboard" / name),
            purge_step=run.resumed_from_step + 1 if known else None,
        )
        self._step = run.resumed_from_step
        if not known:
            run.state.put("tensorboard", name)
            self._writer.add_text("settings", _table(run.plain_config()), 0)
            self._writer.flush()

    def log(self, rows: Sequence[TrackedRow]) -> None:
        """Write and flush, so that the page is up to date and a kill loses little."""
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._step = step
        self._writer.flush()

    def finish(self, summary: Mapping[str, float], *, completed: bool) -> dict[str, Any]:
        """Add a table of the final figures and close the file."""
        if summary:
            rounded = {name: f"{value:.4g}" for name, value in summary.items()}
            self._writer.add_text("result", _table(rounded), self._step)
        self._writer.close()
        return {}


start = TensorBoardTracker


def _new_name(folder: Path, name: str) -> str:
    """Return a folder that no other run has, since TensorBoard would mix their curves."""
    number, free = 1, name
    while (folder / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _table(values: Mapping[str, object]) -> str:
    cells = {name: str(value).replace("|", "\\|") for name, value in values.items()}
    rows = [f"| {name} | {cell} |" for name, cell in cells.items()]
    return "\n".join(["| name | value |", "|---|---|", *rows])
