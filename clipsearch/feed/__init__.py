"""Bring an index to what a manifest says.

Called, it does so: `clipsearch.feed("photos.csv", "photos.index")`.
"""

import inspect
import io
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import clipsearch
from finetune.errors import ClipsearchError
from finetune.near_names import check_names

if TYPE_CHECKING:
    from clipsearch.feed.report import FeedReport
    from finetune.frames import DataFrame


PAGE = __doc__


class _Feed(ModuleType):
    """This package as a function: `clipsearch.feed` is both, and a module may have a class."""

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """This page with the options of a feed, which stand at `FeedOptions`."""
        from clipsearch.feed.options import FeedOptions  # not for who wants a part of it

        options = inspect.cleandoc(FeedOptions.__doc__ or "").partition("Attributes:\n")[2]
        return f"{PAGE}\nfeed{inspect.signature(self.__call__)}\n\nOptions:\n{options}"

    def __call__(
        self,
        manifest: "str | Path | DataFrame",
        index: str | Path,
        *,
        quiet: bool = False,
        **options: Any,
    ) -> "FeedReport":
        """Bring `index` to what `manifest` says, doing only the work that is left.

        Then measure how words and vector join, as the command does; where that fails, what was fed
        stays, and a note says so.

        Args:
            manifest: A folder of images, a file of captions, or a pandas DataFrame.
            index: A folder (embedded engine, made where missing) or an http(s) address (Vespa).
            quiet: Draw no progress on standard error.
            options: The other attributes of `clipsearch.feed.options.FeedOptions`, which
                `help(clipsearch.feed)` lists.

        Returns counts of what was done, and notes.

        Raises TypeError for another option, and what `clipsearch.feed.feed.feed` raises: kinds of
        `clipsearch.ClipsearchError`.
        """
        from clipsearch.feed.feed import feed  # not for who wants a part of it
        from clipsearch.feed.options import FeedOptions

        check_names(options, [each.name for each in fields(FeedOptions)], "feed()")
        asked = FeedOptions(manifest=manifest, index=str(index), **options)
        report = feed(asked, io.StringIO() if quiet else None)
        if report.fed or report.updated:
            try:
                # by the face: relevance lies above this room
                clipsearch.learn_word_share(asked.index, device=asked.device)
            except ClipsearchError as error:
                note = f"how words and vector join was not measured: {error}"
                return replace(report, notes=(*report.notes, note))
        return report


sys.modules[__name__].__class__ = _Feed
