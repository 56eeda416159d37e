"""Calibrate how an index joins words and vector, and keep it where it is surely better.

What is learned is measured on queries that it was not learned from. The index keeps it only where
the whole interval of that gain lies above zero.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from clipsearch.engine import RERANK_COUNT, EngineQuery, IndexInfo, fused_weights
from clipsearch.engines import is_remote
from clipsearch.modes import Calibration, Mode, Weights, WordShare
from clipsearch.relevance.learning import (
    Contender,
    ScoredQuery,
    figures_of,
    learn_rrf_k,
    learn_weights,
    learn_z_scores,
    scored_queries,
)
from clipsearch.relevance.measures import MRR, NDCG
from clipsearch.relevance.sources import Asked, QuerySource, ask, collection_of
from clipsearch.search.search import Search
from finetune.arrays import Float64, Int64
from finetune.console import Progress
from finetune.errors import UsageError
from finetune.evaluation.intervals import Sampling
from finetune.evaluation.significance import (
    bootstrap_means,
    percentile_intervals,
    sign_flip_p_values,
)
from finetune.figures import Estimate

METRICS = (MRR, NDCG)
LEARNED: tuple[Mode, ...] = ("hybrid", "hybrid-normalized")
"""Modes whose weights are learned."""

LEARN_SPLIT, HELD_OUT_SPLIT = "val", "test"
LEAST_CLUSTERS = 10
"""Independent queries, at least, to learn from and to measure on."""

FOLDS = 5
TODAY, CHOSEN = "today", "chosen"
OF_SHARE = "hybrid of shares"
OF_Z_SCORES = "hybrid by z-scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """What to calibrate by.

    Attributes:
        index: A folder or an http(s) address.
        source: Of the queries; its split does not count for captions where there are no folds.
        folds: Learn on all but one of so many parts and measure on that, for each; None: captions
            are learned from on the split val and measured on test, judgments in FOLDS parts.
        metric: One of METRICS.
        encoder: The encoder's folder, where it has moved since the feed.
        device: "auto", "cpu", "cuda" or "cuda:N".
        sampling: Of the interval.
        keep: Whether the index keeps what is surely better.
    """

    index: str
    source: QuerySource = field(default_factory=QuerySource)
    folds: int | None = None
    metric: str = MRR
    encoder: Path | None = None
    device: str = "cpu"
    sampling: Sampling = field(default_factory=Sampling)
    keep: bool = True

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        self.source.check()
        if self.metric not in METRICS:
            raise UsageError(f"--metric {self.metric}: take one of {', '.join(METRICS)}")
        if self.folds is not None and self.folds < 2:
            raise UsageError(f"--folds {self.folds}: there must be at least 2")


@dataclass(frozen=True, slots=True)
class Contest:
    """A contender with its figures.

    Attributes:
        name: TODAY, or the mode.
        contender: What ranks, learned from all that may be learned from.
        learned_on: The mean over these.
        held_out: The mean over queries that it was not learned from, with its interval; with folds,
            of what the other parts teach.
        gain: Of the held-out mean over today's.
    """

    name: str
    contender: Contender
    learned_on: float
    held_out: Estimate
    gain: Estimate

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "ranking": self.contender.told,
            "mode": self.contender.mode,
            "bm25_weight": self.contender.weights[0],
            "vector_weight": self.contender.weights[1],
            "of_share": self.contender.of_share,
            "rrf_k": self.contender.weights.rrf_k,
            "reorder": None if self.contender.reorder is None else asdict(self.contender.reorder),
            "learned_on": self.learned_on,
            "held_out": self.held_out.as_dict(),
            "gain": self.gain.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came out.

    Attributes:
        options: As asked.
        today: How the index ranks a text without an option.
        chosen: The best of all by the queries that were learned from.
        contests: Of today's, then of each other contender.
        gain: Of what was chosen, over today's, on the queries that it was not learned from.
        p_value: That this gain is zero.
        queries: Learned from, and measured on.
        pool: How many images are ranked for each.
        source: Where they come from, for people.
        kept: Whether the index keeps it.
        notes: Sentences for the user.
    """

    options: CalibrateOptions
    today: Contender
    chosen: Contender
    contests: tuple[Contest, ...]
    gain: Estimate
    p_value: float
    queries: tuple[int, int]
    pool: int
    source: str
    kept: bool
    notes: tuple[str, ...]

    @property
    def is_better(self) -> bool:
        """Whether the whole interval of the gain lies above zero."""
        return self.gain.low is not None and self.gain.low > 0

    def as_dict(self) -> dict[str, object]:
        """Return everything, for JSON."""
        return {
            "index": self.options.index,
            "queries_from": self.source,
            "metric": self.options.metric,
            "folds": self.options.folds,
            "learned_on": self.queries[0],
            "held_out": self.queries[1],
            "pool": self.pool,
            "today": self.today.told,
            "chosen": self.chosen.told,
            "contenders": [each.as_dict() for each in self.contests],
            "gain": self.gain.as_dict() | {"p_value": self.p_value},
            "better": self.is_better,
            "kept": self.kept,
            "notes": list(self.notes),
        }


def calibrate(options: CalibrateOptions, progress_stream: TextIO | None = None) -> Calibrated:
    """Learn, measure, and let the index keep what is surely better.

    All documents are visited once and held in memory, as for `evaluate_index`; of each query the
    first thousand by words and by vector are kept, and ranked some 150 times, in each fold anew.

    Raises:
        UsageError: There are too few queries, no split to learn from, or no encoder.
        EncoderError, EncoderMismatchError: The encoder is gone, or is another one.
        EngineError: The index cannot be read or written.
    """
    options.check()
    with Search.open(options.index, encoder=options.encoder, device=options.device) as search:
        if options.encoder is None and search.info.encoder_path is None:
            raise UsageError(
                f"{options.index}: names no encoder, so there is nothing to join with the words;"
                f" say which one made its vectors with --encoder FOLDER"
            )
        today = _of_today(search.info)
        parts = _parts(search, options, progress_stream)
        result = _result(parts, today, search, options)
        if not (options.keep and result.is_better):
            return result
        before = search.info.rrf_k
        after = search.engine.change_info(lambda info: _with(info, result)).rrf_k
    notes = (
        *result.notes,
        *_after_keeping(options.index, result.chosen, is_new_k=before != after),
    )
    return replace(result, kept=True, notes=notes)


def _of_today(info: IndexInfo) -> Contender:
    mode = info.text_mode or "hybrid"
    if mode == "hybrid":
        return replace(_hybrid_of(info), reorder=info.reorder)
    return Contender(mode, fused_weights(EngineQuery("hybrid"), info))


def _hybrid_of(info: IndexInfo) -> Contender:
    """Return how `hybrid` ranks where a query names it."""
    if info.word_share is not None:
        return Contender("hybrid", Weights(info.word_share.weight, 1.0, info.rrf_k), of_share=True)
    return Contender("hybrid", fused_weights(EngineQuery("hybrid"), info))


@dataclass(frozen=True, slots=True)
class _Parts:
    """The queries: learned_from[i] are those whose choice is measured on measured_on[i]."""

    learned_from: tuple[tuple[ScoredQuery, ...], ...]
    measured_on: tuple[tuple[ScoredQuery, ...], ...]
    source: str
    notes: tuple[str, ...]


def _parts(search: Search, options: CalibrateOptions, stream: TextIO | None) -> _Parts:
    source = options.source
    if source.queries is None and options.folds is None:
        sides = [
            _asked(search, replace(source, split=split)) for split in (LEARN_SPLIT, HELD_OUT_SPLIT)
        ]
        scored = [_scored(search, asked, stream) for asked in sides]
        for split, each in zip((LEARN_SPLIT, HELD_OUT_SPLIT), scored, strict=True):
            _check_enough(each, f"{options.index}, split {split}", "or use --folds 5 --split all")
        notes = tuple(dict.fromkeys(note for asked in sides for note in asked.notes))
        told = f"{sides[0].source}; held out: split {HELD_OUT_SPLIT}"
        return _Parts((scored[0],), (scored[1],), told, notes)
    asked = _asked(search, source)
    queries = _scored(search, asked, stream)
    folds = options.folds or FOLDS
    least = max(2 * folds, LEAST_CLUSTERS)
    _check_enough(queries, asked.source, "give more", least)
    clusters = np.unique([query.cluster for query in queries])
    order = np.random.default_rng(options.sampling.seed).permutation(clusters)
    fold_of = {cluster: number % folds for number, cluster in enumerate(order.tolist())}
    inside = tuple(
        tuple(query for query in queries if fold_of[query.cluster] == fold) for fold in range(folds)
    )
    others = tuple(
        tuple(query for query in queries if fold_of[query.cluster] != fold) for fold in range(folds)
    )
    return _Parts(others, inside, asked.source, asked.notes)


def _asked(search: Search, source: QuerySource) -> Asked:
    try:
        return ask(search, source)
    except UsageError as error:
        if source.queries is None and source.split == LEARN_SPLIT:
            raise UsageError(f"{error}; or learn in parts of a split with --folds 5") from error
        raise


def _check_enough(
    queries: Sequence[ScoredQuery], where: str, mend: str, least: int = LEAST_CLUSTERS
) -> None:
    found = len({query.cluster for query in queries})
    if found < least:
        raise UsageError(
            f"{where}: only {found:,} independent queries, which teach nothing that holds; at"
            f" least {least:,} are needed: {mend}"
        )


def _scored(search: Search, asked: Asked, stream: TextIO | None) -> tuple[ScoredQuery, ...]:
    collection = asked.collection or collection_of(search)
    if asked.collection is not None and not any(each.other_captions for each in asked.queries):
        raise UsageError(
            f"{asked.source}: no image has another caption, so words find none without the one"
            f" that is asked; give images several captions, or judgments with --queries"
        )
    scored = []
    with Progress("Asking", len(asked.queries), unit="queries", stream=stream) as progress:
        for each in scored_queries(search, collection, asked.queries):
            scored.append(each)
            progress.advance()
    return tuple(scored)


def _contenders(
    queries: Sequence[ScoredQuery], today: Contender, info: IndexInfo, metric: str
) -> dict[str, Contender]:
    """Name today's, those that the queries teach, and the fusions without weights."""
    contenders = {TODAY: today}
    contenders |= {mode: learn_weights(queries, mode, metric) for mode in LEARNED}
    contenders[OF_SHARE] = learn_weights(queries, "hybrid", metric, of_share=True)
    plain = Contender("hybrid-sum", Weights(1, 1))
    # The first hits that it joins are those of the index's own weights.
    ranks = learn_rrf_k(queries, fused_weights(EngineQuery("hybrid"), info), metric)
    hybrid = _hybrid_of(info)
    return contenders | {
        plain.mode: plain,
        ranks.mode: ranks,
        OF_Z_SCORES: learn_z_scores(queries, hybrid, metric),
    }


def _best(contenders: dict[str, Contender], queries: Sequence[ScoredQuery], metric: str) -> str:
    """Choose the highest mean; today's where no other is higher."""
    return max(
        contenders, key=lambda name: float(figures_of(queries, contenders[name], metric).mean())
    )


def _result(
    parts: _Parts, today: Contender, search: Search, options: CalibrateOptions
) -> Calibrated:
    """Learn from each part, measure on its other side, and choose by all that may be learned from.

    The gain is that of choosing: in each part, of what is best where it was learned.
    """
    metric, info = options.metric, search.info
    held_out: dict[str, list[Float64]] = {}
    for learned_from, measured_on in zip(parts.learned_from, parts.measured_on, strict=True):
        contenders = _contenders(learned_from, today, info, metric)
        values = {name: figures_of(measured_on, each, metric) for name, each in contenders.items()}
        values[CHOSEN] = values[_best(contenders, learned_from, metric)]
        for name, of_part in values.items():
            held_out.setdefault(name, []).append(of_part)
    everything = list({id(query): query for part in parts.learned_from for query in part}.values())
    final = _contenders(everything, today, info, metric)
    clusters = np.array([query.cluster for part in parts.measured_on for query in part], np.int64)
    together = {name: np.concatenate(values) for name, values in held_out.items()}
    gains = {name: values - together[TODAY] for name, values in together.items()}
    sampling = options.sampling
    p_values = sign_flip_p_values(
        gains[CHOSEN][:, np.newaxis],
        clusters,
        permutations=sampling.resamples,
        seed=sampling.seed,
    )
    return Calibrated(
        options=options,
        today=today,
        chosen=final[_best(final, everything, metric)],
        contests=tuple(
            Contest(
                name=name,
                contender=each,
                learned_on=float(figures_of(everything, each, metric).mean()),
                held_out=_estimate(together[name], clusters, sampling),
                gain=_estimate(gains[name], clusters, sampling),
            )
            for name, each in final.items()
        ),
        gain=_estimate(gains[CHOSEN], clusters, sampling),
        p_value=float(p_values[0]),
        queries=(len(everything), len(clusters)),
        pool=search.count(),
        source=parts.source,
        kept=False,
        notes=parts.notes,
    )


def _estimate(values: Float64, clusters: Int64, sampling: Sampling) -> Estimate:
    samples = bootstrap_means(
        values[:, np.newaxis], clusters, resamples=sampling.resamples, seed=sampling.seed
    )
    ((low, high),) = percentile_intervals(samples, sampling.confidence)
    return Estimate(float(values.mean()), float(low), float(high))


def _with(info: IndexInfo, result: Calibrated) -> IndexInfo:
    """Put what was chosen into what the index knows; weights that do not count stay."""
    chosen, gain = result.chosen, result.gain
    assert gain.low is not None and gain.high is not None
    # A reorder leaves to hybrid what it reorders: the weights or the share that were there.
    is_reordered = chosen.reorder is not None
    weighs = chosen.mode in LEARNED and not chosen.of_share and not is_reordered
    share = WordShare(chosen.weights[0], result.queries[0]) if chosen.of_share else None
    return replace(
        info,
        bm25_weight=chosen.weights[0] if weighs else info.bm25_weight,
        vector_weight=chosen.weights[1] if weighs else info.vector_weight,
        word_share=info.word_share if is_reordered else share,
        reorder=chosen.reorder,
        rrf_k=chosen.weights.rrf_k if chosen.mode == "hybrid-rrf" else info.rrf_k,
        text_mode=chosen.mode,
        calibration=Calibration(
            metric=result.options.metric,
            gain=gain.value,
            low=gain.low,
            high=gain.high,
            queries=result.queries[1],
        ),
    )


def _after_keeping(index: str, chosen: Contender, *, is_new_k: bool) -> list[str]:
    if not is_remote(index):
        return []
    if chosen.reorder is not None:
        return [
            f"queries of clipsearch ask for the first {RERANK_COUNT:,} hits of hybrid and reorder"
            " them; a rank profile cannot, so requests without Python go on by hybrid"
        ]
    if chosen.of_share:
        return [
            "queries of clipsearch count the documents with each word and send the weights; a rank"
            " profile cannot, so requests without Python go on by the weights that were deployed"
        ]
    if is_new_k:
        return ["Vespa ranks with the new k once it is in its rank profile: run clipsearch deploy"]
    return [
        "queries of clipsearch send it from now on; for requests without Python, write it into"
        " the rank profiles with: clipsearch deploy"
    ]
