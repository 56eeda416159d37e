"""What a command reads: no report, sheet or plot of its own may be written there."""

import os
from collections.abc import Iterable
from pathlib import Path

from finetune.encoder_folder import DESCRIPTION_FILE
from finetune.errors import ManifestError, UsageError
from finetune.files.outputs import IsOurs, is_sealed
from finetune.files.ownership import read_mark
from finetune.frames import FrameManifest, ManifestPath
from finetune.images.contact_sheet import check_form
from finetune.near_names import did_you_mean

Inputs = Iterable[str | os.PathLike[str] | None]

# What a folder of images reads beside images.
_READ_SUFFIXES = (".txt", ".tar")


# Of a pattern of tar shards: "shards/{000..012}.tar".
PATTERN_SIGNS = "{*?["


def check_exists(manifest: ManifestPath) -> None:
    """Raise ManifestError where there is neither such a file nor such a folder."""
    if isinstance(manifest, FrameManifest) or any(sign in str(manifest) for sign in PATTERN_SIGNS):
        return
    if not Path(manifest).expanduser().exists():
        raise ManifestError(nothing_there(manifest))


def nothing_there(path: str | os.PathLike[str]) -> str:
    """Return the sentence that nothing is at a path, with a name beside it that may be meant."""
    return f"{path}: there is no such file or folder{did_you_mean(path)}"


def check_output(path: Path, what: str, is_ours: IsOurs, inputs: Inputs = ()) -> None:
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
    if not path.exists() and path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise UsageError(f"{what}: nothing can be written to {path.parent}; name another place")
    # A device (/dev/null, /dev/stdout) holds nothing that could be lost.
    if path.is_file() and path.stat().st_size and not is_ours(path):
        raise UsageError(
            f"{what}: there is a file that clipsearch did not write, or that was changed since;"
            f" name another one, or move it away"
        )


def check_no_input(path: Path, what: str, inputs: Inputs) -> None:
    """Raise UsageError where `path` is one of the files and folders that the same command reads."""
    for each in inputs:
        if each is not None and is_same_place(path, Path(each)):
            raise UsageError(f"{what}: is {each}, which is read here; name another place")


def is_same_place(one: Path, other: Path) -> bool:
    """Return whether two paths are one file or folder: through links, `..`, or letters' case.

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


def _would_be_read(path: Path, folder: Path) -> bool:
    """Return whether the folder, a manifest's or an encoder's, would take the file for its own."""
    if not path.resolve().is_relative_to(folder.resolve()):
        return False
    if (folder / DESCRIPTION_FILE).is_file() or read_mark(folder) is not None:
        return True
    # light path: few commands read a folder
    from finetune.manifest.formats.imagefolder import NAMES
    from finetune.manifest.formats.row import IMAGE_SUFFIXES

    return path.suffix.lower() in (*_READ_SUFFIXES, *IMAGE_SUFFIXES) or path.name in NAMES


def check_sheet(path: Path, cells: int = 1, *, inputs: Inputs = (), what: str = "--sheet") -> None:
    """Raise UsageError unless a sheet of so many cells can be written to `path`.

    `inputs`: what the command reads. Only an older sheet that nobody changed is replaced.
    """
    check_form(path, cells)
    check_output(path, f"{what} {path}", is_sealed, inputs)
