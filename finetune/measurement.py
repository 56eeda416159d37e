"""Figures with their intervals, of one encoder or of two side by side.

From the ranks that `finetune.metrics` gives to what a person reads: each figure with its 95 %
interval, and against a second encoder the difference, its interval and a p value. Imports without
torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.metrics import GLOBAL
from finetune.significance import (
    CONFIDENCE,
    RESAMPLES,
    bootstrap_means,
    bootstrap_medians,
    percentile_intervals,
    sign_flip_p_values,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MEAN_RANK, MEDIAN_RANK = "mean_rank", "median_rank"

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


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one or two encoders.

    Attributes:
        name: `mrr@10` and so on.
        estimate: Of the encoder.
        against: Of the other encoder, over the same queries.
        difference: `estimate` minus `against`.
        p_value: That the difference is zero, by sign flips; None for a median, which is no mean
            over the queries.
    """

    name: str
    estimate: Estimate
    against: Estimate | None = None
    difference: Estimate | None = None
    p_value: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON; what compares is there only where there are two encoders."""
        values: dict[str, object] = dict(self.estimate.as_dict())
        if self.against is not None and self.difference is not None:
            values["against"] = self.against.as_dict()
            values["difference"] = self.difference.as_dict() | {"p_value": self.p_value}
        return values


@dataclass(frozen=True, slots=True)
class Measurement:
    """One task over one pool.

    Attributes:
        task: "text-to-image", "image-to-text" or "zero-shot".
        scope: "global", or the batches that the pool was cut into.
        pool: Candidates that every query ranks: images, captions or classes.
        figures: In the order in which they are read.
        ranks: int64[encoders, queries], from 1, of the best positive.
        clusters: Independent draws among the queries: images.
    """

    task: str
    scope: str
    pool: int
    figures: tuple[Figure, ...]
    ranks: Ints
    clusters: int

    @property
    def queries(self) -> int:
        """How many were asked."""
        return int(self.ranks.shape[1])

    def figure(self, name: str) -> Figure:
        """The figure of this name, without its scope."""
        return next(figure for figure in self.figures if figure.name == name)

    def as_dict(self) -> dict[str, object]:
        """For JSON. Names of figures that are not global end in their scope, so that `mrr@10 in
        batches of 64` is never taken for `mrr@10`.
        """
        end = "" if self.scope == GLOBAL else f" {self.scope}"
        return {
            "task": self.task,
            "scope": self.scope,
            "pool": self.pool,
            "queries": self.queries,
            "clusters": self.clusters,
            "figures": {f"{figure.name}{end}": figure.as_dict() for figure in self.figures},
        }


def measure(
    task: str,
    pool: int,
    per_query: Sequence[Mapping[str, Floats]],
    ranks: Sequence[Ints],
    clusters: Ints,
    *,
    scope: str = GLOBAL,
    sampling: Sampling = Sampling(),
) -> Measurement:
    """Means over the queries with intervals; two encoders are compared query by query.

    Args:
        task, pool, scope: See Measurement.
        per_query: For the encoder, and the other one if there is one: figure name to what each
            query counts for, float64[q] (see finetune.metrics.query_figures).
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
    return Measurement(task, scope, pool, tuple(figures), together, len(np.unique(clusters)))


def _figures(
    names: Sequence[str], values: Floats, samples: Floats, confidence: float
) -> list[Figure]:
    """Figures from values float64[e * m] and samples float64[r, e * m], the encoder's first."""
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


def _estimates(values: Floats, samples: Floats, confidence: float) -> list[Estimate]:
    ends = percentile_intervals(samples, confidence)
    return [
        Estimate(float(value), float(low), float(high))
        for value, (low, high) in zip(values, ends, strict=True)
    ]
