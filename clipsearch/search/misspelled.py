"""Words of a query that no document has, and what may have been meant: the index's own words."""

from collections.abc import Callable, Sequence

from clipsearch.engine import Engine, Page
from clipsearch.search.parts import Part
from clipsearch.search.query_terms import typed_words
from clipsearch.text import tokens
from clipsearch.vocabulary import Correction, WordCount, may_be_misspelled, plausible

SUGGESTIONS = 3
# Of an engine's words that are spelled alike, from which the plausible ones are taken.
_LOOKED_AT = 100
MOST_WORDS = 8
"""Of a query that are looked after."""


def corrections(
    parts: Sequence[Part],
    page: Page,
    engine: Engine,
    *,
    plain: bool = False,
    is_known: Callable[[str], bool] | None = None,
) -> tuple[Correction, ...]:
    """Return the words of the texts that no document has, with those that may be meant.

    What a caption of the page has is not looked after, so that most queries cost nothing here; nor
    is a partial answer: what was not searched may have the word. `is_known` says of a word that the
    vector knows what it shows: it is spelled as it is meant. Raises EngineError.
    """
    if page.partial is not None:
        return ()
    language = engine.info.language
    typed = {
        word: token
        for word, token in typed_words(parts, language, plain=plain).items()
        if may_be_misspelled(word, language)
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
        Correction(word, _meant(word, token, engine))
        for word, token in asked.items()
        if not holding[token] and not (is_known and is_known(word))
    )
    return tuple(each for each in found if each.suggestions)


def _meant(word: str, token: str, engine: Engine) -> tuple[WordCount, ...]:
    """Return what may be meant by a word; where nothing is, by its stem: wolves, a wolf."""
    language = engine.info.language
    for spelled in dict.fromkeys((word, token)):
        if not may_be_misspelled(spelled, language):
            continue
        found = engine.spelled_like(spelled, _LOOKED_AT)
        if meant := plausible(spelled, found, language, SUGGESTIONS):
            return meant
    return ()
