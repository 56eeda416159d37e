"""The images that a query brings, and those of documents, opened where they are looked into."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from clipsearch.documents import Document
from clipsearch.search.images import ImageFolders
from clipsearch.search.parts import Part
from finetune.errors import ImageError
from finetune.files.regular_files import what_lies_at
from finetune.images.addresses import fetched, is_address
from finetune.images.preprocessing import Preprocessing, Transparency
from finetune.near_names import did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

    from finetune.images.source import ImageSource


def image_of_part(part: Part, preprocessing: Callable[[], Preprocessing]) -> "Path | bytes | Image":
    """Return what an encoder takes of a part that is an image; its crop alone where it has one.

    `preprocessing`: the encoder's, asked only for a crop of a file that is there.

    Raises ImageError where there is no such file, or a crop's image cannot be read, and UsageError
    where the crop reaches outside.
    """
    image = cast("str | Path | bytes | Image", part.value)
    if isinstance(image, str | Path):
        image = _existing(image)
    if part.crop is None:
        return image
    name = str(image) if isinstance(image, Path) else "the picture"
    return part.crop.cut_from(opened(image, preprocessing().transparency), name)


def opened(
    image: "str | Path | bytes | ImageSource | Image", transparency: Transparency
) -> "Image":
    """Return an image, upright and in mode RGB, as an encoder of this `transparency` sees it.

    Raises ImageError.
    """
    from PIL.Image import Image  # light path: a query for words decodes nothing

    from finetune.images.open import decode_image, to_rgb

    if isinstance(image, Image):
        return to_rgb(image, transparency)
    source = _existing(image) if isinstance(image, str | Path) else image
    return decode_image(source, transparency=transparency).image


def source_of_document(document: Document, folders: ImageFolders) -> "ImageSource":
    """Return where the image of an indexed document lies.

    Raises ImageError where it is not on this machine.
    """
    source = folders.source(document.path)
    if source is None:
        shown = document.path or f"the picture of {document.id}"
        raise ImageError(f"{shown}: not found; say where with --images FOLDER")
    return source


def _existing(image: str | Path) -> Path:
    """Return the file of a path, or of an address, which is fetched."""
    if isinstance(image, str) and is_address(image):
        return fetched(image)
    path = Path(image)
    if not path.is_file():
        reason = what_lies_at(path) or f"no such picture file{did_you_mean(path)}"
        raise ImageError(f"{path}: {reason}; give the path of an image")
    return path
