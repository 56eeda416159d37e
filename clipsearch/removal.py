"""Removing documents, from the ledger first and then from the index."""

from collections.abc import Iterator, Mapping, Sequence

from clipsearch.engine import Delete, Engine, Outcome
from clipsearch.ledger import IdSet, Ledger
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


def prune(engine: Engine, ledger: Ledger, manifest_ids: IdSet) -> Iterator[Outcome]:
    """Remove every document whose id the manifest does not have."""
    gone = [document.id for document in engine.visit() if document.id not in manifest_ids]
    if gone:
        yield from delete(engine, ledger, gone)


def why_not_prune(problems: Mapping[str, int]) -> str | None:
    """A sentence where problems of the manifest (counts by kind) may hide images; else None.

    A disk that is not mounted makes every image a missing file: that must not empty the index.
    """
    hiding = {kind: count for kind, count in problems.items() if kind not in HARMLESS_PROBLEMS}
    if not hiding:
        return None
    listed = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(hiding.items()))
    return f"nothing was pruned, since problems of the manifest may hide images ({listed})"
