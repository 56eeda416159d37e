"""The words of a query as clauses of a statement; what a user wrote travels as parameters.

Recorded on a real Vespa: a phrase is one term and matches within one caption; of `rank(a, b)` a
alone decides what matches, and b counts where it is there, while `a and (a or b)` would count a
twice; the beginning of a word is looked for in an attribute, and counts nothing.
"""

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.vespa.caption_words import WORDS, WORDS_FORM
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.terms import Term
from finetune.errors import UsageError

_AS_IT_IS = "{stem:false, normalizeCase:false, accentDrop:false}"


def check_terms(query: EngineQuery, info: IndexInfo) -> None:
    """Raise UsageError for a term that the documents of the index cannot be asked for."""
    for term in (*query.terms.looked_for, *query.terms.excluded):
        if term.is_prefix and info.document_form < WORDS_FORM:
            raise UsageError(
                f"{term}: the index was fed by an earlier version, and its documents have no words"
                f" that could begin so: run clipsearch deploy, and then clipsearch feed, or take"
                f" the text as it stands with --plain"
            )


def are_known_beforehand(query: EngineQuery) -> bool:
    """Return whether `nearestNeighbor` is told what passes the terms that restrict.

    Of a phrase it is told no more than that its words are there, of one that is left out nothing.
    """
    held = (*(one for each in query.terms.required for one in each), *query.terms.excluded)
    return all(len(term.tokens) == 1 for term in held)


def optional_clauses(query: EngineQuery, body: dict[str, Json]) -> list[str]:
    """Return a clause for each term that finds documents by itself; adds their parameters."""
    words = [_clause(Term((token,)), f"t{at}", body) for at, token in enumerate(query.tokens)]
    others = [_clause(term, f"o{at}", body) for at, term in enumerate(query.terms.optional)]
    return words + others


def required_clauses(query: EngineQuery, body: dict[str, Json]) -> list[str]:
    """Return the clauses that must all hold; adds their parameters to `body`."""
    return [
        _either([_clause(term, f"r{number}n{at}", body) for at, term in enumerate(alternatives)])
        for number, alternatives in enumerate(query.terms.required)
    ]


def excluding_clauses(query: EngineQuery, body: dict[str, Json]) -> list[str]:
    """Return the clauses that leave documents out; adds their parameters to `body`."""
    return [f"!({_clause(term, f'l{at}', body)})" for at, term in enumerate(query.terms.excluded)]


def ranked_by(required: list[str], others: list[str]) -> str:
    """Return the clause that matches what is required; `others` count where they are there."""
    first = required[0] if len(required) == 1 else f"({' and '.join(required)})"
    return f"rank({', '.join([first, *others])})" if others else first


def _clause(term: Term, name: str, body: dict[str, Json]) -> str:
    if term.is_prefix:
        body[name] = term.tokens[0]
        return f"{WORDS} contains ({{prefix:true}}@{name})"
    if len(term.tokens) == 1:
        body[name] = term.tokens[0]
        return f"captions contains ({_AS_IT_IS}@{name})"
    names = [f"{name}w{at}" for at in range(len(term.tokens))]
    body.update(zip(names, term.tokens, strict=True))
    listed = ",".join(f"@{each}" for each in names)
    return f"captions contains ({_AS_IT_IS}phrase({listed}))"


def _either(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"({' or '.join(clauses)})"
