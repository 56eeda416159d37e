"""Where an image's bytes lie: a file, or a member of a tar file."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finetune.errors import ImageError
from finetune.files.regular_files import NotRegularError, open_regular

# Refused before anything of it is read.
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where the bytes of an image lie: a file, or a part of a tar shard.

    Attributes:
        path: The image's file, or the tar shard.
        offset, size: Of the image within the shard, in bytes; None for a file of its own.
    """

    path: Path
    offset: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.offset is None else f"{self.path} (at byte {self.offset})"

    def open(self) -> BinaryIO:
        """Return the image's bytes as a file that ends where the image ends. Raises as `read`."""
        return open_regular(self.path) if self.offset is None else io.BytesIO(self.read())

    def read(self) -> bytes:
        """Return all bytes of the image, as many as the file has when it is opened.

        Raises OSError, also for what is no regular file; ImageError above MAX_FILE_BYTES; EOFError
        where the shard ends before.
        """
        with open_regular(self.path) as file:
            whole = os.fstat(file.fileno()).st_size
            size = whole if self.size is None else self.size
            _check_size(self, size)
            file.seek(self.offset or 0)
            data = file.read(size)
        if self.offset is not None and len(data) < size:
            raise EOFError(f"{self.path} ends within the picture at byte {self.offset}")
        return data


ImageSourceLike = ImageSource | Path | bytes | BinaryIO


def read_bytes(source: ImageSourceLike) -> bytes:
    """Return all bytes of an image's file.

    Raises ImageError where it is missing, no regular file, empty, or above MAX_FILE_BYTES.
    """
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, (ImageSource, Path)):
        data = _read_file(source if isinstance(source, ImageSource) else ImageSource(source))
    else:
        data = source.read()
    if not data:
        raise ImageError(f"{shown_name(source)}: is empty (0 bytes); replace or remove it")
    return data


def shown_name(source: ImageSourceLike) -> str:
    """Return what errors call an image: its path, or words where it has none."""
    if isinstance(source, (ImageSource, Path)):
        return str(source)
    return "the picture" if isinstance(source, bytes) else getattr(source, "name", "the picture")


def _read_file(source: ImageSource) -> bytes:
    try:
        return source.read()
    except FileNotFoundError:
        raise ImageError(f"{source}: no such file") from None
    except NotRegularError as error:
        raise ImageError(f"{source}: {error.strerror}") from None
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{source}: cannot be read ({reason})") from error


def _check_size(source: ImageSource, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{source}: has {size / 2**30:.1f} GiB, above the limit of"
            f" {MAX_FILE_BYTES >> 30} GiB; scale it down"
        )
