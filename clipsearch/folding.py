"""When two texts are the same tag: whatever their case and their Unicode form."""

import unicodedata


def fold(text: str) -> str:
    """Return the text as tags are compared: without case, composed (Unicode form NFC).

    "Strand", "STRAND" and "strand" fold to one text, and so do an é of one character and one of
    two. Both engines, filters and facets compare by this alone. Folding twice changes nothing more.

    This is canonical caseless matching (https://www.unicode.org/versions/latest/core-spec/,
    section 3.13.5, definition D145), brought back to the composed form.
    """
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))
