"""Texts that a kill or a full disk leaves whole. Imports without torch."""

import os
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 such that `path` holds either its old text or the new, whatever happens.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
