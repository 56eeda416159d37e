"""Members of a tar shard, without trust in the sizes that its headers state.

A shard of 5 KB may state a member of 6 GB, as a hole (sparse), or as a header that is never there.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from finetune.files.bounded_json import MAX_BYTES
from finetune.files.regular_files import open_regular

SPARSE = "is stored sparse, so that its bytes are not in the shard; pack it without --sparse"


@contextmanager
def open_shard(shard: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar that is not compressed.

    Raises OSError (no regular file, too) and tarfile.TarError.
    """
    with open_regular(shard) as file:
        clamped: Any = _Clamped(file)
        with tarfile.open(fileobj=clamped, mode="r:") as tar:
            yield tar


def regular_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are files, hidden ones left out; none is kept in memory.

    Raises tarfile.TarError where a header is damaged.
    """
    place = -1
    while (member := _next(tar)) is not None:
        # The module keeps every member that it has seen.
        tar.members.clear()  # type: ignore[attr-defined]
        if member.size < 0 or member.offset_data <= place:
            raise tarfile.ReadError(f"{member.name}: its header states a size of {member.size}")
        place = member.offset_data
        if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
            yield member


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a text or JSON.

    Raises:
        ValueError: it is sparse or too large, with the reason.
    """
    if member.issparse():
        raise ValueError(f"{member.name}: {SPARSE}")
    if member.size > MAX_BYTES:
        raise ValueError(
            f"{member.name}: has {member.size / 2**20:,.0f} MiB, above the limit of"
            f" {MAX_BYTES >> 20} MiB"
        )
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (ValueError, OverflowError, IndexError) as error:
        # Numbers and maps of holes that cannot be read.
        raise tarfile.ReadError(f"a header cannot be read ({error})") from error


class _Clamped:
    """A file that allots no more memory than it has bytes, whatever is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise tarfile.ReadError(f"a header states a size of {size}")
        return self._file.read(max(0, min(size, self._size - self._file.tell())))

    def seek(self, place: int, whence: int = 0) -> int:
        if place < 0 and whence == 0:
            raise tarfile.ReadError("a header states a negative size")
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()
