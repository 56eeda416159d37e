"""Which records a feed has to look at, by the digests of those that the last feed left in order.

A record's document follows from what its digest is of, and from what is the same for all: the
context. While both are as they were, and the ledger says what the index holds, so is the document.
"""

import hashlib
import sys
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from clipsearch.documents import DOCUMENT_FORM
from clipsearch.feed.ledger.compared import NOT_LOOKED_AT, Compared, Row, document_hashes
from clipsearch.feed.ledger.ledger import FEW_CHANGES, Ledger
from clipsearch.feed.plan import DocumentSource, Places, Plan, Work, records_at
from finetune.read_ahead import closed_after

# With anything that makes another document, or another digest, of the same record.
FORM = 1


@dataclass(frozen=True)
class Comparison:
    """A manifest against the digests of its data set.

    Attributes:
        source: The manifest, as documents.
        context: All that its documents depend on beside their own records, as a hash.
        ids: uint64[n], a hash of each record's document id.
        looked_at: Places of the records to look at; None for all.
        gone: Ids of documents whose records are no longer there; None where that is not known.
        gone_count: How many those are, with or without their ids; None where that is not known.
    """

    source: DocumentSource
    context: str
    ids: npt.NDArray[np.uint64]
    looked_at: Places | None
    gone: list[str] | None
    gone_count: int | None

    @classmethod
    def of(cls, source: DocumentSource, ledger: Ledger, *, prune: bool) -> "Comparison":
        """Find out, from a ledger that says what the index holds.

        With `prune` everything is looked at where documents are of no data set.
        """
        name = source.data_set.name
        context = _context(source)
        digests = source.manifest.digests
        ids = digests.ids
        if source.data_set.id_prefix:
            with closed_after(source.manifest.records()) as records:
                ids = document_hashes(map(source.id_of, records))
        known = ledger.compared(name, context)
        if source.splits or (prune and ledger.has_data_set("")):
            known = None
        if known is None:
            return cls(source, context, ids, None, None, None if ledger.has_data_set(name) else 0)
        looked_at, gone = known.differing(ids, digests.rows)
        unclaimed = ledger.compared_ids(name, known.ids[gone]) if prune and len(gone) else []
        return cls(source, context, ids, looked_at, unclaimed, len(gone))

    def left(self, plan: Plan, ledger: Ledger) -> int:
        """Count the documents of the data set that the manifest has no record for.

        Where all records were looked at, all ids are read.
        """
        if self.gone_count is not None:
            return max(self.gone_count - len(set(plan.by_earlier_id.values())), 0)
        return len(self.lacking(plan, ledger))

    def lacking(self, plan: Plan, ledger: Ledger) -> list[str]:
        """Return the ids of those documents; all ids are read."""
        kept = set(plan.by_earlier_id.values())
        names = [name for name in ledger.ids_of(self.source.data_set.name) if name not in kept]
        return list(compress(names, ~np.isin(document_hashes(names), self.ids)))

    def remember(self, plan: Plan, ledger: Ledger, removed: int) -> None:
        """Write the digests of what the index holds now, at the end of a feed.

        Where many have changed, those of all documents of the data set. `removed` is how many
        documents were.
        """
        if self.looked_at is not None and max(len(self.looked_at), removed) <= FEW_CHANGES:
            changes = self._changes(plan, self.looked_at)
            if changes or plan.passed:
                ledger.remember_compared(self.source.data_set.name, self.context, changes)
            return
        rows = self._all_rows(plan, ledger)
        if rows is not None:
            ledger.remember_compared(self.source.data_set.name, self.context, rows)

    def _changes(self, plan: Plan, looked_at: Places) -> dict[str, Row | None]:
        rows = self.source.manifest.digests.rows
        with closed_after(records_at(self.source.manifest, looked_at)) as records:
            return {
                self.source.id_of(record): NOT_LOOKED_AT if place in plan.noted else rows[place]
                for place, record in records
                if plan.works[place] in (Work.UNCHANGED, Work.HELD)
                and place not in plan.by_earlier_id
            }

    def _all_rows(self, plan: Plan, ledger: Ledger) -> tuple[list[str], Compared] | None:
        works = np.frombuffer(bytes(plan.works), np.uint8)
        agree = (works == Work.UNCHANGED) | (works == Work.HELD)
        agree[list(plan.noted)] = False
        ids, rows = self.ids[agree], self.source.manifest.digests.rows[agree]
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
        names = ledger.ids_of(self.source.data_set.name)
        hashes = document_hashes(names)
        if len(np.unique(hashes)) < len(hashes) or (ids[1:] == ids[:-1]).any():
            return None  # two ids of one hash: then every record is looked at each time
        all_rows = np.zeros((len(hashes), 2), np.uint64)
        if len(ids):
            found = np.minimum(np.searchsorted(ids, hashes), len(ids) - 1)
            is_there = ids[found] == hashes
            all_rows[is_there] = rows[found[is_there]]
        return names, Compared(hashes, all_rows)


def _context(source: DocumentSource) -> str:
    columns = source.columns
    parts = (
        FORM,
        DOCUMENT_FORM,
        sys.version_info[:2],
        sorted(columns.numbers),
        sorted(columns.tags),
        sorted(columns.asked_numbers),
        source.encoder or source.made_by,
        source.data_set.id_prefix,
        source.absolute_paths,
        source.manifest.layout,
        # What an earlier version has compared needs no second look.
        *([] if columns.keep_split else ["no split"]),
    )
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()
