"""Marked characters of a text."""

from collections.abc import Sequence

# Start and end of text[start:end].
Span = tuple[int, int]


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[str, bool]]:
    """`text` cut at the spans, which are in order: (piece, whether it is a match).

    Joined, the pieces are the text again.
    """
    cut: list[tuple[str, bool]] = []
    position = 0
    for start, end in spans:
        if start > position:
            cut.append((text[position:start], False))
        cut.append((text[start:end], True))
        position = end
    if position < len(text):
        cut.append((text[position:], False))
    return cut
