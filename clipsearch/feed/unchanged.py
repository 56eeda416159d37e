"""Whether a manifest is, to the byte, the one that the last feed brought in, which all is held of.

Then it need not be parsed: its files are hashed, and each image is looked at by its stamp. What
else a feed depends on is part of the identity that is compared.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from clipsearch.documents import DOCUMENT_FORM
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import is_remote
from clipsearch.feed.data_sets import ManifestPlace, Wish, fed_from
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.mark import FeedMark
from clipsearch.feed.target import FeedTarget
from clipsearch.version import __version__
from finetune.errors import EngineError
from finetune.frames import FrameManifest
from finetune.images.address_cache import is_due
from finetune.manifest.manifest import Manifest
from finetune.text.composed import forms

_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Unchanged:
    """What a feed of an unchanged manifest has to say.

    Attributes:
        records: Of the manifest.
        blanked: As in `FeedReport`.
        notes: Sentences about the manifest.
    """

    records: int
    blanked: int
    notes: tuple[str, ...]


class FilesHash:
    """The sha256 of a manifest's files, made in a thread beside other work."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._before = self._statuses()
        self._stopped = threading.Event()
        self._digest: str | None = None
        self._thread = threading.Thread(target=self._read, name="clipsearch-hash", daemon=True)
        self._thread.start()

    def result(self) -> str | None:
        """Return the hash; None where a file could not be read, or has changed meanwhile."""
        self._thread.join()
        return self._digest if self._before and self._statuses() == self._before else None

    def stop(self) -> None:
        """Leave it; no thread is at work afterwards."""
        self._stopped.set()
        self._thread.join()

    def _read(self) -> None:
        digest = hashlib.sha256()
        block = bytearray(_READ_AT_ONCE)
        try:
            for path in self._paths:
                with path.open("rb", buffering=0) as file:
                    digest.update(b"%d " % os.fstat(file.fileno()).st_size)
                    while (count := file.readinto(block)) and not self._stopped.is_set():
                        digest.update(memoryview(block)[:count])
        except OSError:
            return
        self._digest = digest.hexdigest()

    def _statuses(self) -> list[tuple[int, ...]]:
        try:
            found = [path.stat() for path in self._paths]
        except OSError:
            return []
        return [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in found]


@dataclass(frozen=True)
class Asked:
    """What a feed is asked for, as far as an unchanged manifest may answer it.

    Attributes:
        place: Where the manifest lies.
        wish: What the user says of the data set.
        files: Of the manifest; None where it is not one file (with its vectors, perhaps).
        options: All others that change what is fed.
        prune: Whether what the manifest no longer has is to go.
    """

    place: ManifestPlace
    wish: Wish
    files: FilesHash | None
    options: tuple[object, ...] = ()
    prune: bool = False

    @classmethod
    def of(
        cls,
        manifest: str | Path | FrameManifest,
        index: str,
        wish: Wish,
        options: tuple[object, ...],
        *,
        prune: bool,
    ) -> Self:
        """Begin to hash the manifest's files, where it is one file and perhaps its vectors."""
        if isinstance(manifest, FrameManifest):
            return cls(ManifestPlace.in_memory(str(wish.name)), wish, None)
        path = Path(manifest).expanduser()
        place = ManifestPlace.of(Path(manifest), index)
        if not path.is_file():
            return cls(place, wish, None)
        vectors = path.with_suffix(".npy")
        files = FilesHash([path, vectors] if vectors.is_file() else [path])
        return cls(place, wish, files, options, prune)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.files is not None:
            self.files.stop()

    def unchanged(self, target: FeedTarget, ledger: Ledger) -> Unchanged | None:
        """Return what there is to say where nothing has changed.

        None where that has to be looked for.
        """
        engine, name = target.engine, fed_from(self.place, ledger, self.wish)
        if self.files is None or name is None:
            return None
        kept = ledger.known_manifest(name)
        if not kept or not _agree(ledger, engine):
            return None
        known = json.loads(kept)
        documents, held = ledger.counts().by_data_set.get(name, (0, 0))
        if documents != held or documents < known["records"]:
            return None
        if self.prune and (documents != known["records"] or ledger.has_data_set("")):
            return None
        if self._identity(target, name) != known["identity"]:
            return None
        if target.fingerprint and not all_as_stamped(ledger.stamps_of(name), known["searched"]):
            return None
        return Unchanged(known["records"], known["blanked"], tuple(known["notes"]))

    def remember(
        self, target: FeedTarget, ledger: Ledger, data_set: str, manifest: Manifest, said: Unchanged
    ) -> None:
        """Keep, of a manifest that has been fed without a fault, what `unchanged` compares."""
        if target.fingerprint and manifest.searched is None:
            return
        identity = self._identity(target, data_set)
        if identity is not None:
            known = {
                "identity": identity,
                "searched": manifest.searched if target.fingerprint else [],
                "records": said.records,
                "blanked": said.blanked,
                "notes": said.notes,
            }
            ledger.remember_manifest(data_set, json.dumps(known))

    def _identity(self, target: FeedTarget, data_set: str) -> str | None:
        digest = None if self.files is None else self.files.result()
        if digest is None:
            return None
        parts = (
            digest,
            __version__,
            sys.version_info[:2],
            self.place,
            self.wish,
            self.options,
            target.fingerprint,
            target.encoder_place,
            _about(target.engine.info, data_set),
        )
        return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


def _about(info: IndexInfo, data_set: str) -> tuple[object, ...]:
    """Return what the index knows that a feed of the data set would go by, or change."""
    root = info.images_root
    return (
        info.index_id,
        info.encoder_name,
        info.encoder_path,
        info.number_columns,
        info.tag_columns,
        info.date_columns,
        root,
        root is not None and Path(root).is_dir(),
        [each for each in info.data_sets if each.name == data_set],
    )


def _agree(ledger: Ledger, engine: Engine) -> bool:
    """Return whether the ledger agrees with the index.

    The index must be of today's form and lack nothing.
    """
    info = engine.info
    if info.document_form != DOCUMENT_FORM or info.may_lack_embeddings:
        return False
    if ledger.converted or ledger.index_id != info.index_id:
        return False
    if not FeedMark(engine, ledger, alone=not is_remote(engine.target)).is_current():
        return False
    try:
        if engine.count_without_embedding():
            return False
    except EngineError:
        return False
    return ledger.counts().held <= engine.count() <= len(ledger)


def all_as_stamped(stamps: Iterable[str], searched: Iterable[str]) -> bool:
    """Return whether each image lies where it was found and is what it was, by one look at each.

    Args:
        stamps: Of all images (`clipsearch.feed.contents.stamp_of`).
        searched: The folders that were searched, in their order, with a `/`: none before the one
            that an image was found in may have another of its name by now. Empty where all were in
            the first, or named by their whole paths.
    """
    folders = tuple(searched)
    for stamp in stamps:
        path, _, found = stamp.rpartition("@")
        try:
            status = os.stat(path)  # noqa: PTH116 - a million times
        except (OSError, ValueError):
            return False
        now = f"0 {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        if found != now or "." not in path[path.rfind("/") :]:  # "101.0" may stand for it
            return False
        if is_due(path):
            return False
        if not path.isascii() and any(os.path.lexists(f) for f in forms(path) if f != path):
            return False
        for number, folder in enumerate(folders):
            if number and path.startswith(folder):
                name = path[len(folder) :]
                if any(os.path.lexists(before + name) for before in folders[:number]):
                    return False
    return True
