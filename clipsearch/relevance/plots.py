"""Plots of a measurement: recall at every cutoff, and MRR@10 with its intervals, a mode each."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.relevance.evaluation import IndexEvaluation
from clipsearch.relevance.measures import MRR, ModeFigures
from clipsearch.relevance.runs import DEPTH
from finetune.errors import UsageError
from finetune.evaluation.plots import SMOOTHED, save_figure
from finetune.files.outputs import is_sealed
from finetune.manifest.inputs import Inputs, check_no_input, check_output

RECALL_PLOT, MRR_PLOT = "modes-recall.png", "modes-mrr.png"


def check_mode_plots(folder: Path, inputs: Inputs = ()) -> None:
    """Raise UsageError unless plots can be drawn into `folder`, which is made where missing.

    `inputs`: what is read; plots never go into it, and replace only older plots that nobody
    changed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("--plots needs matplotlib: pip install matplotlib")
    inputs = tuple(inputs)
    check_no_input(folder, f"--plots {folder}", inputs)
    for name in (RECALL_PLOT, MRR_PLOT):
        check_output(folder / name, f"--plots {folder}: {name}", is_sealed, inputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plots {folder}: cannot be made ({error.strerror})") from error


def plot_modes(evaluation: IndexEvaluation, folder: Path) -> list[Path]:
    """Draw both plots into `folder`, which exists. Raises ClipsearchError for a full disk."""
    title = f"{len(evaluation.queries):,} queries, pool of {evaluation.pool:,} images"
    return [
        save_figure(folder / RECALL_PLOT, lambda figure: _draw_recall(figure, evaluation, title)),
        save_figure(folder / MRR_PLOT, lambda figure: _draw_mrr(figure, evaluation.modes, title)),
    ]


def _draw_recall(figure: Any, evaluation: IndexEvaluation, title: str) -> None:
    axes = figure.add_subplot()
    cutoffs = np.arange(1, DEPTH + 1)
    for run in evaluation.runs:
        ranks = evaluation.ranks(run.mode)
        curve = np.cumsum(np.bincount(ranks, minlength=DEPTH + 1)[1:]) / len(ranks)
        axes.step(cutoffs, curve, where="post", label=run.mode)
    axes.set(title=title, xlabel="k", ylabel="recall@k", ylim=(0, 1.02), xscale="log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()


def _draw_mrr(figure: Any, modes: tuple[ModeFigures, ...], title: str) -> None:
    axes = figure.add_subplot()
    estimates = [each.figure(MRR).estimate for each in modes]
    values = np.array([each.value for each in estimates])
    ends = np.array([[each.low, each.high] for each in estimates], np.float64).T
    places = np.arange(len(modes))
    errors = np.abs(ends - values)
    axes.barh(places, values, xerr=errors, color=SMOOTHED, alpha=0.8, capsize=3)
    axes.set_yticks(places, [each.mode for each in modes])
    axes.invert_yaxis()
    axes.set(title=title, xlabel="MRR@10", xlim=(0, 1.02))
