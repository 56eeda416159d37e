"""How words and vector join where nobody calibrated: measured on the index's own captions.

Each caption of some images that the encoder was not trained on is asked while it is left out, and
the weight of the words' share is learned as by `clipsearch calibrate`. Where images have one
caption each, words cannot be measured so: then the cosines alone are, and words count for what
they were worth elsewhere. Either asks for no judgments; docs/relevance.md has the figures.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from clipsearch.engine import (
    DEFAULT_BM25_WEIGHT,
    DEFAULT_VECTOR_WEIGHT,
    IndexInfo,
)
from clipsearch.modes import MAX_SHARE_WEIGHT, WordShare
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.learning import learn_weights, scored_caption
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.measures import MRR
from clipsearch.relevance.runs import with_cosines
from clipsearch.relevance.splits import held_out
from clipsearch.search.search import Search
from finetune.arrays import Float32

HELD_OUT_SPLITS = ("val", "test")
"""Of which the first with enough images is learned from: the encoder knows those of train by
heart, and what it knows by heart looks like skill."""

IMAGES = 300
LEAST_IMAGES = 30
MOST_DOCUMENTS = 20_000
"""Documents that captions are ranked among: of a larger index, the first that it gives."""

GROWTH = 2
"""An index is measured again once it holds so many times the documents."""

SHARE_EVIDENCE = 40.0
"""What a share of 1 adds to the log likelihood ratio of right and wrong; 30 to 60 do as well."""


def learn_word_share(index: str | Path, *, device: str = "cpu") -> WordShare | None:
    """Measure how an index joins words and vector, and keep it there, as each feed does.

    Args:
        index: A folder or an http(s) address, that has documents.
        device: To encode captions on.

    Returns what was found; None where nothing was to be measured, see `keep_word_share`. Raises
    EncoderError, EncoderMismatchError and EngineError.
    """
    with Search.open(index, device=device) as search:
        return keep_word_share(search)


def keep_word_share(search: Search) -> WordShare | None:
    """Measure, and let the index keep what was found; None where nothing was to be measured.

    Nothing is done where weights were chosen by people or by a calibration, where the index has no
    encoder, and until it holds GROWTH times the documents that it held at the last time. At most
    MOST_DOCUMENTS documents are read, and the captions of IMAGES images encoded.

    Raises EncoderError, EncoderMismatchError and EngineError.
    """
    info = search.info
    documents = search.count()
    if not _is_free(info) or documents < GROWTH * max(info.measured_at, LEAST_IMAGES // GROWTH):
        return None
    found = measured_share(search)

    def measured(now: IndexInfo) -> IndexInfo:
        if not _is_free(now):
            return now
        return replace(now, word_share=found or now.word_share, measured_at=documents)

    search.engine.change_info(measured)
    return found


def measured_share(search: Search, splits: Sequence[str] = HELD_OUT_SPLITS) -> WordShare | None:
    """Return the proportion of words and vector that the captions teach.

    None where no split has LEAST_IMAGES images with a caption.
    """
    info = search.info
    visited = islice(search.engine.visit(embeddings=True), MOST_DOCUMENTS)
    collection = Collection.of(visited, info.dimension, info.language)
    for least_captions, learn in ((2, _by_words_and_cosines), (1, _by_cosines)):
        for split in splits:
            held = held_out(collection, info, split)
            rows = _rows_of(collection, held, least_captions)
            if len(rows) >= LEAST_IMAGES:
                chosen = np.random.default_rng(0).permutation(rows)[:IMAGES].tolist()
                queries = _queries(search, collection, chosen)
                weight, apart = learn(search, collection, queries)
                weight = min(max(weight, 1 / MAX_SHARE_WEIGHT), MAX_SHARE_WEIGHT)
                return WordShare(weight, len(chosen), apart)
    return None


def _by_words_and_cosines(
    search: Search, collection: Collection, queries: Sequence[JudgedQuery]
) -> tuple[float, float]:
    """Return the weight that ranks the images of captions best, each left out while it is asked.

    And how far cosines lie apart.
    """
    asked = [query for query in queries if query.other_captions]
    scored, cosines = [], _Cosines()
    for query, cosine in with_cosines(search, collection, asked, ("hybrid",)):
        assert cosine is not None
        cosines.add(cosine, [collection.rows[id_] for id_ in query.right])
        scored.append(scored_caption(collection, query, cosine, search.info.language))
    weight = learn_weights(scored, "hybrid", MRR, of_share=True).weights.bm25
    return weight, cosines.apart


def _by_cosines(
    search: Search, collection: Collection, queries: Sequence[JudgedQuery]
) -> tuple[float, float]:
    """Return SHARE_EVIDENCE over the evidence in a cosine, (m - mu) / sigma^2, and m - mu.

    m is the mean cosine of a caption and its image, mu and sigma are mean and deviation with
    others: so much a unit of the cosine adds to the log likelihood ratio of two Gaussians.
    """
    cosines = _Cosines()
    for query, cosine in with_cosines(search, collection, queries, ("hybrid",)):
        assert cosine is not None
        cosines.add(cosine, [collection.rows[id_] for id_ in query.right])
    apart = cosines.apart
    return (SHARE_EVIDENCE * cosines.variance / apart if apart > 0 else MAX_SHARE_WEIGHT), apart


class _Cosines:
    """The cosines of captions with their own images, and with others, as sums: they are many."""

    def __init__(self) -> None:
        self._own: list[float] = []
        # Of the others: how many, their sum, and that of their squares.
        self._sums = np.zeros(3)

    def add(self, cosine: Float32, right: Sequence[int]) -> None:
        """Count those of one caption, float32[n]; `right` are the rows of its own images."""
        self._own.append(float(cosine[right].mean()))
        others = np.delete(cosine, right).astype(np.float64)
        others = others[np.isfinite(others)]
        self._sums += (len(others), others.sum(), np.square(others).sum())

    @property
    def apart(self) -> float:
        """How far the mean of the own ones lies above that of the others."""
        count, total, _ = self._sums
        return float(np.mean(self._own) - total / count)

    @property
    def variance(self) -> float:
        """That of the others."""
        count, total, squares = self._sums
        return float(squares / count - (total / count) ** 2)


def _queries(search: Search, collection: Collection, rows: Sequence[int]) -> list[JudgedQuery]:
    captions = [(row, text) for row in rows for text in collection.documents[row].captions]
    return caption_queries(collection, captions, search.info.language)


def _is_free(info: IndexInfo) -> bool:
    """Return whether nobody chose how the index joins words and vector."""
    weights = (info.bm25_weight, info.vector_weight)
    untouched = weights == (DEFAULT_BM25_WEIGHT, DEFAULT_VECTOR_WEIGHT)
    return untouched and info.calibration is None and info.encoder_path is not None


def _rows_of(collection: Collection, rows: Sequence[int], least_captions: int) -> list[int]:
    return [
        row
        for row in rows
        if collection.embedded[row]
        and sum(map(bool, collection.caption_words[row])) >= least_captions
    ]
