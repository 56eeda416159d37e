"""What changed since the last feed: each record of a manifest against the ledger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from clipsearch.documents import Document, Embedding, check_document, storable
from clipsearch.engine import DataSet, Update
from clipsearch.feed.columns import MetadataColumns, document_of
from clipsearch.feed.contents import content_of, place_of_stamp, size_of_stamp, stamp_of
from clipsearch.feed.data_sets import HELD_KIND, UNCLAIMED, held_sentence
from clipsearch.feed.ledger.ledger import Entry, Ledger, hash_of_fields
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.feed.pipeline import PlannedImage, Rejection, Step
from clipsearch.feed.report import Rejections
from finetune.console import Progress
from finetune.errors import DocumentError
from finetune.manifest.manifest import Manifest, Record
from finetune.read_ahead import closed_after

ANY_EMBEDDING: Embedding = np.ones(1, dtype=np.float32)


class Work(IntEnum):
    """What a record needs."""

    NONE = 0  # of a split that is not fed, or rejected already
    UNCHANGED = 1
    UPDATE = 2  # other captions, path, tags, numbers or data set; the embedding stays
    EMBED = 3
    REUSE = 4  # its embedding is in the index, under another document
    DUPLICATE = 5  # its image equals one that this feed encodes
    DONE = 6


@dataclass(frozen=True)
class DocumentSource:
    """How records of one manifest become documents of one index.

    Attributes:
        manifest: That is fed.
        columns: Of the index.
        encoder: Fingerprint; empty for ready-made vectors.
        data_set: That the manifest is, in the index.
        manifests: Where the manifests of all data sets of the index lie, by name.
        claims_all: The user has said that it is: what nobody has claimed is then its own.
        splits: To feed; all where empty.
        absolute_paths: The index resolves relative paths from another folder than this
            manifest's, so that these documents need whole paths.
    """

    manifest: Manifest
    columns: MetadataColumns
    encoder: str
    data_set: DataSet
    manifests: Mapping[str, str]
    claims_all: bool = False
    splits: frozenset[str] = frozenset()
    absolute_paths: bool = False

    def wants(self, record: Record) -> bool:
        """Whether the record is of a split to feed."""
        return not self.splits or record.split in self.splits

    def id_of(self, record: Record) -> str:
        """The id of the record's document."""
        return self.data_set.id_prefix + record.id

    def image(self, record: Record) -> PlannedImage:
        """The record as a document and ledger entry, both without what the image's bytes give.

        Raises DocumentError where its metadata do not fit the index.
        """
        path = self._absolute_path(record) if self.absolute_paths else None
        described = document_of(record, self.columns, path=path)
        described = replace(described, id=self.id_of(record), data_set=self.data_set.name)
        document = storable(described)
        stamp = "" if record.image is None or not self.encoder else stamp_of(record.image)
        entry = Entry(
            document.id,
            stamp,
            "",
            self.encoder,
            hash_of_fields(document),
            self.data_set.name,
            size_of_stamp(stamp),
        )
        return PlannedImage(document, entry, blanked=document is not described)

    def content_of(self, record: Record) -> str | None:
        """The sha256 of what the embedding is made from; None where it cannot be read."""
        return content_of(record, encoded=bool(self.encoder))

    def _absolute_path(self, record: Record) -> str | None:
        if record.image is None:
            return None
        if record.image.offset is None:
            return record.image.path.resolve().as_posix()
        # A member of a shard: its name stays as it is, ".." too.
        root = self.manifest.root
        return None if root is None else f"{root.resolve().as_posix()}/{record.path}"


@dataclass
class Plan:
    """A Work for every record, in the manifest's order (a byte each), and their counts.

    `blanked` counts the records with characters that no index can hold, but for rejected ones;
    `by_earlier_id` are the places of those that the index knows by their earlier id.
    """

    works: bytearray = field(default_factory=bytearray)
    blanked: int = 0
    by_earlier_id: set[int] = field(default_factory=set)

    def count(self, *works: Work) -> int:
        """Number of records that need one of `works`."""
        return sum(self.works.count(work) for work in works)

    def records(self, manifest: Manifest, work: Work) -> Iterator[Record]:
        """The records that need `work`, by the ids that the index knows them by."""
        with closed_after(self.numbered(manifest, work)) as numbered:
            for _, record in numbered:
                yield record

    def numbered(self, manifest: Manifest, work: Work) -> Iterator[tuple[int, Record]]:
        """The same, with their places among the works."""
        if not self.count(work):
            return
        with closed_after(manifest.records()) as records:
            for place, (record, planned) in enumerate(zip(records, self.works, strict=True)):
                if planned != work:
                    continue
                if place in self.by_earlier_id and record.earlier_id is not None:
                    record = replace(record, id=record.earlier_id)
                yield place, record


def compare(
    source: DocumentSource,
    ledger: Ledger,
    rejections: Rejections,
    progress: Progress,
    seen: IdSet | None = None,
) -> Plan:
    """Look at every record once. Images are read only where their stamp changed.

    Args:
        source: The manifest and how its records become documents.
        ledger: Of the index, and as the index is. An image whose bytes are as they were, under
            another stamp, gets its new one here.
        rejections: Takes the records whose metadata do not fit, and those whose id is that of
            another data set's document.
        progress: Advances by one a record.
        seen: Is given the id of every record of the manifest, whatever its split.
    """
    plan = Plan()
    with closed_after(source.manifest.records()) as records:
        for place, record in enumerate(records):
            if _is_known_by_earlier_id(record, source, ledger) and record.earlier_id is not None:
                # Fed by its new id it would be in the index twice.
                plan.by_earlier_id.add(place)
                record = replace(record, id=record.earlier_id)
            if seen is not None:
                seen.add(source.id_of(record))
            plan.works.append(_work(record, source, ledger, rejections, plan))
            progress.advance()
    ledger.commit()
    return plan


def _is_known_by_earlier_id(record: Record, source: DocumentSource, ledger: Ledger) -> bool:
    if record.earlier_id is None or ledger.get(source.id_of(record)) is not None:
        return False
    known = ledger.get(source.data_set.id_prefix + record.earlier_id)
    return known is not None and known.data_set in (UNCLAIMED, source.data_set.name)


def _work(
    record: Record, source: DocumentSource, ledger: Ledger, rejections: Rejections, plan: Plan
) -> Work:
    if not source.wants(record):
        return Work.NONE
    try:
        image = source.image(record)
        # All but the embedding is checked before any image work is spent on it.
        check_document(replace(image.document, embedding=ANY_EMBEDDING), ANY_EMBEDDING.size)
    except DocumentError as error:
        rejections.add(source.id_of(record), "rejected document", str(error))
        return Work.NONE
    new = image.entry
    known = ledger.get(new.id)
    holder = None if known is None else _other_holder(known, record, source)
    if holder is not None:
        rejections.add(new.id, HELD_KIND, held_sentence(holder, source.data_set, source.manifests))
        return Work.NONE
    plan.blanked += image.blanked
    if known is None or known.encoder != new.encoder:
        return Work.EMBED
    if not new.stamp or known.stamp != new.stamp:
        if source.content_of(record) != known.content:
            return Work.EMBED
        if known.stamp != new.stamp:
            ledger.put(replace(known, stamp=new.stamp, size=new.size))
    return Work.UNCHANGED if known.fields == new.fields else Work.UPDATE


def _other_holder(known: Entry, record: Record, source: DocumentSource) -> str | None:
    """Who holds the document, where that is not the data set that is fed; else None."""
    if known.data_set:
        return None if known.data_set == source.data_set.name else known.data_set
    place = place_of_stamp(known.stamp)
    if place is None or source.claims_all or record.image is None:
        return None  # nobody can say: the first feed that holds it has it
    path, offset = place
    same = (path, offset) == (record.image.path.absolute(), record.image.offset or 0)
    if same or not path.exists() or source.content_of(record) == known.content:
        return None
    return str(path)


def updates(plan: Plan, source: DocumentSource, ledger: Ledger) -> Iterator[Step | Rejection]:
    """A partial update for each record of which only captions or metadata changed."""
    with closed_after(plan.records(source.manifest, Work.UPDATE)) as records:
        for record in records:
            image = source.image(record)
            known = ledger.get(image.document.id)
            if known is not None:
                # The stamp of the comparison: the image may have changed since.
                entry = replace(image.entry, content=known.content, stamp=known.stamp)
                yield Step(_update(image.document, known.content), entry)


def _update(document: Document, content: str) -> Update:
    return Update(document.id, **document.parts | {"content": content})
