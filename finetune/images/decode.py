"""One image's pixels, or the reason why there are none. Imports Pillow and numpy only."""

import hashlib
from dataclasses import dataclass

from finetune.arrays import Pixels
from finetune.errors import ImageError
from finetune.images.pixels import load_image
from finetune.images.preprocessing import Preprocessing
from finetune.images.random_crop import RandomCrop
from finetune.images.source import ImageSource, read_bytes


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image that was read, or the reason why it was not.

    Attributes:
        pixels: uint8[height, width, 3]; None where the image cannot be read.
        error: One sentence that names the file; None where it was read.
        sha256: Of the file's bytes, in hex; None where the file itself cannot be read.
        note: What a user should know of how it was read; None for most.
    """

    pixels: Pixels | None
    error: str | None
    sha256: str | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class CroppedSource:
    """An image of which a part is wanted; where `crop` is None, what the tower sees of it."""

    source: ImageSource
    crop: RandomCrop | None

    def __str__(self) -> str:
        return str(self.source)


def decode(wanted: ImageSource | CroppedSource, preprocessing: Preprocessing) -> Decoded:
    """Read and decode one image. Never raises for an image that cannot be read."""
    if not isinstance(wanted, CroppedSource):
        wanted = CroppedSource(wanted, None)
    sha256 = None
    try:
        data = read_bytes(wanted.source)
        sha256 = hashlib.sha256(data).hexdigest()
        pixels, note = load_image(data, preprocessing, name=str(wanted), crop=wanted.crop)
        return Decoded(pixels, None, sha256, note)
    except ImageError as error:
        return Decoded(None, str(error), sha256)
