"""Where a user's files lie that belong to no project: what can be made again, and what was done."""

from pathlib import Path

import platformdirs

NAME = "clipsearch"


def user_cache() -> Path:
    """Return the folder for what can be made again, which need not be there yet.

    That is $XDG_CACHE_HOME/clipsearch, or the system's own place. Raises RuntimeError where the
    user has no home.
    """
    return _known(platformdirs.user_cache_path(NAME, appauthor=False))


def user_state() -> Path:
    """Return the folder for what remembers earlier commands, which need not be there yet.

    That is $XDG_STATE_HOME/clipsearch, or the system's own place. Raises RuntimeError where the
    user has no home.
    """
    return _known(platformdirs.user_state_path(NAME, appauthor=False))


def _known(folder: Path) -> Path:
    if not folder.is_absolute():  # "~" stays where there is no home, and would be made here
        raise RuntimeError("the user has no home folder")
    return folder
