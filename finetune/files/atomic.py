"""Files that a kill or a full disk leaves whole. Imports without torch."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 such that `path` holds either its old text or the new, whatever happens.

    Raises OSError.
    """
    replace_by_way_of(path.with_name(path.name + ".partial"), path, [text.encode()])


def replace_by_way_of(
    temporary: Path, path: Path, parts: Iterable[bytes], mode: Literal["wb", "xb"] = "wb"
) -> None:
    """Write to `temporary`, flush it to the disk, and rename it to `path`.

    `temporary` does not outlive a failure, but may outlive a kill. With `mode` "xb" there must be
    no such file yet. Raises OSError.
    """
    try:
        with temporary.open(mode) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
