"""The image files that the service gives: of indexed documents, below the folders that it knows.

No path of a request reaches the disk: the index says which path a document has, and what that
leads to, symbolic links followed, must lie below one of the known folders.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ExifTags, Image

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.search.images import ImageFolders
from clipsearch.server.problems import RefusedError
from finetune.images.source import ImageSource

_SIZES_REMEMBERED = 100_000
_SIDEWAYS = range(5, 9)
# What browsers show. Anything else is given as bytes to be saved.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
UNKNOWN_MEDIA_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image on the disk, as it was when it was looked at.

    Attributes:
        source: Where its bytes lie.
        stamp: Changes with the file.
        modified: Seconds since 1970.
    """

    source: ImageSource
    stamp: str
    modified: float


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Of an image file: its size upright, in pixels, and its media type."""

    width: int
    height: int
    media_type: str


class ImageFiles:
    """Finds the images of documents. Safe between threads."""

    def __init__(self, info: Callable[[], IndexInfo], folders: tuple[Path, ...]) -> None:
        """`folders` are known beside the one that `info` says the index was fed from."""
        self._info = info
        self._given = folders
        self._shape = lru_cache(maxsize=_SIZES_REMEMBERED)(_shape_of)
        self._known: tuple[str | None, list[ImageFolders], list[Path]] | None = None

    def find(self, document: Document) -> ImageFile | None:
        """Return where the image lies; None where it is not here, or below no known folder."""
        places, roots = self._places()
        if not document.path:
            return None
        for folders in places:
            source = folders.source(document.path)
            if source is None:
                continue
            path = Path(os.path.realpath(source.path))
            if not any(path.is_relative_to(root) for root in roots):
                continue
            try:
                found = path.stat()
            except OSError:
                continue
            stamp = f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{source.offset}"
            return ImageFile(ImageSource(path, source.offset, source.size), stamp, found.st_mtime)
        return None

    def existing(self, document: Document) -> ImageFile:
        """Return where the image lies. Raises RefusedError (404) where `find` finds none."""
        found = self.find(document)
        if found is None:
            raise RefusedError(
                404,
                f"the image of {document.id} ({document.path or 'without a path'}) is not below a"
                f" folder that this service knows; start it with --images FOLDER",
            )
        return found

    def shape(self, file: ImageFile) -> ImageShape | None:
        """Return size and media type by the file's head; None where it is no image."""
        return self._shape(file.source, file.stamp)

    def _places(self) -> tuple[list[ImageFolders], list[Path]]:
        info = self._info()
        known = self._known
        if known is None or known[0] != info.images_root:
            roots = [*self._given]
            if info.images_root is not None:
                roots.append(Path(info.images_root))
            places = [ImageFolders(info, folder) for folder in self._given or (None,)]
            known = (info.images_root, places, [Path(os.path.realpath(root)) for root in roots])
            self._known = known
        return known[1], known[2]


def _shape_of(source: ImageSource, stamp: str) -> ImageShape | None:
    """Read the head of a file, whose stamp is there so that another file is read again."""
    try:
        with source.open() as file, Image.open(file) as image:
            width, height = image.size
            media_type = MEDIA_TYPES.get(image.format or "", UNKNOWN_MEDIA_TYPE)
            turned = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
    except Exception:  # Pillow raises nearly anything for a broken head
        return None
    return (
        ImageShape(height, width, media_type) if turned else ImageShape(width, height, media_type)
    )
