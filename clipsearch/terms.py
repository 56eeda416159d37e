"""The terms of a query: what may, must and must not stand in the captions of a hit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """A word, a phrase, or the beginning of words.

    Attributes:
        tokens: By `clipsearch.text.tokens`, at least one. Several are a phrase: they stand side by
            side, in this order, within one caption. In bm25 a phrase is one term: its frequency is
            how often it occurs, its idf that of its rarest token.
        is_prefix: `tokens` is then one beginning of words as `clipsearch.text.words` gives them. It
            finds every document with such a word, and adds nothing to bm25.
    """

    tokens: tuple[str, ...]
    is_prefix: bool = False

    def __str__(self) -> str:
        """Return the term as people type it."""
        text = " ".join(self.tokens)
        return f'"{text}"' if len(self.tokens) > 1 else f"{text}*" if self.is_prefix else text


@dataclass(frozen=True, slots=True)
class Terms:
    """What a query says of words beside those that stand for themselves.

    Attributes:
        optional: Phrases and beginnings of words; each finds documents by itself.
        required: Of each of these, a hit has one at least. They count as the optional ones do.
        excluded: No hit has any of these. They change no score.
    """

    optional: tuple[Term, ...] = ()
    required: tuple[tuple[Term, ...], ...] = ()
    excluded: tuple[Term, ...] = ()

    @property
    def looked_for(self) -> tuple[Term, ...]:
        """The optional and the required ones."""
        return (*self.optional, *(one for alternatives in self.required for one in alternatives))

    @property
    def restrict(self) -> bool:
        """Whether they keep documents out of the hits, however these were found."""
        return bool(self.required or self.excluded)


@dataclass(frozen=True, slots=True)
class DocumentFrequencies:
    """How common words are.

    Attributes:
        documents: In the index.
        holding: Token to the number of documents that hold it.
    """

    documents: int
    holding: Mapping[str, int]


NO_TERMS = Terms()


def joined(several: Iterable[Terms]) -> Terms:
    """Return the terms of all."""
    held = tuple(several)
    return Terms(
        tuple(one for each in held for one in each.optional),
        tuple(one for each in held for one in each.required),
        tuple(one for each in held for one in each.excluded),
    )
