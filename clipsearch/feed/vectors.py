"""Ready-made vectors on their way from the manifest to the engine, compared as they pass.

No image is looked at, so that nothing has to be planned: a record is read once, compared with the
ledger, and written where it is new or has changed. Where most records are looked at, those that are
new and plain pass by columns, some thousands at once; any other is a record by itself.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from clipsearch.document_columns import DocumentColumns
from clipsearch.documents import Embedding
from clipsearch.feed.columns import parts_of
from clipsearch.feed.ledger.entry import hashed_fields
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.feed.pipeline import Rejection, Step, StepMany, upsert_step
from clipsearch.feed.plan import (
    DocumentSource,
    Looked,
    Plan,
    Work,
    look,
    records_at,
    update_step,
)
from clipsearch.feed.report import Rejections
from clipsearch.operations import UpsertMany
from clipsearch.storable import is_storable_json
from finetune.manifest.manifest import Manifest, Record
from finetune.manifest.merging.record_block import RecordBlock
from finetune.read_ahead import closed_after

RECORDS_AT_ONCE = 256
BLOCK_RECORDS = 8192


@dataclass(frozen=True)
class VectorSteps:
    """The steps of a feed of ready-made vectors; the works of all records go into `plan`.

    Attributes:
        plan, source, ledger, rejections: Of the feed.
        seen: Is given the id of every record that is looked at; None where nobody asks.
    """

    plan: Plan
    source: DocumentSource
    ledger: Ledger
    rejections: Rejections
    seen: IdSet | None

    def all(self) -> Iterator[Step | StepMany | Rejection]:
        """Yield a step for each record looked at that needs one, or for many at once."""
        places, manifest = self.plan.looked_at, self.source.manifest
        source = self.source
        if 2 * len(places) <= len(manifest) or source.absolute_paths or source.made_by:
            yield from self._one_by_one(records_at(manifest, places))
            return
        wanted = np.zeros(len(manifest), bool)
        wanted[places] = True
        first = 0
        with closed_after(manifest.record_blocks(BLOCK_RECORDS)) as blocks:
            for block in blocks:
                yield from self._block(block, first, wanted[first : first + len(block.ids)])
                first += len(block.ids)

    def _one_by_one(self, numbered: Iterator[tuple[int, Record]]) -> Iterator[Step | Rejection]:
        plan, source, ledger = self.plan, self.source, self.ledger
        with closed_after(numbered) as records:
            while group := list(islice(records, RECORDS_AT_ONCE)):
                ledger.read_ahead([source.id_of(record) for _, record in group])
                waiting = []
                for place, record in group:
                    looked = look(plan, place, record, source, ledger, self.rejections, self.seen)
                    plan.works[place] = looked.work
                    if looked.work == Work.EMBED:
                        waiting.append(looked)
                    elif looked.work == Work.UPDATE and looked.image and looked.known:
                        yield update_step(looked.image, looked.known)
                yield from _upserts(waiting, source)

    def _block(
        self, block: RecordBlock, first: int, wanted: npt.NDArray[np.bool_]
    ) -> Iterator[Step | StepMany | Rejection]:
        """Yield the steps of the `wanted` records of a block, the first of which is at `first`."""
        source = self.source
        prefix = source.data_set.id_prefix
        ids = [prefix + id for id in block.ids] if prefix else block.ids
        known = self.ledger.knows(ids)
        at_once = wanted & np.array(block.is_plain, bool)
        at_once &= np.array([id not in known for id in ids], bool)
        if source.splits:
            at_once &= np.array([split in source.splits for split in block.splits], bool)
        step = None
        if block.embeddings is not None and None not in block.contents:
            step = self._many(block, ids, at_once, first)
        if step is not None:
            at_once[:] = False
            at_once[step.places - first] = True
            wanted = wanted & ~at_once
            if self.seen is not None:
                self.seen.add_all(step.operation.documents.ids)
            self.plan.passed += len(step.places)
            np.frombuffer(self.plan.works, np.uint8)[step.places] = Work.EMBED
            yield step
        places = np.flatnonzero(wanted)
        if len(places):
            manifest = source.manifest
            yield from self._one_by_one(
                (first + at, manifest.record_of(block.rows[at])) for at in places.tolist()
            )

    def _many(
        self, block: RecordBlock, ids: Sequence[str], at_once: npt.NDArray[np.bool_], first: int
    ) -> StepMany | None:
        """Return the step of new records of a block, without those that are not plain."""
        assert block.embeddings is not None
        units, has_length = _units(block.embeddings)
        parts, fits = parts_of(block, self.source.columns, self.source.data_set.name)
        fields = hashed_fields(parts)
        is_plain = np.array(list(map(is_storable_json, fields)), bool)
        places = np.flatnonzero(at_once & has_length & fits & is_plain)
        if not len(places):
            return None
        documents = DocumentColumns(ids, parts, units)
        contents = [content for content in block.contents if content is not None]
        if len(places) < len(ids):
            documents = documents.rows(places)
            fields, contents = ([held[at] for at in places.tolist()] for held in (fields, contents))
        hashes = [hashlib.sha256(each).digest() for each in fields]
        return StepMany(UpsertMany(documents), hashes, contents, places + first)


def _upserts(waiting: list[Looked], source: DocumentSource) -> Iterator[Step | Rejection]:
    given = [each.record.embedding for each in waiting]
    units = iter(unit_vectors([vector for vector in given if vector is not None]))
    for looked, vector in zip(waiting, given, strict=True):
        image = looked.image
        assert image is not None  # of a record to be written
        unit = None if vector is None else next(units)
        if unit is None:
            reason = "has no embedding" if vector is None else "its embedding is all zeros"
            yield Rejection(image.document.id, "rejected document", reason)
        else:
            # Of the image itself where its encoder is known: a feed of the image finds it then.
            content = source.content_of(looked.record) or ""
            yield upsert_step(image, unit, content, looked.known)


def unit_vectors(vectors: list[Embedding]) -> list[Embedding | None]:
    """Scale each to unit length, float32[d]; None for one that is all zeros."""
    if not vectors:
        return []
    units, has_length = _units(np.stack(vectors))
    return [
        unit if is_some else None for unit, is_some in zip(units, has_length.tolist(), strict=True)
    ]


def _units(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the rows of float32[n, d] at unit length, and which are not all zeros, bool[n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        # What is not finite the engine refuses, with a reason.
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        units = vectors / np.where(lengths == 0, 1, lengths).astype(np.float32)[:, None]
    return units, lengths != 0


def both(
    first: Step | StepMany, rest: Iterator[Step | StepMany | Rejection]
) -> Iterator[Step | StepMany | Rejection]:
    """Yield the first step, taken out to see whether there is any, and then the others."""
    with closed_after(rest):
        yield first
        yield from rest


def first_vector(manifest: Manifest) -> Embedding | None:
    """Return the ready-made vector of a manifest's first record, None where it has none."""
    with closed_after(manifest.records()) as records:
        return next(records).embedding
