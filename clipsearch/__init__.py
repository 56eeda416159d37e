"""Search your own images by words, by image and by both.

>>> from clipsearch import Search
>>> search = Search.open("photos.index")              # or "http://localhost:8080"
>>> page = search.query("two dogs on a beach", mode="hybrid", k=10)
"""

from typing import TYPE_CHECKING

import finetune as finetune  # before any library is imported: see finetune.telemetry
from clipsearch.version import __version__
from finetune.public_names import loader

if TYPE_CHECKING:
    from clipsearch.documents import Document
    from clipsearch.encoder.encoder import Encoder
    from clipsearch.engine import Hit, Page
    from clipsearch.search.search import Search

__all__ = ["Document", "Encoder", "Hit", "Page", "Search", "__version__"]

__getattr__ = loader(
    __name__,
    {
        "Document": "clipsearch.documents",
        "Encoder": "clipsearch.encoder.encoder",
        "Hit": "clipsearch.engine",
        "Page": "clipsearch.engine",
        "Search": "clipsearch.search.search",
    },
)
