"""Where things lie on the service's machine: what its own sentences say, and no client is told."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipsearch.engines import is_remote

VESPA = "the Vespa"


def without_places(text: str, places: Iterable[str | Path | None]) -> str:
    """Return the text with each folder named by its last name alone, and a Vespa's address by none.

    Folders below one another are named from the outermost.
    """
    for place, name in sorted(_names(places), key=lambda each: len(each[0]), reverse=True):
        text = re.sub(rf"(?<![\w./~-]){re.escape(place)}(?![\w-])", lambda _, n=name: n, text)  # type: ignore[misc]
    return text


def name_of(target: str) -> str:
    """Return what clients are told of where an index is."""
    return VESPA if is_remote(target) else Path(target).absolute().name


def _names(places: Iterable[str | Path | None]) -> Iterator[tuple[str, str]]:
    home = str(Path.home())
    if _is_deep(home):
        yield home, "~"
    for place in map(str, filter(None, places)):
        if is_remote(place):
            yield place.rstrip("/"), VESPA
            continue
        for form in {place, str(Path(place).absolute()), os.path.realpath(place)}:
            if _is_deep(form):
                yield form, Path(form).name


def _is_deep(place: str) -> bool:
    """Return whether a path says more than one name, which can stand in any sentence."""
    return len([name for name in Path(place).parts if name not in ("/", ".", "..")]) > 1
