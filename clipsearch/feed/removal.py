"""Which documents to remove, and removing them: from the ledger first and then from the index."""

from collections.abc import Iterator, Mapping, Sequence

from clipsearch.engine import Engine
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import IdSet
from clipsearch.operations import Delete, Outcome
from finetune.several import check_several

# Problems of a manifest that take no record away; any other may hide one.
HARMLESS_PROBLEMS = frozenset({"empty caption", "duplicate id", "two splits", "unknown split"})


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


def why_not_prune(problems: Mapping[str, int]) -> str | None:
    """Return a sentence where problems of the manifest (counts by kind) may hide images; else None.

    A disk that is not mounted makes every image a missing file: that must not empty the index.
    """
    hiding = _hiding(problems)
    if not hiding:
        return None
    return (
        f"nothing was pruned, since problems of the manifest may hide images ({hiding}): mend what"
        f" the report names, or remove documents by their ids with clipsearch delete"
    )


def about_left(count: int, manifest: str, problems: Mapping[str, int]) -> str:
    """Return a sentence about `count` documents that stay though the manifest has none of them."""
    what = "1 document stays that" if count == 1 else f"{count:,} documents stay that"
    hiding = _hiding(problems)
    if hiding:
        return f"{what} {manifest} does not have, or its problems hide ({hiding})"
    return f"{what} {manifest} no longer has; feed with --prune to remove {_them(count)}"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _hiding(problems: Mapping[str, int]) -> str:
    hiding = {kind: count for kind, count in problems.items() if kind not in HARMLESS_PROBLEMS}
    return ", ".join(f"{kind}: {count:,}" for kind, count in sorted(hiding.items()))
