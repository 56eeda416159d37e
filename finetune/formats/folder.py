"""A folder of images, without a manifest; captions may lie beside them as `name.txt`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.formats.lines import report_not_utf8
from finetune.formats.rows import IMAGE_SUFFIXES, Row
from finetune.problems import Problems
from finetune.splits import split_of_word


@dataclass(frozen=True)
class ImageFolder:
    """A folder with images in it or below it.

    Attributes:
        captioned: Whether any image has a text file of its name beside it.
    """

    root: Path
    captioned: bool
    format: str = "folder"
    suffixes: tuple[str, ...] = ("",)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the images by folder and name; one below `train/`, `val/` … has that split.

        A line of an image's text file is a caption. Hidden files and folders are left alone.
        The names of one folder at a time are held in memory.
        """
        for number, (folder, name, has_text) in enumerate(_images(self.root)):
            image = f"{folder}/{name}" if folder else name
            try:
                image.encode()
            except UnicodeEncodeError:
                problems.add("not utf-8", image, "the file's name is not UTF-8; rename it")
                continue
            captions: tuple[str, ...] = ()
            if has_text:
                captions = self._captions(image, problems)
            first, slash, _ = image.partition("/")
            split = first if slash and split_of_word(first) else None
            yield Row(number, image, 1, image, captions, split=split)

    def _captions(self, image: str, problems: Problems) -> tuple[str, ...]:
        text_file = (self.root / image).with_suffix(".txt")
        try:
            lines = text_file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            report_not_utf8(problems, text_file.relative_to(self.root).as_posix())
            return ()
        return tuple(text for line in lines if (text := line.strip()))


def recognise(root: Path) -> ImageFolder | None:
    """The folder; None where no image is in it or below it."""
    any_image = False
    for _, _, has_text in _images(root):
        any_image = True
        if has_text:
            return ImageFolder(root, captioned=True)
    return ImageFolder(root, captioned=False) if any_image else None


def _images(root: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield (folder with `/`, file name, whether it has a text file) in order."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root).as_posix()
        texts = {name[:-4] for name in names if name.endswith(".txt")}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path a file is slow
            if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield "" if relative == "." else relative, name, stem in texts
