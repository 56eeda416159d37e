"""A folder of images, without a manifest; captions may lie beside them as `name.txt`.

What looks like an image and is not taken, and what cannot be looked into, is a problem that names
it; an image without a text file beside it is a note, since most folders have few or none.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.files.regular_files import NotRegularError, open_regular, read_regular
from finetune.images.formats import HEAD_BYTES, is_never_read, suffix_of_content, why_not_read
from finetune.manifest.formats.row import IMAGE_SUFFIXES, Row
from finetune.manifest.formats.text_lines import report_not_utf8
from finetune.manifest.problems import LEFT_OUT, Problems
from finetune.manifest.splits import split_of_word
from finetune.text.composed import composed

TEXT_SUFFIX = ".txt"
MAX_TEXT_BYTES = 16 << 20

_ORPHAN = "text without picture"
_NOT_READ = "format not read"
# Of these nothing is missed, so that they are notes.
_NOTES = frozenset({_ORPHAN, _NOT_READ, LEFT_OUT})
_LINKED = "is a link to a folder and was not followed; name that folder itself, or copy it here"


def nothing(path: str) -> bool:
    """Return False: no path is left out."""
    return False


@dataclass(frozen=True)
class ImageFolder:
    """A folder with images in it or below it.

    Attributes:
        has_texts: Whether any image has a text file of its name beside it.
        leaves_out: Whether a path below it, of a folder with a `/` at its end, is left out.
    """

    root: Path
    has_texts: bool
    leaves_out: Callable[[str], bool] = nothing
    format: str = "folder"
    # What has no caption is told here, since it depends on whether there is a text file.
    captioned: bool = False
    suffixes: tuple[str, ...] = ("",)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the images by folder and name; one below `train/`, `val/` … has that split.

        A line of an image's text file is a caption. Hidden files and folders are left alone.
        The names of one folder at a time are held in memory.
        """
        number = -1
        for found in _walk(self.root, self.leaves_out):
            if isinstance(found, NotTaken):
                if found.kind in _NOTES:
                    problems.note(found.kind, found.path, found.reason)
                else:
                    problems.add(found.kind, found.path, found.reason, found.hides)
                continue
            number += 1
            image = found.path
            try:
                image.encode()
            except UnicodeEncodeError:
                reason = "the file's name is not UTF-8; rename it"
                problems.add("not utf-8", image, reason, hides=image)
                continue
            first, slash, _ = image.partition("/")
            split = first if slash and split_of_word(first) else None
            yield Row(number, image, 1, image, self._captions(found, problems), split=split)

    def _captions(self, found: "_Found", problems: Problems) -> tuple[str, ...]:
        image = found.path
        if found.text is None:
            if self.has_texts:
                problems.note("no caption", image, f"no {TEXT_SUFFIX} file of its name beside it")
            return ()
        where = image.rpartition("/")[0]
        text = f"{where}/{found.text}" if where else found.text
        try:
            content = read_regular(self.root / text, MAX_TEXT_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError:
            report_not_utf8(problems, text)
            return ()
        except OSError as error:
            problems.add(
                "unreadable captions", text, f"{image}: its captions' file {_reason(error)}"
            )
            return ()
        captions = tuple(caption for line in content.splitlines() if (caption := line.strip()))
        if not captions:
            problems.add("empty caption", text, f"{image}: no caption")
        return captions


@dataclass(frozen=True, slots=True)
class NotTaken:
    """What looks like an image, or may hold some, and is passed over.

    Attributes:
        kind: "picture not taken", "linked folder", "unreadable folder", or what is no problem:
            "text without picture", "left out", and "format not read" of a file without captions.
        path: Relative to the folder that is read.
        reason: Why, and the mend.
    """

    kind: str
    path: str
    reason: str

    @property
    def hides(self) -> str | None:
        """Of which records, as in `finetune.manifest.problems.Problem`."""
        if self.kind == "picture not taken":
            return composed(self.path)
        is_below = self.path != "." and not os.path.isabs(self.path)  # noqa: PTH117
        return composed(self.path) + "/" if is_below else None


@dataclass(frozen=True, slots=True)
class _Found:
    path: str
    text: str | None


def recognise(root: Path) -> ImageFolder | None:
    """Return the folder; None where no image is in it or below it."""
    any_image = False
    for found in _walk(root, looks_closely=False):
        if isinstance(found, _Found):
            any_image = True
            if found.text is not None:
                return ImageFolder(root, has_texts=True)
    return ImageFolder(root, has_texts=False) if any_image else None


def first_not_taken(root: Path) -> NotTaken | None:
    """Return the first image of a folder without images that is passed over."""
    for found in _walk(root):
        if isinstance(found, NotTaken) and found.kind != _ORPHAN:
            return found
    return None


def _walk(
    root: Path, leaves_out: Callable[[str], bool] = nothing, *, looks_closely: bool = True
) -> Iterator[_Found | NotTaken]:
    """Yield images in order, and what is passed over.

    Files of other suffixes are opened only where it `looks_closely`.
    """
    unreadable: list[OSError] = []
    # os.walk goes on behind a folder that it cannot read, and does not follow links.
    for folder, subfolders, names in os.walk(root, onerror=unreadable.append):
        yield from _unreadable_folders(root, unreadable)
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else below + "/"
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        stems: set[str] = set()
        if leaves_out is not nothing:
            yield from _left_out(prefix, subfolders, "/", leaves_out)
            for each in _left_out(prefix, names, "", leaves_out):
                stem, suffix = os.path.splitext(each.path[len(prefix) :])  # noqa: PTH122
                # Its text stays beside it.
                if suffix.lower() != TEXT_SUFFIX:
                    stems.add(composed(stem))
                yield each
        for name in subfolders:
            if os.path.islink(os.path.join(folder, name)):  # noqa: PTH114, PTH118
                yield NotTaken("linked folder", prefix + name, _LINKED)
        texts = _texts(names)
        for name in sorted(names):
            if name.startswith("."):
                continue
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path a file is slow
            stem, suffix = composed(stem), suffix.lower()
            if suffix != TEXT_SUFFIX:
                stems.add(stem)
            if suffix in IMAGE_SUFFIXES:
                yield _Found(prefix + name, texts.get(stem))
            elif suffix != TEXT_SUFFIX and looks_closely:
                reason = why_not_read(suffix) or _why_not_taken(Path(folder, name))
                if reason is not None:
                    is_note = is_never_read(suffix) and stem not in texts
                    kind = _NOT_READ if is_note else "picture not taken"
                    yield NotTaken(kind, prefix + name, reason)
        for stem, name in texts.items():
            if stem not in stems and not name.startswith("."):
                yield NotTaken(_ORPHAN, prefix + name, "no picture of its name beside it")
    yield from _unreadable_folders(root, unreadable)


def _left_out(
    prefix: str, names: list[str], end: str, leaves_out: Callable[[str], bool]
) -> Iterator[NotTaken]:
    """Take out of `names` what is left out, and yield it."""
    found = {each for each in names if each[0] != "." and leaves_out(f"{prefix}{each}{end}")}
    names[:] = [name for name in names if name not in found]
    for name in sorted(found):
        yield NotTaken(LEFT_OUT, f"{prefix}{name}{end}", "left out by --exclude")


def _texts(names: list[str]) -> dict[str, str]:
    """Return the text file of each stem, composed.

    One in capitals counts where there is no other.
    """
    texts: dict[str, str] = {}
    for name in sorted(names):
        # In this order ".txt" comes last and stays.
        if name[-len(TEXT_SUFFIX) :].lower() == TEXT_SUFFIX:
            texts[composed(name[: -len(TEXT_SUFFIX)])] = name
    return texts


def _why_not_taken(path: Path) -> str | None:
    """Return why a file is passed over that has an image's content, but not its suffix."""
    try:
        with open_regular(path) as file:
            suffix = suffix_of_content(file.read(HEAD_BYTES))
    except OSError as error:
        return _reason(error)
    if suffix is None:
        return None
    if (reason := why_not_read(suffix)) is not None:
        return reason
    return f"is a picture by its content, not by its name; give it the suffix {suffix}"


def _reason(error: OSError) -> str:
    if isinstance(error, NotRegularError):
        return str(error.strerror)
    return f"cannot be read ({error.strerror or error})"


def _unreadable_folders(root: Path, errors: list[OSError]) -> Iterator[NotTaken]:
    for error in errors:
        path = Path(os.fsdecode(error.filename or root))
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        reason = f"cannot be looked into ({error.strerror or error}); make it readable"
        yield NotTaken("unreadable folder", name, reason)
    errors.clear()
