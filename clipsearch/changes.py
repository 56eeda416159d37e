"""What changed since the last feed: each record of a manifest against the ledger."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from clipsearch.columns import Columns, document_of
from clipsearch.documents import Document, DocumentError, Embedding, check_document, storable
from clipsearch.engine import Update
from clipsearch.ledger import Entry, IdSet, Ledger, hash_of_fields
from clipsearch.pipeline import Picture, Rejection, Step, closed_after
from clipsearch.rejections import Rejections
from finetune.images import ImageSource
from finetune.manifest import Manifest, Record
from finetune.progress import Progress

ANY_EMBEDDING: Embedding = np.ones(1, dtype=np.float32)


class Work(IntEnum):
    """What a record needs."""

    NONE = 0  # of a split that is not fed, or rejected already
    UNCHANGED = 1
    UPDATE = 2  # other captions, path, tags or numbers; the embedding stays
    EMBED = 3


@dataclass(frozen=True)
class Source:
    """How records of one manifest become documents of one index.

    Attributes:
        manifest: That is fed.
        columns: Of the index.
        encoder: Fingerprint; empty for ready-made vectors.
        splits: To feed; all where empty.
        absolute_paths: The index resolves relative paths from another folder than this
            manifest's, so that these documents need whole paths.
    """

    manifest: Manifest
    columns: Columns
    encoder: str
    splits: frozenset[str] = frozenset()
    absolute_paths: bool = False

    def wants(self, record: Record) -> bool:
        """Whether the record is of a split to feed."""
        return not self.splits or record.split in self.splits

    def picture(self, record: Record) -> Picture:
        """The record as a document and ledger entry, both without what the image's bytes give.

        Raises DocumentError where its metadata do not fit the index.
        """
        path = None
        if self.absolute_paths and record.image is not None and record.image.offset is None:
            path = record.image.path.resolve().as_posix()
        described = document_of(record, self.columns, path=path)
        document = storable(described)
        stamp = "" if record.image is None or not self.encoder else stamp_of(record.image)
        entry = Entry(record.id, stamp, "", self.encoder, hash_of_fields(document))
        return Picture(document, entry, blanked=document is not described)


@dataclass
class Plan:
    """A Work for every record, in the manifest's order (a byte each), and their counts.

    `blanked` counts the records with characters that no index can hold, but for rejected ones;
    `by_earlier_id` are the places of those that the index knows by their earlier id.
    """

    works: bytearray = field(default_factory=bytearray)
    blanked: int = 0
    by_earlier_id: set[int] = field(default_factory=set)

    def count(self, work: Work) -> int:
        """Number of records that need `work`."""
        return self.works.count(work)

    def records(self, manifest: Manifest, work: Work) -> Iterator[Record]:
        """The records that need `work`, by the ids that the index knows them by."""
        if not self.count(work):
            return
        with closed_after(manifest.records()) as records:
            for place, (record, planned) in enumerate(zip(records, self.works, strict=True)):
                if planned != work:
                    continue
                if place in self.by_earlier_id and record.earlier_id is not None:
                    record = replace(record, id=record.earlier_id)
                yield record


def compare(
    source: Source,
    ledger: Ledger,
    rejections: Rejections,
    progress: Progress,
    seen: IdSet | None = None,
) -> Plan:
    """Look at every record once. Images are read only where their size or time changed.

    Args:
        source: The manifest and how its records become documents.
        ledger: Of the index. An image whose bytes are as they were, under another time, gets
            its new stamp here.
        rejections: Takes the records whose metadata do not fit.
        progress: Advances by one a record.
        seen: Is given the id of every record of the manifest, whatever its split.
    """
    plan = Plan()
    with closed_after(source.manifest.records()) as records:
        for place, record in enumerate(records):
            if _is_known_by_earlier_id(record, ledger) and record.earlier_id is not None:
                # Fed by its new id it would be in the index twice.
                plan.by_earlier_id.add(place)
                record = replace(record, id=record.earlier_id)
            if seen is not None:
                seen.add(record.id)
            plan.works.append(_work(record, source, ledger, rejections, plan))
            progress.advance()
    ledger.commit()
    return plan


def _is_known_by_earlier_id(record: Record, ledger: Ledger) -> bool:
    if record.earlier_id is None or ledger.get(record.earlier_id) is None:
        return False
    return ledger.get(record.id) is None


def _work(
    record: Record, source: Source, ledger: Ledger, rejections: Rejections, plan: Plan
) -> Work:
    if not source.wants(record):
        return Work.NONE
    try:
        picture = source.picture(record)
        # All but the embedding is checked before any image work is spent on it.
        check_document(replace(picture.document, embedding=ANY_EMBEDDING), ANY_EMBEDDING.size)
    except DocumentError as error:
        rejections.add(record.id, "rejected document", str(error))
        return Work.NONE
    plan.blanked += picture.blanked
    new = picture.entry
    known = ledger.get(record.id)
    if known is None or known.encoder != new.encoder:
        return Work.EMBED
    if not new.stamp or known.stamp != new.stamp:
        if _content(record, source) != known.content:
            return Work.EMBED
        if known.stamp != new.stamp:
            ledger.put(replace(known, stamp=new.stamp))
    return Work.UNCHANGED if known.fields == new.fields else Work.UPDATE


def updates(plan: Plan, source: Source, ledger: Ledger) -> Iterator[Step | Rejection]:
    """A partial update for each record of which only captions or metadata changed."""
    with closed_after(plan.records(source.manifest, Work.UPDATE)) as records:
        for record in records:
            picture = source.picture(record)
            known = ledger.get(record.id)
            if known is not None:
                entry = replace(picture.entry, content=known.content)
                yield Step(_update(picture.document), entry)


def _update(document: Document) -> Update:
    return Update(
        document.id, document.captions, document.tags, document.numbers, path=document.path
    )


def stamp_of(image: ImageSource) -> str:
    """Place, size and time of change of the image's bytes; empty where they cannot be looked at."""
    try:
        status = image.path.stat()
    except OSError:
        return ""
    place = f"{_absolute(image.path)}@{image.offset or 0}"
    size = status.st_size if image.size is None else image.size
    return f"{place} {size} {status.st_mtime_ns}"


def _absolute(path: Path) -> str:
    return path.absolute().as_posix()


def content_of_vector(embedding: Embedding) -> str:
    """The sha256, in hex, of a ready-made vector as the manifest gives it."""
    return hashlib.sha256(np.ascontiguousarray(embedding).tobytes()).hexdigest()


def _content(record: Record, source: Source) -> str | None:
    """The sha256 of what the embedding is made from; None where it cannot be read."""
    if not source.encoder:
        return None if record.embedding is None else content_of_vector(record.embedding)
    if record.image is None:
        return None
    try:
        return hashlib.sha256(record.image.read()).hexdigest()
    except OSError:
        return None
