"""Heat maps on the sheets of `query` and `similar`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipsearch.cli.search_options import SearchOptions
from clipsearch.search.parts import Part
from clipsearch.search.query_images import opened
from clipsearch.search.search import Search
from finetune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from finetune.images.source import ImageSource

# From where an image lies to the image with its heat map, and notes on how that was made.
Locate = Callable[["ImageSource"], "tuple[Image, tuple[str, ...]]"]


def check_locate(options: SearchOptions) -> None:
    """Raise UsageError where there is no sheet to draw heat maps on."""
    if options.locate and options.sheet is None:
        raise UsageError("--locate draws heat maps on the sheet; name one with --sheet FILE")


def locator(search: Search, parts: Sequence[Part]) -> Locate:
    """Return what shows where an image answers a query of these parts, as large as on a sheet.

    The query is embedded once. Raises UsageError and EncoderError where no image can be looked
    into; what is returned raises ImageError.
    """
    from clipsearch.localization.drawing import draw_heat_map  # light path: most sheets have none
    from clipsearch.localization.locate import locate
    from finetune.images.thumbnails import THUMBNAIL

    encoder, vector = search.encoder, search.vector_of(parts)

    def show(source: "ImageSource") -> "tuple[Image, tuple[str, ...]]":
        image = opened(source, encoder.preprocessing.transparency)
        found = locate(encoder, image, vector)
        return draw_heat_map(found, image, THUMBNAIL), found.notes

    return show
