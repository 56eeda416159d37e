"""Single files that we write where the user says: reports, contact sheets and plots.

In place of a file only where we wrote that one and nobody changed it since; never to a path that is
read as well (`finetune.manifest.inputs`). A report is known by its first line. A sheet or plot
carries its mark in itself: the SHA-256 of all bytes before it, in a comment at the end of the HTML,
or in a text chunk before the last one of the PNG. Imports without torch.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from finetune.files.atomic import replace_file
from finetune.files.regular_files import open_regular

_HTML_MARK = re.compile(rb"<!-- clipsearch ([0-9a-f]{64}) -->\n\Z")
_PNG_KEY = b"clipsearch\0"
_PNG_MARK_BYTES = 12 + len(_PNG_KEY) + 64
_PNG_END_BYTES = 12

IsOurs = Callable[[Path], bool]


def is_report(*headers: str) -> IsOurs:
    """Return whether a file is a report, by its first line."""

    def is_ours(path: Path) -> bool:
        try:
            with open_regular(path) as file:
                return file.readline(1 << 16).rstrip(b"\r\n") in {each.encode() for each in headers}
        except OSError:
            return False

    return is_ours


def is_sealed(path: Path) -> bool:
    """Return whether `write_png` or `write_html` wrote the file, and nobody changed it since."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    found = _HTML_MARK.search(data[-200:])
    if found:
        return found[1] == _digest(data[: len(data) - len(found[0])])
    start = len(data) - _PNG_END_BYTES - _PNG_MARK_BYTES
    return start > 0 and data[start:-_PNG_END_BYTES] == _png_mark(data[:start])


def write_png(path: Path, data: bytes) -> None:
    """Write a whole PNG file with our mark in it; see `write_html`."""
    body, end = data[:-_PNG_END_BYTES], data[-_PNG_END_BYTES:]
    replace_file(path.resolve(), [body, _png_mark(body), end])


def write_html(path: Path, parts: Iterable[str]) -> None:
    """Write a page with our mark at its end; what was there is replaced in one step.

    A link stays a link. Raises OSError.
    """

    def marked() -> Iterator[bytes]:
        digest = hashlib.sha256()
        for part in parts:
            encoded = part.encode("utf-8", "replace")
            digest.update(encoded)
            yield encoded
        yield f"<!-- clipsearch {digest.hexdigest()} -->\n".encode()

    replace_file(path.resolve(), marked())


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _png_mark(body: bytes) -> bytes:
    content = b"tEXt" + _PNG_KEY + _digest(body)
    length = struct.pack(">I", len(content) - 4)
    return length + content + struct.pack(">I", zlib.crc32(content))
