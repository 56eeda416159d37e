"""The figures of a mode: what each query counts for, means with intervals, and what is chance.

- `mrr@10`: 1 / rank of the first right document, 0 where that is not among the first 10.
- `ndcg@10`: the grades of the first 10, each divided by log2(rank + 1), over the same of the best
  order (Järvelin and Kekäläinen 2002, with the grade itself as gain, as trec_eval has it).
- `recall@k`: 1 where a right document is among the first k, as in the literature on captions
  (Karpathy and Fei-Fei 2015); trec_eval calls it success.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.modes import RANKINGS, Mode
from clipsearch.relevance.runs import DEPTH, ModeRun
from finetune.arrays import Bools, Float64, Int64
from finetune.evaluation.intervals import Sampling
from finetune.evaluation.significance import (
    bootstrap_means,
    percentile_intervals,
    sign_flip_p_values,
)
from finetune.figures import Estimate, Figure

MRR, NDCG = "mrr@10", "ndcg@10"
RECALL_CUTOFFS = (1, 10, DEPTH)
RECALLS = tuple(f"recall@{k}" for k in RECALL_CUTOFFS)
FIGURES = (MRR, NDCG, *RECALLS)
_CUTOFF = 10


def graded_figures(grades: Int64, ideal: Int64) -> dict[str, Float64]:
    """Work out what each query counts for in each of FIGURES, float64[q].

    Args:
        grades: int64[q, DEPTH], of what stands at each rank; 0 or less for what is wrong, was not
            judged, or where the answer has ended.
        ideal: int64[q, 10], the highest grades of each query, descending, 0 behind the last.
    """
    first = first_right(grades)
    found = first > 0
    reciprocal = np.divide(1.0, first, out=np.zeros(len(first)), where=found & (first <= _CUTOFF))
    discounts = 1.0 / np.log2(np.arange(2, _CUTOFF + 2))
    gained = np.maximum(grades[:, :_CUTOFF], 0) @ discounts
    figures = {MRR: reciprocal, NDCG: gained / (ideal @ discounts)}
    for name, k in zip(RECALLS, RECALL_CUTOFFS, strict=True):
        figures[name] = (found & (first <= k)).astype(np.float64)
    return figures


def first_right(grades: Int64) -> Int64:
    """Find the rank of the first right document, int64[q] from 1; 0 where there is none."""
    right = grades > 0
    ranks: Int64 = np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0)
    return ranks


def ideal_grades(grades: Sequence[Mapping[str, int]]) -> Int64:
    """Sort out the highest grades of each query, int64[q, 10]."""
    ideal = np.zeros((len(grades), _CUTOFF), np.int64)
    for row, of_query in enumerate(grades):
        best = sorted((grade for grade in of_query.values() if grade > 0), reverse=True)[:_CUTOFF]
        ideal[row, : len(best)] = best
    return ideal


def is_single(mode: Mode) -> bool:
    """Return whether the mode ranks by words alone or by vector alone."""
    return RANKINGS[mode].uses_words != RANKINGS[mode].needs_vector


@dataclass(frozen=True, slots=True)
class ModeFigures:
    """The figures of a mode over some queries.

    Attributes:
        mode: The ranking.
        figures: Of each of FIGURES; but for the mode that is compared with, with the difference
            from it and the p value.
    """

    mode: Mode
    figures: tuple[Figure, ...]

    def figure(self, name: str) -> Figure:
        """Find the figure of this name. Raises KeyError."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {"mode": self.mode, "figures": {each.name: each.as_dict() for each in self.figures}}


def best_single(per_query: Mapping[Mode, Mapping[str, Float64]], by: str = MRR) -> Mode:
    """Return the better one of the modes that rank by words alone or by vector alone."""
    return max(filter(is_single, per_query), key=lambda mode: float(per_query[mode][by].mean()))


def measure_modes(
    per_query: Mapping[Mode, Mapping[str, Float64]],
    clusters: Int64,
    sampling: Sampling,
    *,
    against: Mode,
    kept: Bools | None = None,
) -> list[ModeFigures]:
    """Average each mode with intervals, compared with the mode `against` query by query.

    Args:
        per_query: Of each mode, what `graded_figures` gave, q queries.
        clusters: int64[q], equal for queries that are drawn together.
        sampling: Of intervals and p values.
        against: One of the modes.
        kept: bool[q], the queries that count; None: all.
    """
    chosen = slice(None) if kept is None else kept
    clusters = clusters[chosen]
    values = np.concatenate(
        [np.stack([each[name][chosen] for name in FIGURES], axis=1) for each in per_query.values()],
        axis=1,
    )
    count, modes = len(FIGURES), list(per_query)
    reference = np.tile(values[:, _columns(modes.index(against))], len(modes))
    samples = bootstrap_means(values, clusters, resamples=sampling.resamples, seed=sampling.seed)
    apart = samples - np.tile(samples[:, _columns(modes.index(against))], len(modes))
    p_values = sign_flip_p_values(
        values - reference, clusters, permutations=sampling.resamples, seed=sampling.seed
    )
    own = _estimates(values.mean(0), samples, sampling)
    differences = _estimates((values - reference).mean(0), apart, sampling)
    measured = []
    for number, mode in enumerate(modes):
        places = range(number * count, (number + 1) * count)
        base = own[_columns(modes.index(against))]
        figures = [
            Figure(name, own[place])
            if mode == against
            else Figure(name, own[place], of_base, differences[place], float(p_values[place]))
            for name, place, of_base in zip(FIGURES, places, base, strict=True)
        ]
        measured.append(ModeFigures(mode, tuple(figures)))
    return measured


def run_figures(runs: Sequence[ModeRun], ideal: Int64) -> dict[Mode, dict[str, Float64]]:
    """Work out what the queries count for in each mode."""
    return {run.mode: graded_figures(run.grades, ideal) for run in runs}


def _columns(number: int) -> slice:
    return slice(number * len(FIGURES), (number + 1) * len(FIGURES))


def _estimates(values: Float64, samples: Float64, sampling: Sampling) -> list[Estimate]:
    ends = percentile_intervals(samples, sampling.confidence)
    return [
        Estimate(float(value), float(low), float(high))
        for value, (low, high) in zip(values, ends, strict=True)
    ]
