"""Images that are no longer where an index was fed from: said once of what is shown."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from clipsearch.engine import IndexInfo
from clipsearch.search.images import ImageFolders


def about_missing(paths: Iterable[str], info: IndexInfo, images: Sequence[Path] = ()) -> str | None:
    """Return a sentence where images of documents are not found; only these are looked for.

    None also for an index of ready-made vectors of no known encoder, whose images nobody has
    looked at.

    Args:
        paths: As the documents have them.
        info: Of the index.
        images: Folders of the images; none takes where the index was fed from.
    """
    if info.encoder_fingerprint is None:
        return None
    folders = [ImageFolders(info, each) for each in images or (None,)]
    looked_for = [path for path in paths if path]
    missing = [path for path in looked_for if not any(each.has(path) for each in folders)]
    if not missing:
        return None
    named = f"such as {missing[0]}" if len(looked_for) > 1 else missing[0]
    verb = "is" if len(missing) == 1 else "are"
    root = "" if info.images_root is None else f" (fed from {info.images_root})"
    return (
        f"{len(missing):,} of these {len(looked_for):,} pictures {verb} not found, {named}{root}:"
        f" --images FOLDER says where they lie now"
    )
