"""One image of a contact sheet, with what is written below it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.console import Span
from finetune.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from finetune.images.source import ImageSource

THUMBNAIL = 256
MAX_ENLARGEMENT = 4.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a sheet.

    Attributes:
        image: A file, its bytes, a Pillow image, or None where there is no image to show. One
            that cannot be read becomes an empty cell that says why.
        title: A short line above the text (rank and score, say).
        text: The caption.
        spans: Characters of `text` to mark.
        missing: What an empty cell says where `image` is None.
    """

    image: "ImageSource | Path | bytes | Image | None"
    title: str
    text: str = ""
    spans: tuple[Span, ...] = ()
    missing: str = "no picture"


def thumbnail(cell: Cell, size: tuple[int, int]) -> "Image | str":
    """Return the cell's image as large as fits `size` (width, height), at most enlarged four times.

    A string is the reason why there is none.
    """
    from PIL.Image import Image  # light path: a query without a sheet decodes nothing

    from finetune.images.open import open_image, to_rgb

    if cell.image is None:
        return cell.missing
    try:
        if isinstance(cell.image, Image):
            image = to_rgb(cell.image)
        else:
            image = open_image(cell.image, draft_size=size)
    except ImageError as error:
        return str(error)
    scale = min(size[0] / image.width, size[1] / image.height, MAX_ENLARGEMENT)
    width, height = round(image.width * scale), round(image.height * scale)
    return image.resize((max(1, width), max(1, height)), reducing_gap=2.0)
