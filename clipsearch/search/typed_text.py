"""What people type into a search box, read into words, phrases, and what is left out or required.

dogs beach         these words, each of which may be there
"two dogs"         the phrase: side by side, in this order, within one caption
-cat  -"a cat"     no hit has this
+dog  +"two dogs"  every hit has this
dog*               words that begin like this

Nothing typed is an error. An operator is what stands at the beginning of a word (`-`, `+`, a
quotation mark that is closed later) or at its end (one `*`); anywhere else it is text like any
other: x-ray, C++, 24*7, a lone sign, 27" wide, **bold**.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from clipsearch.text import is_separator

Sign = Literal["", "+", "-"]

_QUOTES = '"“”„'


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of what was typed, without its operators.

    Attributes:
        text: As it was typed.
        sign: "+" requires it, "-" leaves it out.
        is_phrase: It stood in quotation marks.
        is_prefix: Its last word is the beginning of words.
    """

    text: str
    sign: Sign = ""
    is_phrase: bool = False
    is_prefix: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it was typed without any operator."""
        return not (self.sign or self.is_phrase or self.is_prefix)


@dataclass(frozen=True, slots=True)
class TypedText:
    """A text read.

    Attributes:
        plain: The text without operators and without what is left out: what an encoder is given.
            Empty where nothing else was typed. A text without operators, as it is.
        pieces: In the order typed; several words without operators may be one.
    """

    plain: str
    pieces: tuple[Piece, ...]


@lru_cache(maxsize=64)  # a question is read for its words, its vector, its mode and its marks
def read_typed(text: str) -> TypedText:
    """Read a text with the operators above."""
    pieces, plain, place = [], [], 0
    for piece, start, end in _pieces(text):
        plain.append(text[place:start])
        if piece.sign != "-":
            plain.append(piece.text)
        follows = text[end : end + 1]
        if piece.is_phrase and follows and (follows in _QUOTES or not is_separator(follows)):
            plain.append(" ")  # what follows a quotation mark at once is another word
        pieces.append(piece)
        place = end
    if all(piece.is_plain for piece in pieces):
        return as_it_stands(text)
    plain.append(text[place:])
    return TypedText(" ".join("".join(plain).split()), tuple(pieces))


def as_it_stands(text: str) -> TypedText:
    """Take all of a text for words."""
    return TypedText(text, (Piece(text),))


def _pieces(text: str) -> Iterator[tuple[Piece, int, int]]:
    """Yield the pieces, each with its place in the text."""
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        piece, end = _piece(text, place)
        yield piece, place, end
        place = end


def _piece(text: str, start: int) -> tuple[Piece, int]:
    """Return the piece at `start`, where a word begins, and its end."""
    sign, place = _sign(text, start)
    end = _closing_quote(text, place)
    if end is not None:
        return Piece(text[place + 1 : end], sign, is_phrase=True), end + 1
    end = place
    while end < len(text) and not text[end].isspace():
        end += 1
    word = text[place:end]
    before = _before_star(word)
    if before is not None:
        return Piece(before, sign, is_prefix=True), end
    return Piece(word, sign), end


def _sign(text: str, place: int) -> tuple[Sign, int]:
    """Return the sign at a place, if it is one, and where what it is of begins."""
    follows_text = place > 0 and not text[place - 1].isspace()
    if text[place] not in "+-" or place + 1 == len(text) or follows_text:
        return "", place
    if is_separator(text[place + 1]) and _closing_quote(text, place + 1) is None:
        return "", place
    return ("+" if text[place] == "+" else "-"), place + 1


def _closing_quote(text: str, place: int) -> int | None:
    """Return where the quotation opened at a place is closed; None where none is."""
    if text[place] not in _QUOTES:
        return None
    return next((end for end in range(place + 1, len(text)) if text[end] in _QUOTES), None)


def _before_star(word: str) -> str | None:
    """Return what stands before the one star that ends a word; None without such a star.

    Punctuation may follow the star.
    """
    before, star, after = word.partition("*")
    if not star or not before or is_separator(before[-1]):
        return None
    return before if all(is_separator(each) and each != "*" for each in after) else None
