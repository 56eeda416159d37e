"""What is ours to remove or replace: one rule for every command that writes. Imports without torch.

A folder of ours carries a mark, `.clipsearch.json`: which kind of folder it is, and each file that
we wrote with its SHA-256. Only what is on the list and unchanged is removed or replaced; anything
else is a refusal that names it. A folder of an earlier version has no mark: there, only files of
names that we write count as ours, and only where the user said so (`--yes`).

While we write into a folder its mark says that it is not whole. What a killed write left behind
there counts as ours by its name, so that the same command can finish.

What is listed and hashed:

    encoder and OpenCLIP folders, rendered packages   every file; read again before a replacement
    a finished demo                                   every file, those of its index too
    a run's training folder                           nothing, since each step changes it; the mark
                                                      and the names decide
    an index                                          what its engine says; the mark tells that we
                                                      made it

Single files (reports, contact sheets, plots) carry their mark in themselves
(`finetune.files.outputs`); databases (ledger, back-translations) are known by their tables
(`finetune.files.databases`).
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from finetune.errors import UsageError
from finetune.files import bounded_json
from finetune.files.atomic import replace_file

MARK_FILE = ".clipsearch.json"
FORMAT = 1
MOST_NAMED = 5
# The name of a file while it is written, beside its own.
_PARTIAL = re.compile(r"\.[0-9a-f]{8}\.clipsearch-partial$")
CHANGED = "was changed since clipsearch wrote it"
FOREIGN = "was not written by clipsearch"
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FolderKind:
    """A kind of folder that we write.

    Attributes:
        name: For people: "encoder folder".
        names: Patterns of the files in it, relative, with `/`; `*` stays within one part, and a
            pattern that ends in `/` stands for all below.
    """

    name: str
    names: tuple[str, ...]

    def writes(self, path: str) -> bool:
        """Return whether a file of this relative path may be ours."""
        path = _PARTIAL.sub("", path)
        return any(
            path.startswith(name) if name.endswith("/") else _matches(path, name)
            for name in self.names
        )

    def has_folder(self, path: str) -> bool:
        """Return whether a folder of this relative path may be ours."""
        depth = path.count("/") + 1
        parents = (name.split("/")[:depth] for name in self.names if name.count("/") >= depth)
        return any(_matches(path, "/".join(parent)) for parent in parents)

    def below(self, folder: str) -> tuple[str, ...]:
        """Return the kind's names where it is a part of another folder."""
        return tuple(f"{folder}/{name}" for name in (*self.names, MARK_FILE))


@dataclass(frozen=True, slots=True)
class Mark:
    """What `.clipsearch.json` says.

    Attributes:
        kind: Name of the kind.
        files: Relative path to the SHA-256 that make a file ours; two while it is replaced.
        whole: False while the folder is being written. Without a list, names then decide.
    """

    kind: str
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """What lies in a folder, by whose it is.

    Attributes:
        marked: Whether the folder carries our mark, of the kind that was asked for.
        ours: Relative paths of files that we may remove; the mark itself is not among them.
        others: Relative path to the reason why it is not ours; unknown folders too.
    """

    marked: bool
    ours: tuple[str, ...]
    others: Mapping[str, str]


def read_mark(folder: Path) -> Mark | None:
    """Return the folder's mark; None where it has none that can be read."""
    try:
        stored = bounded_json.read(folder / MARK_FILE)
        if stored["clipsearch"] != FORMAT:
            return None
        files = {str(path): tuple(map(str, sums)) for path, sums in stored["files"].items()}
        return Mark(str(stored["kind"]), files, bool(stored["whole"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_mark(folder: Path, mark: Mark) -> None:
    """Replace the folder's mark in one step. Raises OSError."""
    content = {
        "clipsearch": FORMAT,
        "about": f"A {mark.kind} of clipsearch, and the SHA-256 of its files: what differs from"
        " this list is never removed or replaced.",
        "kind": mark.kind,
        "whole": mark.whole,
        "files": {path: list(sums) for path, sums in sorted(mark.files.items())},
    }
    # In ASCII, since a name need not be UTF-8.
    text = json.dumps(content, indent=1) + "\n"
    replace_file(folder / MARK_FILE, [text.encode()])


def claim(folder: Path, kind: FolderKind) -> None:
    """Mark a folder, before anything else is written there, as one that we are making."""
    write_mark(folder, Mark(kind.name))


def seal(folder: Path, kind: FolderKind) -> None:
    """List all files that are there, and mark the folder as whole. Raises OSError."""
    files = {path: (sha256_of(folder / path),) for path, is_file in _walk(folder) if is_file}
    write_mark(folder, Mark(kind.name, files, whole=True))


def is_mark(name: str) -> bool:
    """Return whether a file of this name is a mark, or one that is being written."""
    return _PARTIAL.sub("", name) == MARK_FILE


def look(folder: Path, kind: FolderKind) -> Holdings:
    """Tell our files of the folder from others. Reads every listed file in full; raises OSError."""
    mark = read_mark(folder)
    marked = mark is not None and mark.kind == kind.name
    if mark is None:
        mark = Mark("")
    by_name = mark.kind == "" or not (mark.whole or mark.files)
    ours, others = [], {}
    for path, is_file in _walk(folder):
        if mark.kind not in ("", kind.name):
            others[path] = f"belongs to another kind of folder, {mark.kind}"
        elif not is_file:
            known = (folder / path).is_dir() and not (folder / path).is_symlink()
            if not (known and kind.has_folder(path)):
                others[path] = FOREIGN
        elif path in mark.files:
            if sha256_of(folder / path) in mark.files[path]:
                ours.append(path)
            else:
                others[path] = CHANGED
        elif (by_name or _PARTIAL.search(path)) and kind.writes(path):
            ours.append(path)
        else:
            others[path] = FOREIGN
    return Holdings(marked, tuple(ours), others)


def check_replaceable(folder: Path, kind: FolderKind, what: str, *, yes: bool) -> Holdings:
    """Raise UsageError unless the folder, which exists, may be replaced as a whole.

    Args:
        folder: Of this kind, by its mark or by what is in it.
        kind: What it is to be.
        what: How the user named it: "--out encoder".
        yes: Whether a folder without mark may be taken for ours, by the names of its files.
    """
    held = look(folder, kind)
    if held.others:
        raise UsageError(f"{what}: {refusal(held.others)}, or give another folder")
    if held.ours and not held.marked and not yes:
        raise UsageError(_no_list(what, held))
    return held


def refusal(others: Mapping[str, str]) -> str:
    """Return what is not ours, by name and reason, and what to do: the middle of a sentence."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in others.items():
        by_reason.setdefault(reason, []).append(path)
    parts = []
    for reason, paths in by_reason.items():
        named = ", ".join(paths[:MOST_NAMED])
        if len(paths) > MOST_NAMED:
            named += f" and {len(paths) - MOST_NAMED:,} more"
        parts.append(f"{named} {reason}")
    return f"{'; '.join(parts)}; move it away"


def remove(folder: Path, ours: Iterable[str]) -> bool:
    """Remove these files, then folders that are empty, the mark and `folder` itself last.

    Returns False where something else is still there, and then the folder and its mark are.
    """
    for path in ours:
        (folder / path).unlink(missing_ok=True)
    for path in sorted((path for path, _ in _folders(folder) if path != "."), reverse=True):
        _remove_if_empty(folder / path)
    left = list(folder.iterdir())
    if not all(is_mark(entry.name) for entry in left):
        return False
    for entry in left:
        entry.unlink(missing_ok=True)
    folder.rmdir()
    return True


def update_files(
    folder: Path,
    kind: FolderKind,
    files: Mapping[str, bytes | Path],
    *,
    what: str,
    yes: bool = False,
) -> None:
    """Write files into a folder, which is made where missing, in place of ours there.

    Files of ours that are not among `files` are removed. Others stay as they are. Killed at any
    moment, the same call finishes: until all is written, the mark lists old and new content.

    Args:
        folder: Where to.
        kind: Of the folder.
        files: Relative path to content, or to a file with the content.
        what: How the user named the folder.
        yes: See `check_replaceable`.

    Raises UsageError, before anything is written, where a file that is not ours is in the way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = look(folder, kind)
    in_the_way = {
        path: reason
        for path, reason in held.others.items()
        if reason == CHANGED or _is_in_the_way(folder, path, files)
    }
    if in_the_way:
        raise UsageError(f"{what}: {refusal(in_the_way)}, or give another folder")
    if held.ours and not held.marked and not yes:
        raise UsageError(_no_list(what, held))
    new = {path: digest_of(content) for path, content in files.items()}
    mark = read_mark(folder)
    before = (
        {path: (sha256_of(folder / path),) for path in held.ours} if mark is None else mark.files
    )
    both = {**before} | {path: (*before.get(path, ()), digest) for path, digest in new.items()}
    write_mark(folder, Mark(kind.name, both, whole=False))
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder / path, chunks(content))
    for path in held.ours:
        if path not in files:
            (folder / path).unlink(missing_ok=True)
            if "/" in path:
                _remove_if_empty((folder / path).parent)
    listed = {path: (digest,) for path, digest in new.items()}
    write_mark(folder, Mark(kind.name, listed, whole=True))
    for entry in folder.iterdir():  # what a kill left of a mark
        if is_mark(entry.name) and entry.name != MARK_FILE:
            entry.unlink()


def chunks(content: bytes | Path) -> Iterator[bytes]:
    """Yield the content in parts."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as source:
        while chunk := source.read(_READ_BYTES):
            yield chunk


def digest_of(content: bytes | Path) -> str:
    """Return the SHA-256, in hex, of content or of a file's."""
    digest = hashlib.sha256()
    for chunk in chunks(content):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and PurePosixPath(path).match(pattern)


def _no_list(what: str, held: Holdings) -> str:
    return (
        f"{what}: is of an earlier version, which kept no list of its files; add --yes to replace"
        f" its {len(held.ours)} files, all of names that clipsearch writes, or give another folder"
    )


def _is_in_the_way(folder: Path, path: str, files: Iterable[str]) -> bool:
    """Return whether what is not ours stands at the place of a file, or of the folder of one."""
    is_folder = (folder / path).is_dir() and not (folder / path).is_symlink()
    below = not is_folder and any(name.startswith(path + "/") for name in files)
    return below or path in files


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Yield everything below but marks of the folder itself: (relative path, whether a plain file).

    Folders are named where they are empty, or links.
    """
    for path, names in _folders(folder):
        prefix = "" if path == "." else path + "/"
        if not names and prefix:
            yield path, False
        for name in names:
            entry = folder / (prefix + name)
            mode = entry.lstat().st_mode
            if not stat.S_ISDIR(mode) and not (not prefix and is_mark(name)):
                yield prefix + name, stat.S_ISREG(mode)


def _folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for place, _, _ in os.walk(folder):
        relative = Path(place).relative_to(folder).as_posix()
        yield relative, sorted(os.listdir(place))  # noqa: PTH208 - names alone


def _remove_if_empty(folder: Path) -> None:
    if not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()
