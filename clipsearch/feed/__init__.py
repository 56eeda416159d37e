"""Bring an index to what a manifest says.

Called, it does so: `clipsearch.feed("photos.csv", "photos.index")`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.feed.feed import FeedReport
    from finetune.frames import DataFrame


class _Feed(ModuleType):
    """This package as a function: `clipsearch.feed` is both, and a module may have a class."""

    def __call__(
        self, manifest: "str | Path | DataFrame", index: str | Path, **options: Any
    ) -> "FeedReport":
        """Bring `index` to what `manifest` says, doing only the work that is left.

        Args:
            manifest: A folder of images, a file of captions, or a pandas DataFrame.
            index: A folder (embedded engine, made where missing) or an http(s) address (Vespa).
            options: The other attributes of `clipsearch.feed.feed.FeedOptions`.

        Raises what `clipsearch.feed.feed.feed` raises.
        """
        from clipsearch.feed.feed import FeedOptions, feed  # not for who wants a part of it

        return feed(FeedOptions(manifest=manifest, index=str(index), **options))


sys.modules[__name__].__class__ = _Feed
