"""Bring an index to what a manifest says.

Called, it does so: `clipsearch.feed("photos.csv", "photos.index")`.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import clipsearch
from finetune.errors import ClipsearchError

if TYPE_CHECKING:
    from clipsearch.feed.report import FeedReport
    from finetune.frames import DataFrame


class _Feed(ModuleType):
    """This package as a function: `clipsearch.feed` is both, and a module may have a class."""

    def __call__(
        self, manifest: "str | Path | DataFrame", index: str | Path, **options: Any
    ) -> "FeedReport":
        """Bring `index` to what `manifest` says, doing only the work that is left.

        Then measure how words and vector join, as the command does; where that fails, what was fed
        stays, and a note says so.

        Args:
            manifest: A folder of images, a file of captions, or a pandas DataFrame.
            index: A folder (embedded engine, made where missing) or an http(s) address (Vespa).
            options: The other attributes of `clipsearch.feed.feed.FeedOptions`.

        Raises what `clipsearch.feed.feed.feed` raises.
        """
        from clipsearch.feed.feed import FeedOptions, feed  # not for who wants a part of it

        asked = FeedOptions(manifest=manifest, index=str(index), **options)
        report = feed(asked)
        if report.fed or report.updated:
            try:
                # by the face: relevance lies above this room
                clipsearch.learn_word_share(asked.index, device=asked.device)
            except ClipsearchError as error:
                note = f"how words and vector join was not measured: {error}"
                return replace(report, notes=(*report.notes, note))
        return report


sys.modules[__name__].__class__ = _Feed
