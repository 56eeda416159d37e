"""JSON of a manifest on its way to ijson: valid UTF-8, within limits, whatever the file holds."""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from finetune.errors import ManifestError
from finetune.files.bounded_json import JsonGuard, JsonLimitError
from finetune.files.regular_files import open_regular

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# ijson fails on half of a surrogate pair: another escape stands for it on its way through.
_STANDS_FOR_HALF = "\uffff"
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF_LENGTH = len(r"\uffff")
_ESCAPES = re.compile(rf"\\\\|{_HIGH}{_LOW}|{_HIGH}|{_LOW}")
# The beginning of an escape, or of a pair of them, that the next part of the file goes on with. An
# even number of backslashes before it are backslashes themselves.
_CUT_ESCAPE = re.compile(
    rf"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?)\Z"
)


class Utf8Stream:
    """Gives ijson valid UTF-8, as it stops at the first byte, or the first escape, that is none.

    It keeps within the limits of `finetune.files.bounded_json`.

    Attributes:
        mended: Whether any byte was replaced (by U+FFFD) so far.
        halves: Whether any half of a surrogate pair was (by U+FFFF).
    """

    def __init__(self, file: BinaryIO) -> None:
        self.mended = False
        self.halves = False
        self._file = file
        self._guard = JsonGuard()
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._cut = ""

    def read(self, size: int = -1) -> bytes:
        """Return some bytes more; none at the end. Raises JsonLimitError."""
        if size == 0:
            return b""
        while True:
            raw = self._file.read(size)
            text = self._cut + self._decoder.decode(raw, final=not raw)
            self._cut = ""
            if not self.mended and REPLACEMENT in text:
                self.mended = True
            if "\\" in text:
                text = self._without_halves(text, final=not raw)
            # A part of a character alone decodes to nothing, which would look like the end.
            if text or not raw:
                piece = text.encode()
                self._guard.check(piece)
                return piece

    def _without_halves(self, text: str, *, final: bool) -> str:
        cut = None if final else _CUT_ESCAPE.search(text)
        if cut is not None:
            text, self._cut = text[: cut.start(1)], text[cut.start(1) :]
        return _ESCAPES.sub(self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        escape = found.group()
        if len(escape) != _HALF_LENGTH:
            return escape
        self.halves = True
        return r"\uffff"


def items_of(path: Path, prefix: str, behind: Callable[[int], str]) -> Iterator[tuple[Any, bool]]:
    """Yield each item of a file, and whether all of the file so far was UTF-8.

    Args:
        path: Of the file.
        prefix: Of the items, as ijson has it ("images.item").
        behind: Tells people where that is, by how many items were read.

    Raises ManifestError where the file ends early or is no valid JSON.
    """
    count = 0
    try:
        with open_regular(path) as file:
            stream = Utf8Stream(file)
            for item in ijson.items(stream, prefix, use_float=True):
                count += 1
                yield with_halves(item) if stream.halves else item, not stream.mended
    except JsonLimitError as error:
        raise ManifestError(f"{path}: {behind(count)}: {error}") from error
    except ijson.JSONError as error:
        raise ManifestError(
            f"{path}: no valid JSON {behind(count)}: {one_line(error)}; the file may be cut off"
        ) from error


def with_halves(value: Any) -> Any:
    """Return the value as the file has it: what reads its texts further on tells of halves."""
    if isinstance(value, str):
        return value.replace(_STANDS_FOR_HALF, "\ud800")
    if isinstance(value, list):
        return [with_halves(each) for each in value]
    if isinstance(value, dict):
        return {with_halves(name): with_halves(each) for name, each in value.items()}
    return value


def one_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().splitlines()[0].strip()
