"""What was perhaps meant by a path where nothing lies, or by a name that is none of those known."""

import difflib
import os
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from finetune.console import printable

# Of a folder, looked through for the sentence of an error: that must not take long.
_MOST_LOOKED_AT = 5_000
_ALIKE = 0.8


def did_you_mean(path: str | os.PathLike[str], *, folders: bool = False) -> str:
    """Return " (did you mean photos.csv?)" where a path of nearly this name is there, else "".

    Only the first part of the path that is missing is looked for. `folders`: only these count.
    """
    path = Path(path)
    missing = path.expanduser()
    rest: list[str] = []
    try:
        while not missing.parent.is_dir():
            rest.append(missing.name)
            if missing.parent == missing:
                return ""
            missing = missing.parent
        names = [each.name for each in islice(missing.parent.iterdir(), _MOST_LOOKED_AT)]
        lower = {name.lower(): name for name in names}
        for near in difflib.get_close_matches(missing.name.lower(), lower, n=3, cutoff=_ALIKE):
            meant = missing.with_name(lower[near]).joinpath(*reversed(rest))
            if meant.is_dir() if folders else meant.exists():
                return f" (did you mean {printable(str(meant))}?)"
    except (OSError, ValueError):  # a folder that may not be read, a name that cannot be one
        pass
    return ""


def near_name(name: str, known: Iterable[str]) -> str | None:
    """Return the one of the known names that is nearest to `name`; None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def near_or_known(name: str, known: Iterable[str]) -> str:
    """Return how a sentence ends: "did you mean seed?", or "known are …" where no name is near."""
    names = list(known)
    near = near_name(name, names)
    return f"known are {', '.join(names)}" if near is None else f"did you mean {near}?"


def check_names(given: Iterable[str], known: Collection[str], whose: str) -> None:
    """Raise TypeError, naming what was perhaps meant, for a keyword that `whose` has not."""
    for name in given:
        if name not in known:
            near = near_name(name, known)
            meant = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"{whose} has no option {name!r}; {meant}")
