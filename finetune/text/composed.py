"""One Unicode form for what people write: "é" of two characters is the "é" of one."""

import unicodedata


def composed(text: str) -> str:
    """Return the text in the composed form (NFC).

    Nearly all programs write it so, but for macOS's file names.

    https://www.unicode.org/reports/tr15/
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def forms(text: str) -> tuple[str, ...]:
    """Return the text as it is, composed and decomposed (NFD), each once: whoever looks for a name
    by one of them finds it by another.
    """
    if text.isascii():
        return (text,)
    both = (unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    return tuple(dict.fromkeys((text, *both)))
