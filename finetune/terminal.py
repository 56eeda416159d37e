"""Text from captions and file names, made safe to print."""

import unicodedata

# Joiners inside emoji and scripts: format characters that do no harm.
_HARMLESS = frozenset("\u200c\u200d\ufeff\u00ad")
_UNSAFE_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def printable(text: str) -> str:
    r"""`text` on one line, with every control character written out (\x1b, \u202e).

    A caption may hold escape sequences that would recolour, erase or retitle the terminal, or
    characters that reverse the order of what follows. Line breaks and tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if character in _HARMLESS or unicodedata.category(character) not in _UNSAFE_CATEGORIES:
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
