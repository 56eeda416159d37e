"""The weights by which an index ranks a query, worked out over a collection in memory."""

from collections.abc import Sequence

from clipsearch.engine import EngineQuery, IndexInfo, fused_weights
from clipsearch.modes import Mode, Weights
from clipsearch.ranking import inverse_document_frequency, most_bm25
from clipsearch.relevance.collection import Collection, Removed


def most_of(collection: Collection, words: Sequence[str], removed: Removed) -> float:
    """Return what bm25 of a query could reach at most in a collection without some captions."""
    counts = (collection.holding(word, removed) for word in words)
    return most_bm25(inverse_document_frequency(len(collection), count) for count in counts)


def weights_in(
    mode: Mode, info: IndexInfo, collection: Collection, words: Sequence[str], removed: Removed
) -> Weights:
    """Return the weights by which an index ranks a query that brings none."""
    if mode == "hybrid" and info.word_share is not None:
        most = most_of(collection, words, removed)
        return Weights(info.word_share.weight / most, 1.0, info.rrf_k)
    return fused_weights(EngineQuery(mode), info)
