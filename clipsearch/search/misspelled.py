"""Words of a query that no document has, and what may have been meant: the index's own words."""

from collections.abc import Sequence

from clipsearch.engine import Engine, Page
from clipsearch.search.parts import Part
from clipsearch.search.query_terms import typed_words
from clipsearch.text import tokens
from clipsearch.vocabulary import Correction, most_edits

SUGGESTIONS = 3
MOST_WORDS = 8
"""Of a query that are looked after."""


def corrections(
    parts: Sequence[Part], page: Page, engine: Engine, *, plain: bool = False
) -> tuple[Correction, ...]:
    """Return the words of the texts that no document has, with words that are spelled alike.

    What a caption of the page has is not looked after, so that most queries cost nothing here; nor
    is a partial answer: what was not searched may have the word. Raises EngineError.
    """
    if page.partial is not None:
        return ()
    language = engine.info.language
    typed = {
        word: token
        for word, token in typed_words(parts, language, plain=plain).items()
        if most_edits(word)
    }
    shown = {
        token
        for hit in page.hits
        for caption in hit.document.captions
        for token in tokens(caption, language)
    }
    left = {word: token for word, token in typed.items() if token not in shown}
    asked = dict(list(left.items())[:MOST_WORDS])
    if not asked:
        return ()
    holding = engine.document_frequencies(list(asked.values())).holding
    found = (
        Correction(word, engine.spelled_like(word, SUGGESTIONS))
        for word, token in asked.items()
        if not holding[token]
    )
    return tuple(each for each in found if each.suggestions)
