"""Checksums of an index's files, compared by `clipsearch status --verify`.

What is covered, and where the checksum lies:

    segment-*.seg       CRC-32 of each 64 KiB, in the file itself; compared as well before anything
                        of it is used for the first time by a process
    vectors-*.f32       CRC-32 of each vector that a document has, in the store; compared as well
                        when a document is read with its vector
    codes-*.signs       CRC-32 of each code, in the file itself
    documents.sqlite    SQLite's own check of its structure, and CRC-32 of each document's text,
                        compared as well whenever it is read
    index.json          SHA-256 in itself
    ledger.sqlite       SQLite's own check of its structure, where it lies in the folder

At the end of a feed what it wrote is read back from the disk.
"""

import sqlite3
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from clipsearch.engines.local.earlier.documents import verify_earlier
from clipsearch.engines.local.folder import (
    INFO_FILE,
    LEDGER_FILE,
    STORE_FILE,
    info_digest,
    is_earlier,
    read_info,
)
from clipsearch.engines.local.segments.sections import BrokenSegmentError, Sections
from clipsearch.engines.local.store import State, Store
from clipsearch.engines.local.vectors.blocks import (
    BLOCK,
    VectorFiles,
    codes_path,
    earlier_codes,
    vectors_path,
)
from clipsearch.engines.local.vectors.codes import PAGE, page_bytes
from finetune.errors import EngineError
from finetune.files import bounded_json

NOT_AS_WRITTEN = "is not as it was written"
_DOCUMENTS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found.

    Attributes:
        files: That were compared.
        broken: File to what is wrong with it.
        notes: What could not be compared, in sentences.
    """

    files: int
    broken: Mapping[Path, str]
    notes: tuple[str, ...] = ()

    def check(self, folder: Path) -> None:
        """Raise EngineError, with the files and the mend, where one is broken."""
        if not self.broken:
            return
        named = "; ".join(
            f"{path.relative_to(folder)} {reason}" for path, reason in self.broken.items()
        )
        raise EngineError(f"{folder}: {named}; {_mend(folder, self.broken)}")


def verify(folder: Path) -> Verified:
    """Read every file that is covered, and compare. Raises OSError where one cannot be read."""
    broken: dict[Path, str] = {}
    notes: list[str] = []
    if is_earlier(folder):
        count = verify_earlier(folder, broken, notes)
    else:
        count = _verify_store(folder, broken, notes)
    info = bounded_json.read(folder / INFO_FILE)
    if "sha256" in info:
        count += 1
        if info_digest(info) != info["sha256"]:
            broken[folder / INFO_FILE] = NOT_AS_WRITTEN
    ledger = folder / LEDGER_FILE
    if ledger.is_file():
        count += 1
        fault = _fault_of(ledger)
        if fault:
            broken[ledger] = f"is broken ({fault})"
    return Verified(count, broken, tuple(notes))


def _verify_store(folder: Path, broken: dict[Path, str], notes: list[str]) -> int:
    """Compare the store and all that it names; the number of files."""
    store = Store(folder)
    try:
        fault = store.fault()
        if fault is not None:
            broken[folder / STORE_FILE] = f"is broken ({fault})"
            return 1
        state = store.state()
        if state.finished != state.commits:
            notes.append(
                "a feed is under way or was stopped; what it acknowledged is there, and the next"
                " one goes on"
            )
        for segment in state.segments:
            try:
                Sections.open(segment.path(folder), segment.size).check_all()
            except BrokenSegmentError:
                there = segment.path(folder).is_file()
                broken[segment.path(folder)] = NOT_AS_WRITTEN if there else "is missing"
        _verify_vectors(folder, store, state, broken)
        return 1 + len(state.segments) + 2 * len(state.blocks)
    finally:
        store.close()


def _verify_vectors(folder: Path, store: Store, state: State, broken: dict[Path, str]) -> None:
    dimension = read_info(folder).dimension
    blocks = {block.place: block for block in state.blocks}
    for block in state.blocks:
        sizes = {
            vectors_path(folder, block.number): 4 * dimension * block.used,
        }
        if not earlier_codes(folder, block, dimension):
            codes = codes_path(folder, block.codes)
            sizes[codes] = -(-block.used // PAGE) * page_bytes(dimension)
        for path, size in sizes.items():
            if not path.is_file() or path.stat().st_size < size:
                broken[path] = "is cut short" if path.is_file() else "is missing"
    if broken:
        return
    vectors = VectorFiles(folder, dimension).held(state.blocks, state.centre)
    for held in vectors.blocks:
        if not held.codes.are_whole():
            block = blocks[held.first // BLOCK]
            codes = earlier_codes(folder, block, dimension) or codes_path(folder, block.codes)
            broken[codes] = NOT_AS_WRITTEN
    last = -1
    while True:
        try:
            found = store.all_after(last, _DOCUMENTS_AT_ONCE)
        except EngineError:
            broken[folder / STORE_FILE] = NOT_AS_WRITTEN
            return
        if not found:
            return
        last = found[-1].key
        for each in found:
            if zlib.crc32(vectors.at(each.slot).data) != each.vector_sum:
                broken[vectors_path(folder, blocks[each.slot // BLOCK].number)] = NOT_AS_WRITTEN


def _fault_of(database: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            found = opened.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None  # another process writes to it
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == ("ok",) else str(found[0])


def _mend(folder: Path, broken: Mapping[Path, str]) -> str:
    """Describe what puts it right: the cheapest way that does for all of the files."""
    names = {path.relative_to(folder).parts[0] for path in broken}
    if all(name.startswith(("segment-", "codes-")) for name in names):
        listed = " and ".join(str(path) for path in broken)
        return (
            f"remove {listed} and run the feed again: that is laid out anew from the documents and"
            f" their vectors, which are whole"
        )
    if names == {LEDGER_FILE}:
        return f"remove {folder / LEDGER_FILE} and run the feed again, which feeds everything anew"
    return "feed a new index from the manifest, and then remove this one"
