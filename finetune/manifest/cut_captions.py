"""Captions that are longer than a text tower takes: what is behind its last token, it never sees.

Imports without torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.manifest.problems import Problems

CUT_CAPTION = "cut caption"
_CAPTIONS_AT_ONCE = 1000
# Of a caption in the report.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class CaptionTokenizer:
    """How many tokens captions are.

    Attributes:
        name: Of the encoder or model, for people.
        max_tokens: That its text tower takes, begin and end of the text included.
        lengths: Texts to their tokens before any cut, begin and end included.
    """

    name: str
    max_tokens: int
    lengths: Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class CutCaptions:
    """What a tokenizer makes of all captions.

    Attributes:
        name, max_tokens: As in `CaptionTokenizer`.
        captions: Counted.
        cut: Those of more than `max_tokens` tokens.
        longest: Tokens of the longest caption; 0 without any.
    """

    name: str
    max_tokens: int
    captions: int
    cut: int
    longest: int


class CutCaptionCounter:
    """Counts captions a thousand at a time, and names those that are cut as notes."""

    def __init__(self, tokenizer: CaptionTokenizer, problems: Problems) -> None:
        self._tokenizer = tokenizer
        self._problems = problems
        self._waiting: list[tuple[str, str]] = []
        self._captions = self._cut = self._longest = 0

    def add(self, id: str, captions: Sequence[str]) -> None:
        """Take in the captions of an image."""
        self._waiting += [(id, caption) for caption in captions]
        if len(self._waiting) >= _CAPTIONS_AT_ONCE:
            self._count()

    def result(self) -> CutCaptions:
        """Return what was found in all captions so far."""
        self._count()
        tokenizer = self._tokenizer
        return CutCaptions(
            tokenizer.name, tokenizer.max_tokens, self._captions, self._cut, self._longest
        )

    def _count(self) -> None:
        if not self._waiting:
            return
        lengths = self._tokenizer.lengths([caption for _, caption in self._waiting])
        for (id, caption), length in zip(self._waiting, lengths, strict=True):
            self._longest = max(self._longest, length)
            if length <= self._tokenizer.max_tokens:
                continue
            self._cut += 1
            start = caption[:_SHOWN] + ("…" if len(caption) > _SHOWN else "")
            reason = f"{length} tokens, cut at {self._tokenizer.max_tokens}: {start}"
            self._problems.note(CUT_CAPTION, id, reason)
        self._captions += len(self._waiting)
        self._waiting.clear()


def cut_sentence(cut: int, captions: int, max_tokens: int, *, alike: int = 0) -> str | None:
    """Return how many captions are cut, for people; None where none is.

    `alike` are the captions that the model cannot tell from another one of other text.
    """
    if not cut:
        return None
    said = (
        f"{cut:,} of {captions:,} captions {'is' if cut == 1 else 'are'} longer than the"
        f" {max_tokens} tokens that the model takes: it does not see"
        f" {'its end' if cut == 1 else 'their ends'}"
    )
    if alike:
        said += f", and cannot tell {alike:,} captions from earlier ones of other text"
    return said
