"""What an embedding is made from, and how to tell that it is the same without reading it."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from clipsearch.documents import Embedding
from finetune.errors import ImageError
from finetune.images.source import ImageSource, read_bytes
from finetune.manifest.manifest import Record

# place@offset size mtime ctime inode; an earlier version wrote no more than the first three.
_STAMP = re.compile(r"(?s)(?P<path>.*)@(?P<offset>\d+) (?P<size>\d+) (?P<time>\d+)(?: \d+ \d+)?")


def stamp_of(image: ImageSource) -> str:
    """Return place, size, times and inode of the image's bytes.

    Empty where they cannot be looked at.

    While the stamp is the same, the bytes are. The time of change (ctime) moves with every write
    and cannot be set back, as `exiftool -P` does with the time of modification; the inode tells
    that another file was put in the place. What differs is hashed, so a stamp may differ for
    nothing (a copied tree, a `chmod`), at the price of reading the file once.
    """
    try:
        status = image.path.stat()
    except OSError:
        return ""
    place = f"{image.path.absolute().as_posix()}@{image.offset or 0}"
    size = status.st_size if image.size is None else image.size
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{place} {size} {times} {status.st_ino}"


def place_of_stamp(stamp: str) -> tuple[Path, int] | None:
    """Return the file and the offset in it that a stamp is about; None for an empty one."""
    found = _STAMP.fullmatch(stamp)
    return None if found is None else (Path(found["path"]), int(found["offset"]))


def size_of_stamp(stamp: str) -> int:
    """Return the bytes of the image, 0 for an empty stamp."""
    found = _STAMP.fullmatch(stamp)
    return 0 if found is None else int(found["size"])


def content_of(record: Record, *, encoded: bool) -> str | None:
    """Return the sha256, in hex, of what the record's embedding is made from.

    None where it has nothing.

    Args:
        record: Of the manifest.
        encoded: Whether that is the image's bytes, or else the ready-made vector.
    """
    if not encoded:
        if record.embedding is None or record.embedding_sha256 is not None:
            return record.embedding_sha256
        return content_of_vector(record.embedding)
    return None if record.image is None else content_of_image(record.image)


def content_of_image(image: ImageSource) -> str | None:
    """Return the sha256, in hex, of the image's bytes; None where they cannot be read."""
    try:
        return hashlib.sha256(read_bytes(image)).hexdigest()
    except ImageError:
        return None


def content_of_vector(embedding: Embedding) -> str:
    """Return the sha256, in hex, of a ready-made vector as the manifest gives it."""
    return hashlib.sha256(np.ascontiguousarray(embedding).tobytes()).hexdigest()


def resolved(path: Path) -> str:
    """Return the path without symbolic links, with `/`, whether it exists or not."""
    return Path(os.path.realpath(path)).as_posix()
