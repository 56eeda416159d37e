"""Lines of a text file, decoded one by one so that a line that is no UTF-8 spoils no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from finetune.errors import ManifestError
from finetune.files.regular_files import open_regular
from finetune.manifest.problems import Problems

# A file with a hole in it (sparse) has a line of the hole's length.
MAX_LINE_BYTES = 64 << 20

UTF8_BOM = b"\xef\xbb\xbf"


class DecodedLines:
    """Iterates the lines of a file as text, each with its line end, without a byte order mark.

    Raises ManifestError for a line of more than MAX_LINE_BYTES.

    Attributes:
        number: Lines given so far: the number of the last one.
        pending: The lines given since `clear`, in bytes.
        undecodable: The number of the first line since `clear` that is no UTF-8; 0 for none.
    """

    def __init__(self, file: BinaryIO, name: str = "the file") -> None:
        self.number = 0
        self._name = name
        self.pending: list[bytes] = []
        self.undecodable = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ManifestError(
                    f"{self._name}: line {self.number:,} is longer than the limit of"
                    f" {MAX_LINE_BYTES >> 20} MiB; it may be damaged"
                )
            if self.number == 1:
                line = line.removeprefix(UTF8_BOM)
            self.pending.append(line)
            try:
                yield line.decode()
            except UnicodeDecodeError:
                self.undecodable = self.undecodable or self.number
                yield line.decode(errors="replace")

    def clear(self) -> None:
        """Forget the lines given so far: their row is done."""
        self.pending.clear()
        self.undecodable = 0


@contextmanager
def open_lines(path: Path) -> Iterator[DecodedLines]:
    """Open a file for its decoded lines."""
    with open_regular(path) as file:
        yield DecodedLines(file, str(path))


def report_not_utf8(problems: Problems, where: str) -> None:
    """Report a row that is no UTF-8."""
    problems.add(
        "not utf-8", where, "the row is not UTF-8 and was left out; save the file as UTF-8"
    )


def first_lines(head: bytes, count: int = 20) -> list[str]:
    """Return the first whole lines of a file's head that are not blank, those that are UTF-8."""
    lines = head.removeprefix(UTF8_BOM).splitlines()
    if len(lines) > 1 and not head.endswith((b"\n", b"\r")):
        lines.pop()
    decoded = []
    for line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError:
            continue
        if text.strip():
            decoded.append(text)
        if len(decoded) == count:
            break
    return decoded
