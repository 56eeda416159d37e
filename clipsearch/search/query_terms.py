"""The words of a query, from all its texts: cut, stemmed, and sorted by what is asked of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from clipsearch.search.parts import Part
from clipsearch.search.typed_text import Piece, TypedText, as_it_stands, read_typed
from clipsearch.terms import NO_TERMS, Term, Terms, joined
from clipsearch.text import tokens, words


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """What a query asks of captions.

    Attributes:
        tokens: Plain words, repeats kept.
        terms: All else.
    """

    tokens: tuple[str, ...] = ()
    terms: Terms = NO_TERMS

    @property
    def marked(self) -> frozenset[str]:
        """The tokens that are marked in captions."""
        held = (term.tokens for term in self.terms.looked_for if not term.is_prefix)
        return frozenset((*self.tokens, *(token for each in held for token in each)))

    @property
    def marked_prefixes(self) -> tuple[str, ...]:
        """The beginnings of words that are marked in captions."""
        return tuple(term.tokens[0] for term in self.terms.looked_for if term.is_prefix)


def typed_text_of(part: Part, *, plain: bool = False) -> TypedText:
    """Read the text of a part: with operators, unless it is `plain` or of no positive weight."""
    text = str(part.value)
    return as_it_stands(text) if plain or part.weight <= 0 else read_typed(text)


def query_terms(parts: Iterable[Part], language: str, *, plain: bool = False) -> QueryTerms:
    """Return the words of all texts with a positive weight, in order, repeats kept.

    With `plain` the texts are taken as they stand, without operators.
    """
    found = [
        _of_piece(piece, language)
        for part in parts
        if part.kind == "text" and part.weight > 0
        for piece in typed_text_of(part, plain=plain).pieces
    ]
    return QueryTerms(
        tuple(token for each in found for token in each.tokens),
        joined(each.terms for each in found),
    )


def _of_piece(piece: Piece, language: str) -> QueryTerms:
    whole = tokens(piece.text, language)
    if not whole:
        return QueryTerms()
    beginnings: tuple[Term, ...] = ()
    # To leave out x-ra* as its parts would leave out every x: it is left out as a phrase.
    if piece.is_prefix and not (piece.sign == "-" and len(whole) > 1):
        whole.pop()
        beginnings = (Term((words(piece.text)[-1],), is_prefix=True),)
    if piece.sign == "" and not piece.is_phrase:
        return QueryTerms(tuple(whole), Terms(optional=beginnings))
    if piece.sign == "" and len(whole) == 1:
        return QueryTerms(tuple(whole))
    # What a sign stands before is one thing, however many words it is cut into.
    named = (*((Term(tuple(whole)),) if whole else ()), *beginnings)
    match piece.sign:
        case "+":
            return QueryTerms(terms=Terms(required=tuple((term,) for term in named)))
        case "-":
            return QueryTerms(terms=Terms(excluded=named))
        case "":
            return QueryTerms(terms=Terms(optional=named))
