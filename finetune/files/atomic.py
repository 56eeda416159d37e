"""The one way to write files that a kill or a full disk leaves whole. Imports without torch."""

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` where the block ends without error.

    It is flushed to the disk, with its folder, so that after a power cut too `path` holds its old
    content or the new.

    Args:
        path: May be there already.
        temporary: The file's name until then; what lies there is overwritten. None takes one that
            nobody else has: several processes may replace `path` at once. It does not outlive a
            failure, but may outlive a kill.

    Raises OSError.
    """
    mode: Literal["wb", "xb"] = "wb"
    if temporary is None:
        mode = "xb"
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.clipsearch-partial")
    try:
        with temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 such that `path` holds either its old text or the new, whatever happens.

    Raises OSError.
    """
    with replacing(path, path.with_name(path.name + PARTIAL)) as file:
        file.write(text.encode())


def replace_file(path: Path, parts: Iterable[bytes]) -> None:
    """Write bytes such that `path` holds its old content or the new, whatever happens.

    The new content is written beside it, under a name that nobody else has. Raises OSError.
    """
    with replacing(path) as file:
        file.writelines(parts)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
