"""A closer look at a manifest's images: sizes, unreadable ones, and equal content."""

import hashlib
import os
import sqlite3
import warnings
from array import array
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.console import Progress
from finetune.errors import ImageError
from finetune.images.formats import FORMATS
from finetune.images.open import decode_image
from finetune.images.sample_depth import is_deep
from finetune.images.source import ImageSource
from finetune.manifest.cut_captions import CaptionTokenizer, CutCaptionCounter, CutCaptions
from finetune.manifest.manifest import Manifest, Record
from finetune.manifest.problems import OWN_RANGE

# Images with that many captions or more are counted together.
MOST_CAPTIONS_COUNTED = 10


@dataclass(frozen=True)
class Spread:
    """Smallest, median (the lower one of two) and largest of whole numbers."""

    minimum: int
    median: int
    maximum: int


@dataclass(frozen=True)
class ManifestSummary:
    """What `check_manifest` found.

    Attributes:
        manifest, format, root: What was read, and the folder of its relative paths.
        rows, images, captions: How many were read; images are the records.
        images_with_captions: Number of captions to number of images; 10 stands for 10 and more.
        splits: Split to number of images.
        columns: Metadata column to "number", "date" or "tag".
        dimension: Of ready-made vectors; None without any.
        width, height: Pixels of the readable images: as stored, or upright where `decoded`; None
            where no image is readable.
        unreadable: Images that cannot be opened.
        same_content: Images whose bytes are those of an earlier image.
        same_content_in_two_splits: Those whose earlier image is in another split.
        decoded: Whether images were decoded in full, or their headers read.
        problems, notes: Kind to number.
        tokens: How many captions a model cuts; None where none was named.
    """

    manifest: str
    format: str
    root: str | None
    rows: int
    images: int
    captions: int
    images_with_captions: dict[int, int]
    splits: dict[str, int]
    columns: dict[str, str]
    dimension: int | None
    width: Spread | None
    height: Spread | None
    unreadable: int
    same_content: int
    same_content_in_two_splits: int
    decoded: bool
    problems: dict[str, int]
    notes: dict[str, int]
    tokens: CutCaptions | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return asdict(self)


def check_manifest(
    manifest: Manifest,
    *,
    decode: bool = False,
    quiet: bool = False,
    tokenizer: CaptionTokenizer | None = None,
) -> ManifestSummary:
    """Open every image of a manifest and count what there is; adds to `manifest.problems`.

    Memory is 8 bytes an image and SQLite's cache. Without `decode`, headers alone are read, so
    that an image that is cut off behind its header goes unnoticed; images of more than 8 bits
    a sample are decoded, to tell whether they are stretched. Only files of equal size are
    read in full, to compare their SHA-256.
    """
    captions = 0
    caption_counts: dict[int, int] = {}
    dimension: int | None = None
    widths, heights = array("I"), array("I")
    unreadable = 0
    counter = None if tokenizer is None else CutCaptionCounter(tokenizer, manifest.problems)
    with SameContent() as same, Progress("check", len(manifest), unit="images", quiet=quiet) as bar:
        for record in manifest.records():
            if counter is not None:
                counter.add(record.id, record.captions)
            captions += len(record.captions)
            count = min(len(record.captions), MOST_CAPTIONS_COUNTED)
            caption_counts[count] = caption_counts.get(count, 0) + 1
            if record.embedding is not None:
                dimension = len(record.embedding)
            if record.image is not None:
                try:
                    size, note = _look(record.image, decode)
                    widths.append(size[0])
                    heights.append(size[1])
                    if note is not None:
                        manifest.problems.note(OWN_RANGE, record.path, note)
                    same.add(record, record.image)
                except ImageError as error:
                    unreadable += 1
                    manifest.problems.add("unreadable image", record.path, str(error))
            bar.advance()
        tokens = None if counter is None else counter.result()
        copies, across_splits = _report_same_content(manifest, same)
    return ManifestSummary(
        str(manifest.path),
        manifest.format,
        None if manifest.root is None else str(manifest.root),
        manifest.row_count,
        len(manifest),
        captions,
        dict(sorted(caption_counts.items())),
        manifest.split_counts(),
        manifest.columns(),
        dimension,
        _spread(widths),
        _spread(heights),
        unreadable,
        copies,
        across_splits,
        decode,
        dict(manifest.problems.counts),
        dict(manifest.problems.notes),
        tokens,
    )


def _report_same_content(manifest: Manifest, same: "SameContent") -> tuple[int, int]:
    copies = across_splits = 0
    for copy in same.copies():
        copies += 1
        reason = f"the same bytes as {copy.first}"
        if copy.split == copy.first_split:
            manifest.problems.note("same content", copy.id, reason)
        else:
            across_splits += 1
            reason += f", which is in {copy.first_split}; this one is in {copy.split}"
            manifest.problems.note("same content in two splits", copy.id, reason)
    return copies, across_splits


@dataclass(frozen=True)
class Copy:
    """An image and the earlier one whose bytes it repeats."""

    id: str
    split: str
    first: str
    first_split: str


class SameContent:
    """Finds images of equal bytes, on disk; a context manager."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE image (number INTEGER PRIMARY KEY, id TEXT, split TEXT,"
            " file TEXT, start INTEGER, size INTEGER);"
            "CREATE TABLE content (digest BLOB PRIMARY KEY, id TEXT, split TEXT) WITHOUT ROWID;"
            "BEGIN"
        )

    def __enter__(self) -> "SameContent":
        return self

    def __exit__(self, *exception: object) -> None:
        self._database.close()

    def add(self, record: Record, image: ImageSource) -> None:
        """Remember a readable image by its size."""
        size = os.stat(image.path).st_size if image.size is None else image.size  # noqa: PTH116
        row = (record.id, record.split, str(image.path), image.offset, size)
        self._database.execute(
            "INSERT INTO image (id, split, file, start, size) VALUES (?, ?, ?, ?, ?)", row
        )

    def copies(self) -> Iterator[Copy]:
        """Read the images whose size is not theirs alone, and yield each that repeats one."""
        with closing(self._database.cursor()) as cursor:
            cursor.execute(
                "SELECT id, split, file, start, size FROM (SELECT *, count(*) OVER"
                " (PARTITION BY size) AS equal FROM image) WHERE equal > 1 ORDER BY number"
            )
            for id, split, file, start, size in cursor:
                source = ImageSource(Path(file), start, None if start is None else size)
                try:
                    digest = hashlib.sha256(source.read()).digest()
                except (OSError, EOFError):
                    continue
                first = self._database.execute(
                    "SELECT id, split FROM content WHERE digest = ?", (digest,)
                ).fetchone()
                if first is not None:
                    yield Copy(id, split, *first)
                else:
                    self._database.execute(
                        "INSERT INTO content VALUES (?, ?, ?)", (digest, id, split)
                    )


def _look(source: ImageSource, decode: bool) -> tuple[tuple[int, int], str | None]:
    """Return width and height, and the note of `Image`. Raises ImageError with the reason."""
    if not decode:
        # Pillow's plugins raise nearly anything on damaged headers; decoding says why.
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with source.open() as file, Image.open(file, formats=FORMATS) as image:
                # Of deep images only their samples say how they are read.
                if not is_deep(image):
                    return image.size, None
    decoded = decode_image(source)
    return decoded.image.size, decoded.note


def _spread(values: "array[int]") -> Spread | None:
    if not values:
        return None
    ordered = np.sort(np.frombuffer(values, dtype=np.uint32))
    return Spread(int(ordered[0]), int(ordered[(len(ordered) - 1) // 2]), int(ordered[-1]))
