"""The ledger against the index: brought to what that holds, where others may have written to it."""

from dataclasses import replace

from clipsearch.documents import Document
from clipsearch.engine import Engine
from clipsearch.feed.ledger.entry import Entry, hash_of_fields, is_hash_of
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.mark import FeedMark

# In place of an encoder's fingerprint: whatever feeds the document makes its embedding anew.
MAY_BE_LOST = "may be lost"


def reconcile(ledger: Ledger, engine: Engine, mark: FeedMark, data_set: str | None) -> list[str]:
    """Make the ledger say what the index holds; sentences about what it had wrong.

    Documents are counted; they are visited only where the ledger may lack any, or claim one that
    is gone.

    Args:
        ledger: Of any index.
        engine: The index.
        mark: Of this feed.
        data_set: That is about to be fed, where that is known: a stopped feed of it goes on.
    """
    notes = []
    if ledger.index_id != engine.info.index_id:
        if len(ledger):
            notes.append(f"{ledger.path} was about another index, and starts over")
        fed_here = _places_here(ledger, engine)
        ledger.start_over(engine.info.index_id)
        for name, paths in fed_here.items():
            ledger.remember_place(name, paths)
    elif ledger.converted:
        cost = "nothing is encoded for it"
        if ledger.converted == "1":
            cost = "this feed reads every picture once, and encodes none for it"
        notes.append(f"{ledger.path} is of an earlier version and was converted: {cost}")
    if not _may_be_trusted(ledger, engine, mark, data_set):
        notes += _visit(ledger, engine)
    mark.agree()
    return notes


def _places_here(ledger: Ledger, engine: Engine) -> dict[str, tuple[str, ...]]:
    """Return the places of data sets that the index knows too.

    An index that knows them was emptied, and is not another one.
    """
    lie = {each.name: {each.manifest, each.resolved} for each in engine.info.data_sets}
    return {
        name: paths
        for name, paths in ledger.places_fed.items()
        if lie.get(name, set()).intersection(paths)
    }


def _may_be_trusted(ledger: Ledger, engine: Engine, mark: FeedMark, data_set: str | None) -> bool:
    if mark.is_current():
        return ledger.counts().held <= engine.count() <= len(ledger)
    # What was acknowledged last before the stop is in the index alone.
    return mark.goes_on(data_set) and ledger.counts().held <= engine.count()


def _visit(ledger: Ledger, engine: Engine) -> list[str]:
    info = engine.info
    # Where embeddings may be gone, a document does not tell that its own is there.
    encoder = MAY_BE_LOST if info.may_lack_embeddings else info.encoder_fingerprint or ""
    changed = 0
    held = ledger.id_set()
    for document in engine.visit():
        held.add(document.id)
        known = ledger.get(document.id)
        entry = _entry(document, known, encoder)
        if entry != known:
            ledger.put(entry)
            changed += known is not None and _differs(known, document)
    gone = ledger.keep_only(held)
    notes = []
    if gone:
        notes.append(f"{gone:,} documents had gone from the index and are fed anew")
    if changed:
        notes.append(f"{changed:,} documents were changed since by another feed")
    return notes


def _differs(known: Entry, document: Document) -> bool:
    """Return whether the document is another one than the ledger says.

    A digest of the earlier form is no difference.
    """
    return known.fields != "" and not is_hash_of(known.fields, document)


def _entry(document: Document, known: Entry | None, encoder: str) -> Entry:
    """Return what is known of a document that the index holds, from itself and from its entry."""
    fields = hash_of_fields(document)
    owner = document.data_set or ("" if known is None else known.data_set)
    if known is not None:
        # Of a document without a content (an earlier version's) the fields alone can tell.
        as_known = bool(known.fields) and not _differs(known, document)
        if document.content == known.content or (not document.content and as_known):
            return replace(known, fields=fields, data_set=owner)
    # Nothing that the ledger knew of the image may be taken for it any more.
    return Entry(document.id, "", document.content, encoder, fields, owner)
