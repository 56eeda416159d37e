"""Pictures of a finished run, for the encoder folder."""

from collections.abc import Sequence
from pathlib import Path

from finetune.evaluate import Evaluation
from finetune.fit import Run
from finetune.history import Row
from finetune.plots import plot_history


def draw_outcome(run: Run, rows: Sequence[Row], evaluation: Evaluation | None) -> list[Path]:
    """Draw them into the run's working folder.

    Args:
        run: That is done.
        rows: Of history.csv.
        evaluation: Of the exported weights, where there is one.
    """
    return plot_history(rows, run.work.path, pool=len(run.data.splits.val) or None)
