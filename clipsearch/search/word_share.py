"""A hybrid whose words count as a share of the most that they could reach, in both engines."""

from dataclasses import replace

from clipsearch.engine import MAX_WEIGHT, Engine, EngineQuery
from clipsearch.ranking import inverse_document_frequency, most_bm25


def with_word_share(query: EngineQuery, engine: Engine) -> EngineQuery:
    """Return the query with the weights that the index's `word_share` means for its words.

    As it is where the index has none, the mode is not `hybrid`, or the query brings weights. The
    cost is that of counting the documents with each word.

    Raises EngineError.
    """
    share = engine.info.word_share
    given = (query.bm25_weight, query.vector_weight)
    if share is None or query.mode != "hybrid" or given != (None, None):
        return query
    terms = query.scored
    found = engine.document_frequencies([token for term in terms for token in term.tokens])
    idfs = {
        token: inverse_document_frequency(found.documents, holding)
        for token, holding in found.holding.items()
    }
    # The idf of a phrase is that of its rarest token.
    most = most_bm25(max(idfs[token] for token in term.tokens) for term in terms)
    return replace(query, bm25_weight=min(share.weight / most, MAX_WEIGHT), vector_weight=1.0)
