"""The words of a query, from all its texts: cut, stemmed, and sorted by what is asked of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from clipsearch.search.parts import Part, distinct_tokens
from clipsearch.search.synonyms import NO_SYNONYMS, Synonyms, SynonymTable, Words
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


def encoded_parts(parts: Sequence[Part], *, plain: bool = False) -> tuple[Part, ...]:
    """Return the parts as they are encoded: texts without operators and what is left out.

    A text of nothing else is not among them.
    """
    read = (
        replace(part, value=typed_text_of(part, plain=plain).plain) if part.kind == "text" else part
        for part in parts
    )
    return tuple(part for part in read if part.kind != "text" or part.value)


def typed_words(parts: Iterable[Part], language: str, *, plain: bool = False) -> dict[str, str]:
    """Return the whole words of all texts with a positive weight, each with its token.

    But for those that are left out.
    """
    pieces = (
        piece
        for part in parts
        if part.kind == "text" and part.weight > 0
        for piece in typed_text_of(part, plain=plain).pieces
        if piece.sign != "-" and not piece.is_prefix
    )
    return {
        word: token
        for piece in pieces
        for word, token in zip(words(piece.text), tokens(piece.text, language), strict=True)
    }


def written_words(
    parts: Sequence[Part],
    language: str,
    *,
    plain: bool = False,
    synonyms: Synonyms = NO_SYNONYMS,
) -> dict[str, list[str]]:
    """Return the tokens of a query, each with the words that were written for it, in their order.

    Last are those of `synonyms`: what was typed goes before.
    """
    typed = (
        piece.text
        for part in parts
        if part.kind == "text" and part.weight > 0
        for piece in typed_text_of(part, plain=plain).pieces
        if piece.sign != "-"
    )
    alone = (str(part.value) for part in parts if part.kind == "words")
    meant = (text for rule in synonyms.rules for text in rule.meant)
    written: dict[str, list[str]] = {}
    for text in (*typed, *alone, *meant):
        for word, token in zip(words(text), tokens(text, language), strict=True):
            written.setdefault(token, []).append(word)
    return written


def query_terms(
    parts: Iterable[Part],
    language: str,
    *,
    plain: bool = False,
    synonyms: Synonyms = NO_SYNONYMS,
) -> QueryTerms:
    """Return the words of all texts with a positive weight, in order, repeats kept.

    Of `words` each token once. With `plain` the texts are taken as they stand, without operators.
    Of `synonyms` what stands for a plain word counts beside it, for a required word in its place,
    and for one that is left out is left out too; phrases and beginnings of words have none.
    """
    table = synonyms.in_words(language)
    found: list[QueryTerms] = []
    for part in parts:
        if part.kind == "text" and part.weight > 0:
            found += _of_text(typed_text_of(part, plain=plain), language, table)
        elif part.kind == "words":
            found.append(QueryTerms(tuple(distinct_tokens(part, language))))
    return QueryTerms(
        tuple(token for each in found for token in each.tokens),
        joined(each.terms for each in found),
    )


def _of_text(text: TypedText, language: str, table: SynonymTable) -> Iterator[QueryTerms]:
    """Yield the terms of a text; words that stand in a row are looked at together."""
    row: list[str] = []
    for piece in text.pieces:
        if piece.is_plain:
            row += tokens(piece.text, language)
            continue
        yield _with_synonyms(row, table)
        row = []
        yield _of_operator(piece, language, table)
    yield _with_synonyms(row, table)


def _with_synonyms(row: Sequence[str], table: SynonymTable) -> QueryTerms:
    """Return plain words with what stands for them; nothing that is there already is added."""
    words: list[str] = []
    added: dict[Words, None] = {}
    for own, meant in table.spread(row):
        words += own if own in meant else ()
        added.update(dict.fromkeys(each for each in meant if each != own))
    others = [each for each in added if not (len(each) == 1 and each[0] in words)]
    return QueryTerms(
        (*words, *(each[0] for each in others if len(each) == 1)),
        Terms(optional=tuple(Term(each) for each in others if len(each) > 1)),
    )


def _of_operator(piece: Piece, language: str, table: SynonymTable) -> QueryTerms:
    whole = tokens(piece.text, language)
    if not whole:
        return QueryTerms()
    beginnings: tuple[Term, ...] = ()
    # To leave out x-ra* as its parts would leave out every x: it is left out as a phrase.
    if piece.is_prefix and not (piece.sign == "-" and len(whole) > 1):
        whole.pop()
        beginnings = (Term((words(piece.text)[-1],), is_prefix=True),)
    if piece.sign == "" and (len(whole) <= 1 or not piece.is_phrase):
        return QueryTerms(tuple(whole), Terms(optional=beginnings))
    if piece.sign == "":
        return QueryTerms(terms=Terms(optional=(Term(tuple(whole)),)))
    # What a sign stands before is one thing, however many words it is cut into.
    meant = tuple(map(Term, table.of(whole))) if whole else ()
    if piece.sign == "-":
        return QueryTerms(terms=Terms(excluded=meant + beginnings))
    required = (*((meant,) if meant else ()), *((term,) for term in beginnings))
    return QueryTerms(terms=Terms(required=required))
