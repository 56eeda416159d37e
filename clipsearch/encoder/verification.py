"""Check an encoder folder against its fingerprint, without hashing it anew for every query.

Hashing the weights of a large encoder takes seconds. What was hashed once is remembered, with
size, times and inode of each file, in the user's cache folder; where any of them differs, or
nothing can be remembered, the files are hashed again.
"""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from finetune.encoder_folder import EMBEDDING_FILES, EncoderDescription, check_fingerprint
from finetune.files import bounded_json
from finetune.files.atomic import replace_file
from finetune.files.user_folders import user_cache

# A file that is written twice within a tick of the file system's clock looks unchanged, so
# nothing is remembered of files that are younger than this.
SETTLED_SECONDS = 2.0

Stamps = dict[str, list[int]]


def verify(folder: Path, description: EncoderDescription) -> None:
    """Raise EncoderError where a file that affects embeddings is not the one that was exported."""
    memory = _memory_file(folder)
    before = _stamps(folder)
    known: dict[str, object] = {"fingerprint": description.fingerprint, "files": before}
    if _read(memory) == known:
        return
    check_fingerprint(folder, description)
    newest = max((stamp[1] for stamp in before.values()), default=0)
    settled = time.time_ns() - newest > SETTLED_SECONDS * 1e9
    if settled and _stamps(folder) == before:
        _write(memory, known)


def _memory_file(folder: Path) -> Path | None:
    try:
        key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
        return user_cache() / "verified" / f"{key}.json"
    except (OSError, RuntimeError):
        # No home folder, say.
        return None


def _stamps(folder: Path) -> Stamps:
    """Return size, newest of both times (ns) and inode by file.

    A restored mtime still has its ctime.
    """
    stamps = {}
    for name in EMBEDDING_FILES:
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            newest = max(status.st_mtime_ns, status.st_ctime_ns)
            stamps[name] = [status.st_size, newest, status.st_mtime_ns, status.st_ino]
    return stamps


def _read(memory: Path | None) -> object:
    if memory is None:
        return None
    try:
        return bounded_json.read(memory)
    except (OSError, ValueError):
        return None


def _write(memory: Path | None, known: dict[str, object]) -> None:
    if memory is None:
        return
    # Not to remember costs time only: a cache on a full or read-only disk is no error.
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, [json.dumps(known).encode()])
