"""The engines, and which one a target means."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import EngineError

if TYPE_CHECKING:
    from clipsearch.engine import Engine, IndexInfo


def is_remote(target: str) -> bool:
    """Return whether `target` is the address of a Vespa rather than a folder."""
    # No folder is meant by another scheme either: that is refused as an address.
    return "://" in target


def index_exists(target: str) -> bool:
    """Return whether there is something to open.

    There is not where a folder is missing, empty or half made.
    """
    if is_remote(target):
        return True
    from clipsearch.engines.local.folder import is_unfinished

    path = Path(target)
    return path.exists() and not (path.is_dir() and is_unfinished(path))


def open_engine(target: str) -> "Engine":
    """Open an existing index: a folder is the embedded engine, an http(s) address is Vespa.

    Raises EngineError where there is no index, or it cannot be read.
    """
    if is_remote(target):
        from clipsearch.engines.vespa.engine import VespaEngine  # light path: needs the extra

        return VespaEngine.open(target)
    from clipsearch.engines.local.engine import LocalEngine  # light path: NumPy

    return LocalEngine.open(Path(target))


def create_engine(target: str, info: "IndexInfo", *, locked: bool = False) -> "Engine":
    """Create an empty index in a folder. A Vespa index is created by `clipsearch deploy`.

    With `locked` the caller holds `feed_lock`. Raises EngineError where the folder holds something
    already.
    """
    if is_remote(target):
        raise EngineError(f"{target} has no index yet; make one with: clipsearch deploy")
    from clipsearch.engines.local.engine import LocalEngine

    return LocalEngine.create(Path(target), info, locked=locked)


def feed_lock(target: str, work: str) -> AbstractContextManager[None]:
    """Keep out every other feed and delete of an index: take it before looking whether it is there.

    A folder's lock lies in it. A Vespa has none: whoever feeds it holds the ledger instead.

    Args:
        target: The index, there or not.
        work: "feed" or "delete", for the one that is refused meanwhile.

    Raises EngineError where another process holds it.
    """
    if is_remote(target):
        return nullcontext()
    from clipsearch.engines.local.lock import index_lock

    return index_lock(Path(target), work)
