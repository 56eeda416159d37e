"""Figures with their intervals, of one encoder or of two side by side.

From the ranks that `finetune.metrics` gives to what a person reads: each figure with its 95 %
interval, and against a second encoder the difference, its interval and a p value. Imports without
torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.arrays import Float64, Int64
from finetune.evaluation.significance import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_means,
    bootstrap_medians,
    percentile_intervals,
    sign_flip_p_values,
)
from finetune.figures import GLOBAL, MEAN_RANK, MEDIAN_RANK, Estimate, Figure, Measurement

# With fewer clusters, percentile intervals are clearly too narrow.
FEW_CLUSTERS = 30


@dataclass(frozen=True, slots=True)
class Sampling:
    """How intervals and p values are drawn.

    Attributes:
        resamples: Bootstrap resamples, and sign patterns of the test.
        confidence: Share of resamples within an interval.
        seed: Of both.
    """

    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedMeasurement(Measurement):
    """A measurement with every query's rank, from which its intervals were drawn.

    Attributes:
        ranks: int64[encoders, queries], from 1, of the best positive.
        clusters: Independent draws among the queries: images.
    """

    ranks: Int64
    clusters: int

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON, with intervals and what compares; figures by full name."""
        return {
            "task": self.task,
            "scope": self.scope,
            "pool": self.pool,
            "queries": self.queries,
            "clusters": self.clusters,
            "figures": {self.full_name(figure): figure.as_dict() for figure in self.figures},
        }


def measure(
    task: str,
    pool: int,
    per_query: Sequence[Mapping[str, Float64]],
    ranks: Sequence[Int64],
    clusters: Int64,
    *,
    scope: str = GLOBAL,
    sampling: Sampling = Sampling(),
) -> RankedMeasurement:
    """Measure means over the queries with intervals; two encoders are compared query by query.

    Args:
        task, pool, scope: See finetune.figures.Measurement.
        per_query: For the encoder, and the other one if there is one: figure name to what each
            query counts for, float64[q] (see finetune.evaluation.metrics.query_figures).
        ranks: For each, the best positive's rank, int64[q].
        clusters: int64[q], equal for queries that are drawn together.
        sampling: How often is drawn.
    """
    together = np.stack(ranks)
    names = [*per_query[0], MEAN_RANK]
    values = np.concatenate(
        [
            np.stack([*(figures[name] for name in per_query[0]), own], axis=1)
            for figures, own in zip(per_query, together, strict=True)
        ],
        axis=1,
    )
    draws = {"resamples": sampling.resamples, "seed": sampling.seed}
    means = bootstrap_means(values, clusters, **draws)
    figures = _figures(names, values.mean(axis=0), means, sampling.confidence)
    if len(ranks) == 2:
        differences = values[:, : len(names)] - values[:, len(names) :]
        p_values = sign_flip_p_values(
            differences, clusters, permutations=sampling.resamples, seed=sampling.seed
        )
        figures = [
            Figure(each.name, each.estimate, each.against, each.difference, float(p))
            for each, p in zip(figures, p_values, strict=True)
        ]
    medians = bootstrap_medians(together.T.astype(np.float64), clusters, **draws)
    figures += _figures([MEDIAN_RANK], np.median(together, axis=1), medians, sampling.confidence)
    return RankedMeasurement(
        task=task,
        scope=scope,
        pool=pool,
        queries=together.shape[1],
        figures=tuple(figures),
        ranks=together,
        clusters=len(np.unique(clusters)),
    )


def _figures(
    names: Sequence[str], values: Float64, samples: Float64, confidence: float
) -> list[Figure]:
    """Make figures of values float64[e * m] and samples float64[r, e * m].

    The encoder's come first.
    """
    own = slice(0, len(names))
    estimates = _estimates(values, samples, confidence)
    if len(values) == len(names):
        return [Figure(name, each) for name, each in zip(names, estimates, strict=True)]
    other = slice(len(names), None)
    differences = _estimates(
        values[own] - values[other], samples[:, own] - samples[:, other], confidence
    )
    return [
        Figure(*row)
        for row in zip(names, estimates[own], estimates[other], differences, strict=True)
    ]


def _estimates(values: Float64, samples: Float64, confidence: float) -> list[Estimate]:
    ends = percentile_intervals(samples, confidence)
    return [
        Estimate(float(value), float(low), float(high))
        for value, (low, high) in zip(values, ends, strict=True)
    ]
