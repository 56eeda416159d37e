"""The images that a query brings, and those of documents, opened where they are looked into."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from clipsearch.documents import Document
from clipsearch.search.images import ImageFolders
from clipsearch.search.parts import Part
from finetune.errors import ImageError
from finetune.files.regular_files import what_lies_at

if TYPE_CHECKING:
    from PIL.Image import Image


def image_of_part(part: Part) -> "Path | bytes | Image":
    """Return what an encoder takes of a part that is an image; its crop alone where it has one.

    Raises ImageError where there is no such file, or a crop's image cannot be read, and UsageError
    where the crop reaches outside.
    """
    image = cast("str | Path | bytes | Image", part.value)
    if isinstance(image, str | Path):
        image = _existing(Path(image))
    if part.crop is None:
        return image
    return part.crop.cut_from(opened(image), _name(part.value))


def opened(image: "str | Path | bytes | Image") -> "Image":
    """Return an image, upright and in mode RGB. Raises ImageError."""
    from PIL.Image import Image  # light path: a query for words decodes nothing

    from finetune.images.open import open_image, to_rgb

    if isinstance(image, Image):
        return to_rgb(image)
    return open_image(_existing(Path(image)) if isinstance(image, str | Path) else image)


def opened_of_document(document: Document, folders: ImageFolders) -> "Image":
    """Return the image of an indexed document, upright and in mode RGB.

    Raises ImageError where it is not on this machine, or cannot be read.
    """
    from finetune.images.open import open_image  # light path: a query for words decodes nothing

    source = folders.source(document.path)
    if source is None:
        shown = document.path or f"the picture of {document.id}"
        raise ImageError(f"{shown}: not found; say where with --images DIR")
    return open_image(source)


def _existing(path: Path) -> Path:
    if not path.is_file():
        reason = what_lies_at(path) or "no such picture file"
        raise ImageError(f"{path}: {reason}; give the path of an image")
    return path


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | Path) else "the picture"
