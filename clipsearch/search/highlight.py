"""Where a caption matches the query: words whose stems are equal."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clipsearch.text import Token, token_spans
from finetune.console import Span


@dataclass(frozen=True, slots=True)
class MarkedCaption:
    """A caption and the spans `caption[start:end]` in it that match, in order."""

    caption: str
    spans: tuple[Span, ...] = ()

    def excerpt(self, length: int) -> "MarkedCaption":
        """Return at most about `length` characters around the first match, "…" where it is cut."""
        if len(self.caption) <= length:
            return self
        first = self.spans[0][0] if self.spans else 0
        start = min(max(0, first - length // 4), len(self.caption) - length)
        end = start + length
        before, after = ("…" if start else ""), ("…" if end < len(self.caption) else "")
        shift = len(before) - start
        spans = tuple((a + shift, b + shift) for a, b in self.spans if start <= a and b <= end)
        return MarkedCaption(before + self.caption[start:end] + after, spans)


def match_spans(
    caption: str,
    tokens: Collection[str],
    language: str = "en",
    prefixes: tuple[str, ...] = (),
) -> tuple[Span, ...]:
    """Start and end, in characters, of every word of `caption` that matches.

    Its token is in `tokens`, or it begins like one of `prefixes`.
    """
    found = _matching(caption, tokens, language, prefixes)
    return tuple((token.start, token.end) for token in found)


def best_caption(
    captions: Sequence[str],
    tokens: Collection[str],
    language: str = "en",
    prefixes: tuple[str, ...] = (),
) -> MarkedCaption:
    """Return the caption with the most different tokens of the query, then with the most matches.

    The first of equal ones; the first caption where nothing matches; empty without captions.
    """
    best, best_rank = MarkedCaption(captions[0] if captions else ""), (0, 0)
    for caption in captions:
        matches = _matching(caption, tokens, language, prefixes)
        rank = (len({token.text for token in matches}), len(matches))
        if rank > best_rank:
            best_rank = rank
            best = MarkedCaption(caption, tuple((token.start, token.end) for token in matches))
    return best


def _matching(
    caption: str, tokens: Collection[str], language: str, prefixes: tuple[str, ...]
) -> list[Token]:
    return [
        token
        for token in token_spans(caption, language)
        if token.text in tokens or token.word.startswith(prefixes)
    ]
