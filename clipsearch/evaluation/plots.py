"""Plots of an evaluation: how ranks are distributed, and recall at every cutoff."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arrays import Int64
from finetune.errors import UsageError
from finetune.evaluation.intervals import RankedMeasurement
from finetune.evaluation.plots import SECOND, SMOOTHED, rank_bins, save_figure, scale_ranks
from finetune.figures import GLOBAL, TASKS, ZERO_SHOT
from finetune.files.outputs import is_sealed
from finetune.manifest.inputs import Inputs, check_no_input, check_output

KINDS = ("ranks", "recall")


def check_plots(folder: Path, inputs: Inputs = ()) -> None:
    """Raise UsageError unless plots can be drawn into `folder`, which is made where missing.

    `inputs`: what is measured; plots never go into it, and replace only older plots that nobody
    changed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("--plots needs matplotlib: pip install matplotlib")
    inputs = tuple(inputs)
    check_no_input(folder, f"--plots {folder}", inputs)
    for task, kind in product(TASKS, KINDS):
        path = folder / f"{task}-{kind}.png"
        check_output(path, f"--plots {folder}: {path.name}", is_sealed, inputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plots {folder}: cannot be made ({error.strerror})") from error


def plot_evaluation(
    measurements: Sequence[RankedMeasurement], names: Sequence[str], folder: Path
) -> list[Path]:
    """Draw `<task>-ranks.png` and `<task>-recall.png` of every task over its whole pool.

    Args:
        measurements: Those in batches are left out.
        names: Of the encoders, for the legend.
        folder: That exists.
    """
    written = []
    for each in measurements:
        if each.scope != GLOBAL:
            continue
        task = TASKS[each.task]
        title = f"{task.title}: {each.queries:,} queries, pool of {each.pool:,} {task.candidates}"
        for kind, draw in zip(KINDS, (_draw_ranks, _draw_recall), strict=True):
            path = folder / f"{each.task}-{kind}.png"
            _draw(path, title, partial(draw, measurement=each, names=names))
            written.append(path)
    return written


def recall_curve(ranks: Int64, pool: int) -> npt.NDArray[np.float64]:
    """Return the share of queries with a rank of at most 1, 2, … `pool`: float64[pool]."""
    counts = np.bincount(ranks, minlength=pool + 1)[1 : pool + 1]
    curve: npt.NDArray[np.float64] = np.cumsum(counts) / len(ranks)
    return curve


def _draw_ranks(axes: Any, measurement: RankedMeasurement, names: Sequence[str]) -> None:
    edges = rank_bins(measurement.pool)
    for ranks, name, colour in zip(measurement.ranks, names, (SMOOTHED, SECOND), strict=False):
        counts, _ = np.histogram(ranks, edges)
        axes.stairs(counts, edges, color=colour, fill=False, linewidth=1.6, label=name)
    axes.set(xlabel="rank of the best positive", ylabel="queries")
    scale_ranks(axes, measurement.pool)


def _draw_recall(axes: Any, measurement: RankedMeasurement, names: Sequence[str]) -> None:
    cutoffs = np.arange(1, measurement.pool + 1)
    for ranks, name, colour in zip(measurement.ranks, names, (SMOOTHED, SECOND), strict=False):
        curve = recall_curve(ranks, measurement.pool)
        axes.step(cutoffs, curve, where="post", color=colour, label=name)
    share = "hits@k" if measurement.task == ZERO_SHOT else "recall@k"
    axes.set(xlabel="k", ylabel=share, ylim=(0, 1.02))
    scale_ranks(axes, measurement.pool)


def _draw(path: Path, title: str, draw: Callable[[Any], None]) -> None:
    def draw_figure(figure: Any) -> None:
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)
        axes.legend()

    save_figure(path, draw_figure)
