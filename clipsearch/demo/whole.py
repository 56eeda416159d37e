"""Whether a demo lies in a folder, found without torch."""

from pathlib import Path

from finetune.files.ownership import read_mark

KIND = "demo"
ENCODER, INDEX = "encoder", "pictures.index"


def is_whole(folder: Path) -> bool:
    """Return whether a demo lies in `folder` from end to end."""
    mark = read_mark(folder)
    return mark is not None and mark.kind == KIND and mark.whole
