"""Thumbnails: WebP, made once, kept in the user's cache, of which no more than a share is taken."""

import hashlib
import io
import os
import threading
from pathlib import Path

from clipsearch.server.image_files import ImageFile
from clipsearch.server.metrics import Metrics
from finetune.files.atomic import replace_file
from finetune.images.open import open_image

# A width that is asked for becomes the next of these, so that few are made of an image.
WIDTHS = (96, 160, 240, 320, 480, 640, 960, 1280)
_QUALITY = 80
# How far the cache is emptied when it is full, so that this is rarely done.
_LEFT_SHARE = 0.8
_MADE_AT_ONCE = 2
_SUFFIX = ".webp"


class Thumbnails:
    """A folder of thumbnails. Safe between threads, and processes that share the folder."""

    def __init__(self, folder: Path, most_bytes: int, metrics: Metrics) -> None:
        """`folder` is made at the first thumbnail."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._turn = threading.BoundedSemaphore(_MADE_AT_ONCE)
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def get(self, file: ImageFile, width: int) -> bytes:
        """Return the image as WebP, upright, at most as wide as asked and never enlarged.

        Raises ImageError where it cannot be read.
        """
        path = self._path(file, width)
        try:
            found = path.read_bytes()
            os.utime(path)  # the least recently used go first
        except OSError:
            found = b""
        self._metrics.cached("thumbnail", hit=bool(found))
        if found:
            return found
        with self._turn, self._metrics.stage("thumbnail"):
            made = make_thumbnail(file, width)
        self._keep(path, made)
        return made

    def _path(self, file: ImageFile, width: int) -> Path:
        name = hashlib.sha256(
            f"{file.source}|{file.stamp}|{width}".encode(errors="surrogateescape")
        )
        digest = name.hexdigest()
        return self._folder / digest[:2] / f"{digest[2:]}{_SUFFIX}"

    def _keep(self, path: Path, made: bytes) -> None:
        """Keep a thumbnail. Where the disk refuses, it is made again the next time."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, [made])
            with self._lock:
                self._bytes = self._counted() if self._bytes is None else self._bytes + len(made)
                if self._bytes > self._most_bytes:
                    self._bytes = self._emptied()
        except OSError:
            return

    def _counted(self) -> int:
        return sum(size for _, size, _ in self._held())

    def _emptied(self) -> int:
        """Remove the least recently used until there is room; the bytes that are left."""
        held = sorted(self._held())
        left = sum(size for _, size, _ in held)
        for _, size, path in held:
            if left <= _LEFT_SHARE * self._most_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    def _held(self) -> list[tuple[float, int, Path]]:
        """List thumbnails as (last use, bytes, path)."""
        found = []
        for path in self._folder.glob(f"??/*{_SUFFIX}"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process empties it too
                continue
            found.append((stat.st_mtime, stat.st_size, path))
        return found


def width_of(asked: int) -> int:
    """Return the width of WIDTHS that a thumbnail of this width is made in."""
    return next((width for width in WIDTHS if width >= asked), WIDTHS[-1])


def make_thumbnail(file: ImageFile, width: int) -> bytes:
    """Return the image as WebP, at most `width` wide and twice as high. Raises ImageError."""
    image = open_image(file.source, draft_size=(width, 1))
    image.thumbnail((width, 2 * width), reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()
