"""Which documents to remove, and removing them: from the ledger first and then from the index."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from clipsearch.engine import Engine
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.operations import Delete, Outcome
from finetune.manifest.image_lookup import id_outside, is_absolute
from finetune.manifest.problems import Problem, Problems
from finetune.several import check_several
from finetune.text.composed import composed
from finetune.text.numerals import without_point_zero

# Problems of a manifest that take no record away; any other may hide one.
HARMLESS_PROBLEMS = frozenset(
    {"empty caption", "unreadable captions", "duplicate id", "two splits", "unknown split"}
)


def delete(engine: Engine, ledger: Ledger, ids: Sequence[str]) -> Iterator[Outcome]:
    """Remove documents, yielding an Outcome each.

    The ledger forgets them before they go: stopped in between, a later feed writes them again,
    and never takes a document that is gone for one that is unchanged.
    """
    check_several(ids, "delete")
    ledger.forget(ids)
    yield from engine.feed(Delete(document_id) for document_id in ids)


def gone_from(
    data_set: str, engine: Engine, ledger: Ledger, manifest_ids: IdSet
) -> tuple[list[str], int]:
    """Return the documents of a data set whose ids its manifest does not have.

    And the number of documents that are of no known data set, and whose ids it does not have.
    Visits every document of the index, without its embedding.
    """
    gone: list[str] = []
    unclaimed = 0
    for document in engine.visit():
        if document.id in manifest_ids:
            continue
        known = None if document.data_set else ledger.get(document.id)
        owner = document.data_set if known is None else known.data_set
        if owner == data_set:
            gone.append(document.id)
        unclaimed += not owner
    return gone, unclaimed


@dataclass(frozen=True)
class Hidden:
    """Documents that are still meant, though problems keep their records out of the manifest.

    A disk that is not mounted makes every image a missing file: that must not empty the index.

    Attributes:
        id_prefix: What the ids of the data set begin with, composed.
        ids: Of such documents, composed, without that.
        beginnings: Of such ids, each with a `/` at its end.
        backwards: Absolute paths of images, sorted, each read from its end: the document of one has
            the rest of it below some folder as its id, whichever folders were there at its feed.
        counts: How many problems of a kind may hide any document, whichever its id.
        first: The first of these.
    """

    id_prefix: str
    ids: frozenset[str]
    beginnings: tuple[str, ...]
    backwards: tuple[str, ...]
    counts: Mapping[str, int]
    first: Problem | None

    @classmethod
    def by(cls, problems: Problems, id_prefix: str) -> Self:
        """Collect what the problems say; the cost grows with their number."""
        ids: set[str] = set()
        beginnings: set[str] = set()
        backwards: set[str] = set()
        counts: Counter[str] = Counter()
        first = None
        for problem in problems if problems.counts else ():
            if problem.kind not in problems.counts or problem.kind in HARMLESS_PROBLEMS:
                continue
            if problem.hides is None:
                counts[problem.kind] += 1
                first = first or problem
                continue
            hides = composed(problem.hides)
            (beginnings if hides.endswith("/") else ids).add(hides)
            if is_absolute(hides):
                ids.update((id_outside(hides), composed(id_outside(problem.hides))))
                backwards.add(hides[::-1])
        return cls(
            composed(id_prefix),
            frozenset(ids),
            tuple(sorted(beginnings)),
            tuple(sorted(backwards)),
            counts,
            first,
        )

    @property
    def anything(self) -> bool:
        """Whether any document may be hidden, whichever its id."""
        return self.first is not None

    @property
    def knows_ids(self) -> bool:
        """Whether any document is hidden by its id."""
        return bool(self.ids or self.beginnings)

    def holds(self, id: str) -> bool:
        """Return whether this document is still meant."""
        # An index may know it by an id of before: decomposed, or "101.0".
        id = composed(id)
        if id.startswith(self.id_prefix):
            return self._has(id.removeprefix(self.id_prefix))
        # So may it by one with another prefix, of any length.
        return self.knows_ids and any(self._has(id[length:]) for length in range(len(id)))

    def _has(self, id: str) -> bool:
        if id in self.ids or without_point_zero(id) in self.ids or id.startswith(self.beginnings):
            return True
        end = id[::-1] + "/"
        place = bisect_left(self.backwards, end)
        return any(path.startswith(end) for path in self.backwards[place : place + 1])


def why_not_prune(hidden: Hidden) -> str:
    """Return a sentence about problems that may hide any document."""
    first = hidden.first
    assert first is not None
    return (
        f"nothing was pruned, since problems of the manifest may hide any image"
        f" ({_listed(hidden.counts)}; the first: {first.where}: {first.reason}): mend what the"
        f" report names, or remove documents by their ids with clipsearch delete"
    )


def about_still_meant(count: int, problems: Mapping[str, int]) -> str:
    """Return a sentence about `count` documents that are still meant, and so not pruned."""
    what = "1 document stays" if count == 1 else f"{count:,} documents stay"
    hiding = {kind: each for kind, each in problems.items() if kind not in HARMLESS_PROBLEMS}
    return f"{what}, of pictures that could not be taken ({_listed(hiding)}; the report names them)"


def about_left(count: int, manifest: str, hidden: Hidden) -> list[str]:
    """Return a sentence about `count` documents that stay though the manifest has none of them."""
    if count < 1:
        return []
    what = "1 document stays that" if count == 1 else f"{count:,} documents stay that"
    if hidden.anything:
        listed = _listed(hidden.counts)
        return [f"{what} {manifest} does not have, or its problems hide ({listed})"]
    them = "it" if count == 1 else "them"
    return [f"{what} {manifest} no longer has; feed with --prune to remove {them}"]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind}: {count:,}" for kind, count in sorted(counts.items()))
