"""The words of the captions once more, as an attribute: the index of captions holds stems alone.

An index field takes no beginnings of words ("Prefix matching is not supported"), and what it holds
is not what people would be told of. So each document has its different words in lower case and
without accents, as `clipsearch.text.words` cuts them.
"""

from collections.abc import Iterable

from clipsearch.text import words

WORDS = "words"
WORDS_FORM = 3
"""Of documents that have them, from this one on (`IndexInfo.document_form`)."""


def caption_words(captions: Iterable[str]) -> list[str]:
    """Return the field of a document, each word once, in the order in which they come."""
    return list(dict.fromkeys(word for caption in captions for word in words(caption)))
