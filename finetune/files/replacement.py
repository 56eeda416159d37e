"""A folder that is built beside its place and renamed into it, so that a full disk or a kill leaves
the older one whole. What may be replaced says `finetune.files.ownership`. Imports without torch.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import UsageError
from finetune.files.ownership import FolderKind, check_replaceable, claim, look, remove, seal


@contextmanager
def built_aside(out: Path, kind: FolderKind, what: str, *, yes: bool = False) -> Iterator[Path]:
    """Give an empty folder, which takes the place of `out` where the block ends without an error.

    Args:
        out: May be there already, as a folder of this kind.
        kind: What is built.
        what: How the user named it: "--out encoder".
        yes: Whether a folder without mark counts as ours by the names of its files.

    Raises UsageError where something that is not ours would be lost, and OSError; `out` is then as
    it was.
    """
    out = out.resolve()  # a link to a folder stays a link
    finish_replacement(out, kind, yes=yes)
    if out.exists():
        check_replaceable(out, kind, what, yes=yes)
    partial = sibling(out, "partial")
    _clear(partial, kind, yes=yes)
    partial.mkdir(parents=True)
    try:
        claim(partial, kind)
        yield partial
        seal(partial, kind)
        _replace(partial, out, kind, what, yes=yes)
    finally:
        # This process made it, and nobody else writes there.
        shutil.rmtree(partial, ignore_errors=True)


def finish_replacement(out: Path, kind: FolderKind, *, yes: bool = False) -> None:
    """Put right what a kill between the two renames of a replacement left behind.

    Raises UsageError where something that is not ours lies there.
    """
    old = sibling(out, "old")
    if old.is_dir() and not out.exists() and not look(old, kind).others:
        old.rename(out)
    _clear(old, kind, yes=yes)


def sibling(out: Path, role: str) -> Path:
    """Return the hidden folder beside `out` in which a new one is built, or an old one waits."""
    return out.with_name(f".{out.name}.{role}")


def _clear(folder: Path, kind: FolderKind, *, yes: bool) -> None:
    """Remove a folder that a killed replacement left."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(f"{folder}: is where a folder is put aside, but is none; move it away")
    held = check_replaceable(folder, kind, f"{folder}, where a folder is put aside", yes=yes)
    remove(folder, held.ours)


def _replace(partial: Path, out: Path, kind: FolderKind, what: str, *, yes: bool) -> None:
    if not out.exists():
        partial.rename(out)
        return
    # Again: hours may have passed since it was looked at first.
    held = check_replaceable(out, kind, what, yes=yes)
    old = sibling(out, "old")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    remove(old, held.ours)
