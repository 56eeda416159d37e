"""Plots of a run, as PNG files, in one plain style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.history import RETRIEVAL_COLUMNS, Row, is_evaluation

LOSS_PLOT = "loss.png"
RETRIEVAL_PLOT = "retrieval.png"

STYLE = {
    "figure.figsize": (7.0, 4.0),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
MEASURED, SMOOTHED, SECOND = "#b5c7dd", "#1f4e79", "#c8553d"


def plot_history(rows: Sequence[Row], folder: Path, *, pool: int | None) -> list[Path]:
    """Draw loss.png and, where there are evaluations, retrieval.png into the folder.

    Args:
        rows: Of history.csv.
        folder: That exists.
        pool: Images in the validation pool, for the title.
    """
    steps = [row for row in rows if not is_evaluation(row)]
    evaluations = [row for row in rows if is_evaluation(row)]
    written = []
    if steps:
        written.append(_plot_loss(steps, folder / LOSS_PLOT))
    if evaluations and all(name in evaluations[0] for name in RETRIEVAL_COLUMNS):
        written.append(_plot_retrieval(evaluations, folder / RETRIEVAL_PLOT, pool))
    return written


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and up to window - 1 before it."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def _plot_loss(rows: Sequence[Row], path: Path) -> Path:
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    window = max(len(rows) // 50, 1)

    def draw(axes: Any) -> None:
        axes.plot(steps, losses, color=MEASURED, linewidth=0.8, label="each step")
        axes.plot(steps, smoothed(losses, window), color=SMOOTHED, label=f"mean of {window} steps")
        axes.set(title="Training loss", xlabel="step", ylabel="contrastive loss")

    return _draw(path, draw)


def _plot_retrieval(rows: Sequence[Row], path: Path, pool: int | None) -> Path:
    steps = [row["step"] for row in rows]
    among = "" if pool is None else f", pool of {pool:,} images"

    def draw(axes: Any) -> None:
        for name, direction, colour in (
            ("t2i", "text to image", SMOOTHED),
            ("i2t", "image to text", SECOND),
        ):
            for metric, style in (("mrr@10", "-"), ("recall@1", ":")):
                values = [row[f"{name}_{metric}"] for row in rows]
                axes.plot(
                    steps, values, style, color=colour, marker=".", label=f"{direction} {metric}"
                )
        axes.set(title=f"Validation, global{among}", xlabel="step", ylim=(0, 1.02))

    return _draw(path, draw)


def _draw(path: Path, draw: Any) -> Path:
    # Heavy, and needed once at the end. The object interface leaves pyplot's state alone.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.legend()
        figure.savefig(path)
    return path
