"""Measure every mode of an index in one table.

>>> options = IndexEvaluateOptions(index="photos.index")
>>> evaluate_index(options).modes[0].figure("mrr@10").estimate
Estimate(value=0.61, low=0.57, high=0.65)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from clipsearch.engine import IndexInfo
from clipsearch.modes import MODES, MODES_WITHOUT_VECTOR, Mode
from clipsearch.relevance.groups import GroupFigures, Traits, measure_groups
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.measures import (
    ModeFigures,
    best_single,
    first_right,
    ideal_grades,
    measure_modes,
    run_figures,
)
from clipsearch.relevance.runs import ModeRun, ask_index, rank_captions
from clipsearch.relevance.sources import QuerySource, ask
from clipsearch.search.search import NO_ENCODER, Search
from finetune.arrays import Float64, Int64
from finetune.console import Progress
from finetune.errors import UsageError
from finetune.evaluation.intervals import FEW_CLUSTERS, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEvaluateOptions:
    """What to measure, and how.

    Attributes:
        index: A folder or an http(s) address.
        source: Of the queries.
        encoder: The encoder's folder, where it has moved since the feed.
        device: "auto", "cpu", "cuda" or "cuda:N".
        sampling: Of intervals and p values.
    """

    index: str
    source: QuerySource = field(default_factory=QuerySource)
    encoder: Path | None = None
    device: str = "cpu"
    sampling: Sampling = field(default_factory=Sampling)

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        self.source.check()
        if self.sampling.resamples < 1:
            raise UsageError(f"--resamples {self.sampling.resamples}: must be at least 1")


@dataclass(frozen=True, slots=True)
class IndexEvaluation:
    """What was measured.

    Attributes:
        options: As asked.
        info: Of the index.
        source: Where the queries come from, for people.
        pool: Documents of the index.
        queries: q of them.
        runs: What each mode answered.
        per_query: Of each mode, what the queries count for in each figure, float64[q].
        against: The better of the modes by words alone and by vector alone.
        modes: The figures of each, compared with those of `against`.
        groups: The same over some of the queries.
        traits: Of the queries.
        in_memory: Whether captions were left out, and so ranked in memory.
        notes: Sentences for the user.
    """

    options: IndexEvaluateOptions
    info: IndexInfo
    source: str
    pool: int
    queries: tuple[JudgedQuery, ...]
    runs: tuple[ModeRun, ...]
    per_query: Mapping[Mode, Mapping[str, Float64]]
    against: Mode
    modes: tuple[ModeFigures, ...]
    groups: tuple[GroupFigures, ...]
    traits: Traits
    in_memory: bool
    notes: tuple[str, ...]

    def run(self, mode: Mode) -> ModeRun:
        """Find what the mode answered."""
        return next(run for run in self.runs if run.mode == mode)

    def ranks(self, mode: Mode) -> Int64:
        """Rank each query's first right document, from 1; 0 where it is not among the hits."""
        return first_right(self.run(mode).grades)

    def as_dict(self) -> dict[str, object]:
        """Return everything but the single queries, for JSON; times in milliseconds."""
        sampling = self.options.sampling
        return {
            "index": self.options.index,
            "queries_from": self.source,
            "queries": len(self.queries),
            "pool": self.pool,
            "encoder": self.info.encoder_name,
            "weights": {"bm25": self.info.bm25_weight, "vector": self.info.vector_weight},
            "against": self.against,
            "confidence": sampling.confidence,
            "resamples": sampling.resamples,
            "seed": sampling.seed,
            "modes": [
                {**figures.as_dict(), "milliseconds": milliseconds(self.run(figures.mode))}
                for figures in self.modes
            ],
            "groups": [each.as_dict() for each in self.groups],
            "notes": list(self.notes),
        }


def milliseconds(run: ModeRun) -> dict[str, float]:
    """Return how long answers took: the median, and what 99 of 100 keep."""
    middle, late = np.percentile(run.seconds * 1000, [50, 99])
    return {"p50": float(middle), "p99": float(late), "answers": float(len(run.seconds))}


def evaluate_index(
    options: IndexEvaluateOptions, progress_stream: TextIO | None = None
) -> IndexEvaluation:
    """Ask every query in every mode, and measure.

    Judgments are asked of the index itself; captions are ranked in memory, exactly, over all its
    documents, which are visited once: that takes about their text and vectors in memory, and for
    each query one comparison with every vector.

    Args:
        options: What to measure.
        progress_stream: Standard error where None.

    Raises:
        UsageError: The queries cannot be read, or do not fit the index.
        EncoderError, EncoderMismatchError: The encoder is gone, or is another one.
        EngineError: The index cannot be read, or did not answer in whole.
    """
    options.check()
    with Search.open(options.index, encoder=options.encoder, device=options.device) as search:
        asked = ask(search, options.source)
        queries, notes = asked.queries, list(asked.notes)
        modes = modes_of(search, options.encoder)
        if len(modes) < len(MODES):
            notes.append(NO_ENCODER)
        pool = search.count() if asked.collection is None else len(asked.collection)
        total = len(queries) * len(modes)
        with Progress("Asking", total, unit="answers", stream=progress_stream) as progress:
            if asked.collection is None:
                runs = ask_index(search, queries, modes, progress.advance)
            else:
                runs = rank_captions(search, asked.collection, queries, modes, progress.advance)
        traits = Traits.of(queries, search.info.language, asked.knows)
        info = search.info
    ideal = ideal_grades([query.grades for query in queries])
    per_query = run_figures(runs, ideal)
    clusters = np.array([query.cluster for query in queries], np.int64)
    few = len(np.unique(clusters))
    if few < FEW_CLUSTERS:
        notes.append(f"with only {few} independent queries, the intervals are too narrow")
    against = best_single(per_query)
    measured = measure_modes(per_query, clusters, options.sampling, against=against)
    groups = measure_groups(traits, per_query, clusters, options.sampling, against)
    return IndexEvaluation(
        options=options,
        info=info,
        source=asked.source,
        pool=pool,
        queries=queries,
        runs=tuple(runs),
        per_query=per_query,
        against=against,
        modes=tuple(measured),
        groups=tuple(groups),
        traits=traits,
        in_memory=asked.collection is not None,
        notes=tuple(notes),
    )


def modes_of(search: Search, encoder: Path | None) -> tuple[Mode, ...]:
    """List the modes that a text can be asked in: without an encoder those by words alone."""
    has_encoder = encoder is not None or search.info.encoder_path is not None
    return MODES if has_encoder else MODES_WITHOUT_VECTOR
