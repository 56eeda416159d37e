"""What a feed follows: a manifest and the folder of its images, until somebody stops it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import ClipsearchError, UsageError
from finetune.installing import install_command

if TYPE_CHECKING:
    from watchfiles import Change

QUIET_MS = 500
"""Without a change: a copy that still goes on is not read half."""

MOST_MS = 10_000
"""Of changes that never rest, after which they are told all the same."""

_LOOK_MS = 500


def changes(watched: Sequence[Path], ignored: Sequence[Path]) -> Iterator[bool]:
    """Yield whether anything has changed since the step before, about twice a second.

    The first step only begins to watch: what changes from then on, also while the caller is busy
    with a step, is told by the next one. The system tells (inotify, FSEvents), and nothing is read;
    over a network file system WATCHFILES_FORCE_POLLING=1 looks instead.

    Args:
        watched: Files, and folders with all below them, that are there.
        ignored: Files and folders below these that do not count; so do files that begin with the
            name of one (those that SQLite lays beside a ledger).

    Raises UsageError without watchfiles, and ClipsearchError where the system cannot watch.
    """
    try:
        from watchfiles import watch  # an extra
    except ImportError as error:
        raise UsageError(
            f"--watch needs watchfiles; install it with: {install_command('watch')}"
        ) from error
    roots = [path.resolve() for path in watched]
    others = tuple(str(path.resolve()) for path in ignored)

    def counts(change: "Change", path: str) -> bool:
        return not path.startswith(others)

    try:
        for found in watch(
            *roots, watch_filter=counts, debounce=MOST_MS, step=QUIET_MS,
            rust_timeout=_LOOK_MS, yield_on_timeout=True, raise_interrupt=True,
        ):  # fmt: skip
            yield bool(found)
    except (OSError, RuntimeError) as error:
        raise ClipsearchError(
            f"{', '.join(map(str, watched))}: cannot be watched: {error}; watch a smaller folder,"
            f" or set WATCHFILES_FORCE_POLLING=1"
        ) from error


def places(manifest: Path, images: Path | None) -> list[Path]:
    """Return what a feed of a manifest reads: it, and the folder of its images.

    Raises UsageError for a manifest that is no file and no folder here (a pattern of shards).
    """
    if not manifest.exists():
        raise UsageError(f"{manifest}: --watch follows a file or a folder that is there")
    folder = manifest if manifest.is_dir() else images or manifest.absolute().parent
    return [manifest] if folder == manifest else [manifest, folder]
