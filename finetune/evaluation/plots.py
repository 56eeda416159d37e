"""Plots of a run, as PNG files, in one plain style.

Everything but matplotlib is numpy arrays and numbers; matplotlib is imported where a plot is drawn,
and its global state (pyplot) is left alone.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.errors import ClipsearchError
from finetune.figures import (
    DIRECTIONS,
    RETRIEVAL_COLUMNS,
    TASKS,
    VALIDATION_LOSS,
    HistoryRow,
    is_evaluation,
)
from finetune.files.outputs import write_png

LOSS_PLOT = "loss.png"
LEARNING_RATE_PLOT = "learning-rate.png"
RETRIEVAL_PLOT = "retrieval.png"
RANKS_PLOT = "ranks.png"
SIMILARITY_PLOT = "similarity.png"


MOST_BINS = 30
# Pools up to this size have an axis with every rank as wide as the next.
LINEAR_POOL = 30
# From here on an axis names powers of ten alone.
WIDE_POOL = 500
# Runs of so few steps show each one as a point; a line of one alone would be invisible.
FEW_STEPS = 20
# Pairs that a similarity matrix shows; more cannot be told apart.
MOST_PAIRS = 64

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
MEASURED, SMOOTHED, SECOND, THIRD = "#b5c7dd", "#1f4e79", "#c8553d", "#4f8a4c"
ZERO_SHOT = "hits@1"


@dataclass(frozen=True, slots=True)
class RankedPool:
    """Ranks of one direction over the whole pool.

    Attributes:
        direction: "text-to-image" or "image-to-text".
        pool: Candidates that every query ranks.
        before: int64[q], from 1, of each query's best positive before training; None unmeasured.
        after: int64[q], the same after.
    """

    direction: str
    pool: int
    before: Int64 | None
    after: Int64


def plot_history(
    rows: Sequence[HistoryRow], folder: Path, *, pool: int | None, best_step: int | None = None
) -> list[Path]:
    """Draw loss.png, learning-rate.png and, where there are evaluations, retrieval.png.

    Args:
        rows: Of history.csv.
        folder: That exists.
        pool: Images in the validation pool, for the title.
        best_step: Of the weights that were kept, marked in retrieval.png.

    Raises ClipsearchError where a file cannot be written, as all functions here do.
    """
    steps = [row for row in rows if not is_evaluation(row)]
    evaluations = [row for row in rows if is_evaluation(row)]
    written = []
    if steps:
        written.append(_plot_loss(steps, evaluations, folder / LOSS_PLOT))
        written.append(_plot_learning_rate(steps, folder / LEARNING_RATE_PLOT))
    if evaluations and all(name in evaluations[0] for name in RETRIEVAL_COLUMNS):
        written.append(_plot_retrieval(evaluations, folder / RETRIEVAL_PLOT, pool, best_step))
    return written


def plot_ranks(pools: Sequence[RankedPool], path: Path) -> Path:
    """Plot the ranks of the best positives before and after, a panel a direction.

    Bins are as wide as one rank at first, then wider, on a logarithmic axis.
    """

    def draw(figure: Any) -> None:
        for axes, ranked in zip(_panels(figure, len(pools)), pools, strict=True):
            edges = rank_bins(ranked.pool)
            for ranks, name, colour in (
                (ranked.before, "before", MEASURED),
                (ranked.after, "after", SMOOTHED),
            ):
                if ranks is not None:
                    counts, _ = np.histogram(ranks, edges)
                    label = f"{name}, median {np.median(ranks):,.0f}"
                    is_filled = name == "before"
                    axes.stairs(
                        counts, edges, color=colour, fill=is_filled, linewidth=1.6, label=label
                    )
            task = TASKS[ranked.direction]
            axes.set(
                title=f"{task.title}, {len(ranked.after):,} queries,"
                f"\npool of {ranked.pool:,} {task.candidates}",
                xlabel="rank of the best positive",
                ylabel="queries",
            )
            scale_ranks(axes, ranked.pool)
            # queries are counted, also where there are few
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.legend()

    return save_figure(path, draw, size=(4.6 * len(pools), 4.0))


def plot_similarity(
    matrices: Mapping[str, Float32], positives: npt.NDArray[np.bool_], path: Path
) -> Path:
    """Draw cosines of a batch, a row an image and a column a caption; positives have a ring.

    Args:
        matrices: By title ("before training", "after training"), one to three: float32[n, m], of
            the same batch. All share one scale of colours.
        positives: bool[n, m], which caption belongs to which image.
        path: Of the file.
    """
    shown = positives[:MOST_PAIRS, :MOST_PAIRS]
    rows, columns = shown.shape
    cosines = {title: each[:rows, :columns] for title, each in matrices.items()}
    low = min(float(each.min()) for each in cosines.values())
    high = max(float(each.max()) for each in cosines.values())

    def draw(figure: Any) -> None:
        panels = _panels(figure, len(cosines))
        for axes, (title, values) in zip(panels, cosines.items(), strict=True):
            drawn = axes.imshow(values, vmin=low, vmax=high, cmap="Blues", aspect="equal")
            image, caption = np.nonzero(shown)
            size = 2500 / max(rows, columns) ** 1.6
            axes.scatter(caption, image, s=size, facecolors="none", edgecolors=SECOND, linewidths=1)
            axes.grid(False)
            axes.set(title=title, xlabel="caption", ylabel="image")
        figure.colorbar(drawn, ax=panels, label="cosine", shrink=0.8)
        figure.suptitle(
            f"Validation batch, {rows} images and {columns} captions (ring: they belong together)"
        )

    return save_figure(path, draw, size=(4.6 * len(cosines) + 1.0, 4.8))


def rank_bins(pool: int) -> npt.NDArray[np.float64]:
    """Return the edges of bins over the ranks 1 to `pool`: single ranks first, then wider bins."""
    edges = np.unique(np.round(np.geomspace(1, pool + 1, MOST_BINS)))
    return edges - 0.5


def scale_ranks(axes: Any, pool: int) -> None:
    """Set a log scale for large pools, with plain numbers at the ticks.

    The first ranks matter most.
    """
    if pool > LINEAR_POOL:
        axes.set_xscale("log")
        axes.set_xticks(rank_ticks(pool))
        axes.minorticks_off()
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def rank_ticks(pool: int) -> list[int]:
    """Return the ranks to name on a logarithmic axis: so few that their numbers stay apart."""
    parts = (1, 2, 5) if pool < WIDE_POOL else (1,)
    powers = (10**power for power in range(len(str(pool))))
    return [part * power for power in powers for part in parts if part * power <= pool]


def save_figure(
    path: Path, draw: Callable[[Any], None], size: tuple[float, float] | None = None
) -> Path:
    """Let `draw` fill a matplotlib Figure of `size` inches in our style, and write it."""
    # Heavy, and needed once at the end. The object interface leaves pyplot's state alone.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=size)
            canvas = FigureCanvasAgg(figure)
            draw(figure)
            buffer = io.BytesIO()
            # savefig draws all twice, for a bounding box that nobody asks for
            canvas.print_png(buffer)
        write_png(path, buffer.getvalue())
    except OSError as error:
        raise ClipsearchError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of each value and up to window - 1 before it."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def _plot_loss(rows: Sequence[HistoryRow], evaluations: Sequence[HistoryRow], path: Path) -> Path:
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    window = max(len(rows) // 50, 1)
    measured = [row for row in evaluations if VALIDATION_LOSS in row]

    def draw(axes: Any) -> None:
        if window > 1:
            axes.plot(steps, losses, color=MEASURED, linewidth=0.8, label="training, each step")
        mean = "each step" if window == 1 else f"mean of {window} steps"
        axes.plot(
            steps,
            smoothed(losses, window),
            color=SMOOTHED,
            marker="." if len(rows) <= FEW_STEPS else None,
            label=f"training, {mean}",
        )
        if measured:
            axes.plot(
                [row["step"] for row in measured],
                [row[VALIDATION_LOSS] for row in measured],
                color=SECOND,
                marker="o",
                markersize=4,
                label="validation",
            )
        axes.set(title="Loss", xlabel="step", ylabel="loss")

    return _draw_axes(path, draw)


def _plot_learning_rate(rows: Sequence[HistoryRow], path: Path) -> Path:
    steps = [row["step"] for row in rows]
    names = [name for name in rows[0] if name.startswith("learning_rate")]

    def draw(axes: Any) -> None:
        for name, colour in zip(names, (SMOOTHED, SECOND, MEASURED), strict=False):
            values = [row.get(name, np.nan) for row in rows]
            marker = "." if len(rows) <= FEW_STEPS else None
            axes.plot(steps, values, color=colour, marker=marker, label=name.replace("_", " "))
        axes.set(title="Learning rate", xlabel="step", ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))

    return _draw_axes(path, draw)


def _plot_retrieval(
    rows: Sequence[HistoryRow], path: Path, pool: int | None, best_step: int | None
) -> Path:
    steps = [row["step"] for row in rows]
    among = "" if pool is None else f", pool of {pool:,} images"

    def draw(axes: Any) -> None:
        for direction, colour in zip(DIRECTIONS, (SMOOTHED, SECOND), strict=True):
            task = TASKS[direction]
            for metric, style in (("mrr@10", "-"), ("recall@1", ":"), ("recall@10", "--")):
                values = [row[f"{task.prefix}{metric}"] for row in rows]
                axes.plot(
                    steps, values, style, color=colour, marker=".", label=f"{task.title} {metric}"
                )
        if ZERO_SHOT in rows[0]:
            values = [row[ZERO_SHOT] for row in rows]
            axes.plot(steps, values, color=THIRD, marker=".", label=f"zero-shot {ZERO_SHOT}")
        if best_step is not None:
            axes.axvline(best_step, color="#888888", linewidth=0.8, label="weights that were kept")
        axes.set(title=f"Validation, global{among}", xlabel="step", ylim=(0, 1.02))

    return _draw_axes(path, draw)


def _draw_axes(path: Path, draw: Callable[[Any], None]) -> Path:
    """Return a figure of one panel with a legend."""

    def draw_figure(figure: Any) -> None:
        axes = figure.add_subplot()
        draw(axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    return save_figure(path, draw_figure)


def _panels(figure: Any, count: int) -> list[Any]:
    """Make axes side by side."""
    return list(figure.subplots(1, count, squeeze=False)[0])
