"""Single files that we write where the user says: reports, contact sheets and plots.

Never to a path that is read as well, and in place of a file only where we wrote that one and nobody
changed it since. A report is known by its first line. A sheet or plot carries its mark in itself:
the SHA-256 of all bytes before it, in a comment at the end of the HTML, or in a text chunk before
the last one of the PNG. Imports without torch.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from finetune.encoder_folder import DESCRIPTION_FILE
from finetune.errors import UsageError
from finetune.ownership import read_mark, replace_file
from finetune.regular_files import open_regular

_HTML_MARK = re.compile(rb"<!-- clipsearch ([0-9a-f]{64}) -->\n\Z")
_PNG_KEY = b"clipsearch\0"
_PNG_MARK_BYTES = 12 + len(_PNG_KEY) + 64
_PNG_END_BYTES = 12
# What a folder of pictures reads beside pictures.
_READ_SUFFIXES = (".txt", ".tar")

IsOurs = Callable[[Path], bool]


def check_output(
    path: Path, what: str, is_ours: IsOurs, inputs: Iterable["str | Path | None"] = ()
) -> None:
    """Raise UsageError where a file must not be written to `path`.

    Args:
        path: Of the report, sheet or plot.
        what: How the user named it: "--report problems.csv".
        is_ours: Whether an existing file is one that we wrote.
        inputs: Files and folders that the same command reads; None counts for nothing.
    """
    if path.is_dir():
        raise UsageError(f"{what}: is a folder; name a file")
    read = [Path(each) for each in inputs if each is not None]
    check_no_input(path, what, read)
    for folder in read:
        if folder.is_dir() and _would_be_read(path, folder):
            raise UsageError(f"{what}: would be a part of {folder}, which is read; name another")
    # A device (/dev/null, /dev/stdout) holds nothing that could be lost.
    if path.is_file() and path.stat().st_size and not is_ours(path):
        raise UsageError(
            f"{what}: there is a file that clipsearch did not write, or that was changed since;"
            f" name another one, or move it away"
        )


def check_no_input(path: Path, what: str, inputs: Iterable["str | Path | None"]) -> None:
    """Raise UsageError where `path` is one of the files and folders that the same command reads."""
    for each in inputs:
        if each is not None and is_same_place(path, Path(each)):
            raise UsageError(f"{what}: is {each}, which is read here; name another place")


def is_same_place(one: Path, other: Path) -> bool:
    """Whether two paths are one file or folder: through links, `..`, or letters' case.

    Names that differ in case alone are one file on some disks, so they count as one on all.
    """
    try:
        if one.samefile(other):
            return True
    except OSError:  # one of them is not there
        pass
    try:
        resolved = [str(each.expanduser().resolve()).casefold() for each in (one, other)]
    except (OSError, RuntimeError):  # links in a circle
        return False
    return resolved[0] == resolved[1]


def is_report(*headers: str) -> IsOurs:
    """Whether a file is a report, by its first line."""

    def is_ours(path: Path) -> bool:
        try:
            with open_regular(path) as file:
                return file.readline(1 << 16).rstrip(b"\r\n") in {each.encode() for each in headers}
        except OSError:
            return False

    return is_ours


def is_sealed(path: Path) -> bool:
    """Whether `write_png` or `write_html` wrote the file, and nobody changed it since."""
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


def _would_be_read(path: Path, folder: Path) -> bool:
    """Whether the folder, of a manifest or an encoder, would have the file for a part of itself."""
    if not path.resolve().is_relative_to(folder.resolve()):
        return False
    if (folder / DESCRIPTION_FILE).is_file() or read_mark(folder) is not None:
        return True
    # light path: few commands read a folder
    from finetune.formats.imagefolder import NAMES
    from finetune.formats.rows import IMAGE_SUFFIXES

    return path.suffix.lower() in (*_READ_SUFFIXES, *IMAGE_SUFFIXES) or path.name in NAMES
