"""Why a hit is where it is: what each word of the query is worth, and its ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from clipsearch.phrases import occurrences
from clipsearch.ranking import BM25_K1, inverse_document_frequency
from clipsearch.terms import DocumentFrequencies, Term

_HALVINGS = 100
# A token of the query to the words that were written for it, in their order.
Written = Mapping[str, Sequence[str]]
NOTHING_WRITTEN: Written = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TermShare:
    """What a term of the query is worth in a hit.

    Attributes:
        word: As it was typed, or as a synonym is written; a phrase in quotation marks.
        term: As it is looked for: a stem, or stems in quotation marks.
        documents: That hold it; of a phrase, its rarest word.
        idf: By these.
        frequency: How often the captions of the hit have it.
        share: Of the hit's bm25.
    """

    word: str
    term: str
    documents: int
    idf: float
    frequency: int
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a hit has its score.

    Attributes:
        terms: The words and phrases of the query, in its order, repeats kept: their shares are
            the hit's bm25. Empty where the mode looks for no words.
        length_part: K in idf · tf (k1 + 1) / (tf + K), which is k1 (1 - b + b length / average);
            None where no term matches.
        bm25_weight, vector_weight: Of the two in the score; None where the mode weighs nothing.
        rank_by_words: From 1, among all that the query could find, by bm25 alone; None where no
            term matches, or the mode looks for none.
        rank_by_image: The same by the cosine alone; None where the mode compares no vectors.
    """

    terms: tuple[TermShare, ...] = ()
    length_part: float | None = None
    bm25_weight: float | None = None
    vector_weight: float | None = None
    rank_by_words: int | None = None
    rank_by_image: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all of it, as what JSON can hold."""
        return asdict(self)


def shares_of(
    bm25: float,
    captions: Sequence[str],
    terms: Sequence[Term],
    frequencies: DocumentFrequencies,
    language: str,
    written: Written = NOTHING_WRITTEN,
) -> tuple[tuple[TermShare, ...], float | None]:
    """Return what each term is worth in a hit with this bm25, and the part of its length.

    The captions say how often each term stands in them, and how many documents hold it gives its
    idf. The one thing that is left, what the length of the captions makes of it, is the same for
    all terms and follows from their sum: no engine needs to tell the average length.
    """
    words = _words_of(terms, written)
    counts = [occurrences(term.tokens, captions, language) for term in terms]
    rarest = [min(frequencies.holding[token] for token in term.tokens) for term in terms]
    idfs = [inverse_document_frequency(frequencies.documents, held) for held in rarest]
    part = _length_part(bm25, idfs, counts)
    shares = [_share(idf, count, part or 0.0) for idf, count in zip(idfs, counts, strict=True)]
    found = zip(words, map(str, terms), rarest, idfs, counts, shares, strict=True)
    return tuple(TermShare(*each) for each in found), part


def _words_of(terms: Sequence[Term], written: Written) -> list[str]:
    """Return each term as it was written: of words with one token each in its turn."""
    turns = {token: iter(words) for token, words in written.items()}

    def word(token: str) -> str:
        of_token = written.get(token, (token,))
        return next(turns.get(token, iter(())), of_token[-1])

    return [str(replace(term, tokens=tuple(map(word, term.tokens)))) for term in terms]


def _share(idf: float, count: int, length_part: float) -> float:
    return idf * count * (BM25_K1 + 1) / (count + length_part) if count else 0.0


def _length_part(bm25: float, idfs: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return the part for which the shares are the bm25, by halving; None where there are none."""
    held = [(idf, count) for idf, count in zip(idfs, counts, strict=True) if count]
    if not held or bm25 <= 0:
        return None
    low, high = 0.0, 1.0
    while sum(_share(*each, high) for each in held) > bm25:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_less = sum(_share(*each, middle) for each in held) < bm25
        low, high = (low, middle) if is_less else (middle, high)
    return (low + high) / 2


def explanation_json(explanation: Explanation | None) -> Mapping[str, Any]:
    """Return what JSON says of an explanation where there is one."""
    return {} if explanation is None else {"explanation": explanation.to_json()}
