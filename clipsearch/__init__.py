"""Search your own images by words, by image and by both.

>>> import clipsearch
>>> clipsearch.feed("photos.csv", "photos.index", encoder="encoder")
>>> search = clipsearch.open("photos.index")          # or "http://localhost:8080"
>>> page = search.query("two dogs on a beach", mode="hybrid", k=10)
"""

from pathlib import Path
from typing import TYPE_CHECKING

import finetune as finetune  # before any library is imported: see finetune.telemetry
from clipsearch.version import __version__
from finetune.public_names import lister, loader

if TYPE_CHECKING:
    from clipsearch.client.client import Client
    from clipsearch.documents import Document
    from clipsearch.encoder.encoder import Encoder
    from clipsearch.engine import Hit, Page
    from clipsearch.relevance.word_share import learn_word_share
    from clipsearch.search.parts import Part
    from clipsearch.search.search import Search
    from finetune.errors import (
        ClipsearchError,
        DocumentNotFoundError,
        EncoderError,
        EngineError,
        ImageError,
        ManifestError,
        UsageError,
    )

_ERRORS = (
    "ClipsearchError",
    "DocumentNotFoundError",
    "EncoderError",
    "EngineError",
    "ImageError",
    "ManifestError",
    "UsageError",
)
__all__ = [
    "Client",
    "ClipsearchError",
    "Document",
    "DocumentNotFoundError",
    "Encoder",
    "EncoderError",
    "EngineError",
    "Hit",
    "ImageError",
    "ManifestError",
    "Page",
    "Part",
    "Search",
    "UsageError",
    "__version__",
    "feed",
    "learn_word_share",
    "open",
]


def open(target: str | Path, *, encoder: str | Path | None = None, device: str = "cpu") -> "Search":
    """Open an index to search it: a folder, or the http(s) address of a Vespa.

    See `Search.open`, which this calls.
    """
    from clipsearch.search.search import Search  # what is not needed is not imported

    return Search.open(target, encoder=encoder, device=device)


__getattr__ = loader(
    __name__,
    {
        "Client": "clipsearch.client.client",
        "Document": "clipsearch.documents",
        "Encoder": "clipsearch.encoder.encoder",
        "Hit": "clipsearch.engine",
        "Page": "clipsearch.engine",
        "Part": "clipsearch.search.parts",
        "Search": "clipsearch.search.search",
        "feed": "clipsearch.feed",
        "learn_word_share": "clipsearch.relevance.word_share",
        **dict.fromkeys(_ERRORS, "finetune.errors"),
    },
)
__dir__ = lister(__all__)
