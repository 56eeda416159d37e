"""Heat maps on the sheets of `query` and `similar`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipsearch.cli.search_options import SearchOptions
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipsearch.localization.heat_map import HeatMap

Locate = Callable[["Image"], "HeatMap"]


def check_locate(options: SearchOptions) -> None:
    """Raise UsageError where there is no sheet to draw heat maps on."""
    if options.locate and options.sheet is None:
        raise UsageError("--locate draws heat maps on the sheet; name one with --sheet FILE")


def locator(search: Search, parts: Sequence[Part]) -> Locate:
    """Return what says where an image answers a query of these parts, which is embedded once.

    Raises UsageError and EncoderError where that cannot be said of any image.
    """
    from clipsearch.localization.locate import locate  # light path: most sheets show no heat maps

    encoder, vector = search.encoder, search.vector_of(parts)
    return lambda image: locate(encoder, image, vector)
