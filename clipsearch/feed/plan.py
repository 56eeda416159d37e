"""What changed since the last feed: each record of a manifest against the ledger."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Embedding, check_document, storable
from clipsearch.feed.columns import MetadataColumns, document_of
from clipsearch.feed.contents import content_of, place_of_stamp, size_of_stamp, stamp_of
from clipsearch.feed.data_sets import HELD_KIND, UNCLAIMED, held_sentence
from clipsearch.feed.ledger.entry import Entry, hash_of_fields, hashes_before
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.feed.pipeline import PlannedImage, Rejection, Step
from clipsearch.feed.report import Rejections
from clipsearch.feed_facts import DataSet
from clipsearch.operations import Update
from finetune.console import Progress
from finetune.errors import DocumentError
from finetune.images.addresses import is_address
from finetune.manifest.manifest import Manifest, Record
from finetune.read_ahead import closed_after

Places = npt.NDArray[np.intp]
ANY_EMBEDDING: Embedding = np.ones(1, dtype=np.float32)


class Work(IntEnum):
    """What a record needs."""

    NONE = 0  # of a split that is not fed, or rejected already
    UNCHANGED = 1
    UPDATE = 2  # other captions, path, tags, numbers or data set; the embedding stays
    EMBED = 3
    REUSE = 4  # its embedding is in the index, under another document
    DUPLICATE = 5  # its image equals one that this feed encodes
    DONE = 6  # was written, or refused
    HELD = 7  # was written and acknowledged


@dataclass(frozen=True)
class DocumentSource:
    """How records of one manifest become documents of one index.

    Attributes:
        manifest: That is fed.
        columns: Of the index.
        encoder: Fingerprint; empty for ready-made vectors.
        made_by: Fingerprint of the encoder that made those; empty where nobody has said.
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
    made_by: str = ""

    def wants(self, record: Record) -> bool:
        """Return whether the record is of a split to feed."""
        return not self.splits or record.split in self.splits

    def id_of(self, record: Record) -> str:
        """Return the id of the record's document."""
        return self.data_set.id_prefix + record.id

    def image(self, record: Record, place: int | None = None) -> PlannedImage:
        """Return the record as a document and ledger entry.

        Both lack what the image's bytes give.

        `place` is that of the record among all of the manifest.

        Raises DocumentError where its metadata do not fit the index.
        """
        path = self._absolute_path(record) if self.absolute_paths else None
        described = document_of(
            record, self.columns, id=self.id_of(record), path=path, data_set=self.data_set.name
        )
        document = storable(described)
        encoder = self.encoder_of(record)
        stamp = "" if record.image is None or not encoder else stamp_of(record.image)
        entry = Entry(
            document.id,
            stamp,
            "",
            encoder,
            hash_of_fields(document),
            self.data_set.name,
            size_of_stamp(stamp) if stamp else 0,
        )
        return PlannedImage(document, entry, document is not described, place)

    def content_of(self, record: Record) -> str | None:
        """Return the sha256 of what the embedding is made from; None where it cannot be read."""
        return content_of(record, encoded=bool(self.encoder_of(record)))

    def encoder_of(self, record: Record) -> str:
        """Return the fingerprint of what made the record's embedding from its image.

        Empty for a ready-made vector of no known encoder, or without an image beside it.
        """
        return self.encoder or (self.made_by if record.image is not None else "")

    def _absolute_path(self, record: Record) -> str | None:
        if record.image is None or is_address(record.path):
            return None
        if record.image.offset is None:
            return record.image.path.resolve().as_posix()
        # A member of a shard: its name stays as it is, ".." too.
        root = self.manifest.root
        return None if root is None else f"{root.resolve().as_posix()}/{record.path}"


@dataclass
class Plan:
    """A Work for every record, in the manifest's order (a byte each), and what else was found.

    Attributes:
        works: Of all records.
        looked_at: Places of the records that have to be compared with the ledger, ascending; the
            index holds all others as they are.
        blanked: Records with characters that no index can hold, but for rejected ones.
        by_earlier_id: Place to document, of records that the index knows by their earlier id.
        noted: Places of records about which something is said at each feed.
        passed: Records looked at so far.
    """

    works: bytearray
    looked_at: Places
    blanked: int = 0
    by_earlier_id: dict[int, str] = field(default_factory=dict)
    noted: set[int] = field(default_factory=set)
    passed: int = 0

    @classmethod
    def over(cls, count: int, looked_at: Places | None = None) -> Self:
        """Make the plan of `count` records before anything is compared.

        All of them are looked at unless `looked_at` names some.
        """
        every = np.arange(count) if looked_at is None else looked_at
        return cls(bytearray([Work.UNCHANGED]) * count, every)

    def count(self, *works: Work) -> int:
        """Return the number of records that need one of `works`."""
        return sum(self.works.count(work) for work in works)

    def numbered(self, manifest: Manifest, work: Work) -> Iterator[tuple[int, Record]]:
        """Yield the records that need `work`, by the ids that the index knows, and their places."""
        places = np.flatnonzero(np.frombuffer(bytes(self.works), np.uint8) == work)
        with closed_after(records_at(manifest, places)) as numbered:
            for place, record in numbered:
                if place in self.by_earlier_id and record.earlier_id is not None:
                    record = replace(record, id=record.earlier_id)
                yield place, record


def records_at(manifest: Manifest, places: Places) -> Iterator[tuple[int, Record]]:
    """Yield the records at these places, ascending, with the places."""
    if 2 * len(places) > len(manifest):
        wanted = set(places.tolist()) if len(places) < len(manifest) else range(len(manifest))
        with closed_after(manifest.records()) as records:
            yield from ((n, record) for n, record in enumerate(records) if n in wanted)
    elif len(places):
        numbers = manifest.digests.numbers[places]
        with closed_after(manifest.numbered_records(numbers)) as records:
            yield from zip(places.tolist(), records, strict=True)


def compare(
    plan: Plan,
    source: DocumentSource,
    ledger: Ledger,
    rejections: Rejections,
    progress: Progress,
    seen: IdSet | None = None,
) -> None:
    """Look once at each record that has to be. Images are read only where their stamp changed.

    Args:
        plan: Is given the work of each.
        source: The manifest and how its records become documents.
        ledger: Of the index, and as the index is. An image whose bytes are as they were, under
            another stamp, gets its new one here.
        rejections: Takes the records whose metadata do not fit, and those whose id is that of
            another data set's document.
        progress: Advances by one a record.
        seen: Is given the id of every record that is looked at, whatever its split.
    """
    with closed_after(records_at(source.manifest, plan.looked_at)) as records:
        for place, record in records:
            looked = look(plan, place, record, source, ledger, rejections, seen)
            plan.works[place] = looked.work
            progress.advance()
    ledger.commit()


class Looked(NamedTuple):
    """What one record needs.

    Attributes:
        work: That.
        record: By the id that the index knows it by.
        image: None for a record that no document is made of.
        known: What the ledger knows of its document.
    """

    work: Work
    record: Record
    image: PlannedImage | None = None
    known: Entry | None = None


def look(
    plan: Plan,
    place: int,
    record: Record,
    source: DocumentSource,
    ledger: Ledger,
    rejections: Rejections,
    seen: IdSet | None = None,
) -> Looked:
    """Compare one record with the ledger; see `compare`."""
    plan.passed += 1
    if _is_known_by_earlier_id(record, source, ledger) and record.earlier_id is not None:
        # Fed by its new id it would be in the index twice.
        record = replace(record, id=record.earlier_id)
        plan.by_earlier_id[place] = source.id_of(record)
        plan.noted.add(place)
    if seen is not None:
        seen.add(source.id_of(record))
    if not source.wants(record):
        return Looked(Work.NONE, record)
    try:
        image = source.image(record, place)
        if source.encoder:
            # All but the embedding is checked before any image work is spent on it.
            check_document(replace(image.document, embedding=ANY_EMBEDDING), ANY_EMBEDDING.size)
    except DocumentError as error:
        rejections.add(source.id_of(record), "rejected document", str(error))
        return Looked(Work.NONE, record)
    known = ledger.get(image.entry.id)
    holder = None if known is None else _other_holder(known, record, source)
    if holder is not None:
        reason = held_sentence(holder, source.data_set, source.manifests)
        rejections.add(image.entry.id, HELD_KIND, reason)
        return Looked(Work.NONE, record)
    if image.blanked:
        plan.blanked += 1
        plan.noted.add(place)
    return Looked(_work(record, image, known, source, ledger), record, image, known)


def _is_known_by_earlier_id(record: Record, source: DocumentSource, ledger: Ledger) -> bool:
    if record.earlier_id is None or ledger.get(source.id_of(record)) is not None:
        return False
    known = ledger.get(source.data_set.id_prefix + record.earlier_id)
    return known is not None and known.data_set in (UNCLAIMED, source.data_set.name)


def _work(
    record: Record, image: PlannedImage, known: Entry | None, source: DocumentSource, ledger: Ledger
) -> Work:
    new = image.entry
    if known is None or known.encoder != new.encoder:
        return Work.EMBED
    if not new.stamp or known.stamp != new.stamp:
        if source.content_of(record) != known.content:
            return Work.EMBED
        if known.stamp != new.stamp:
            ledger.put(replace(known, stamp=new.stamp, size=new.size), known)
    same = known.fields == new.fields or known.fields in hashes_before(image.document)
    return Work.UNCHANGED if same else Work.UPDATE


def _other_holder(known: Entry, record: Record, source: DocumentSource) -> str | None:
    """Return who holds the document, where that is not the data set that is fed; else None."""
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
    """Yield a partial update for each record of which only captions or metadata changed."""
    with closed_after(plan.numbered(source.manifest, Work.UPDATE)) as records:
        for place, record in records:
            image = source.image(record, place)
            known = ledger.get(image.document.id)
            if known is not None:
                yield update_step(image, known)


def update_step(image: PlannedImage, known: Entry) -> Step:
    """Return all of the document but its embedding, which is as it was."""
    document = image.document
    # The stamp of the comparison: the image may have changed since.
    entry = replace(image.entry, content=known.content, stamp=known.stamp)
    # Of the image itself nothing has changed, nor how it looks.
    parts = document.parts | {"content": known.content}
    del parts["look"]
    update = Update(document.id, **parts)
    return Step(update, entry, known=known, place=image.place)
