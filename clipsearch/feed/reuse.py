"""Embeddings that the index has already: renamed, moved and copied images are not encoded again.

Images are the same where the sha256 of their bytes is. Hashing means reading, so it is spent only
where it may help:

- An image of a size in bytes that no other has, in the index or in this feed, is new: it is read
  once, to be decoded. That is nearly every photograph.
- One of a size that is known is hashed first. If a document of the same encoder was made from
  these bytes, its embedding is read from the index: one read of the file and one of a document (a
  request, on a Vespa), in place of decoding and encoding. Otherwise the file is read a second time
  to be decoded. So images that all have one size (uncompressed ones, say) are read twice.
- Of images that are equal within one feed the first is encoded; the others follow when it is in
  the index.

What is read from the index counts only if the document still says that it was made from these
bytes; otherwise the image is encoded.
"""

from collections.abc import Generator
from dataclasses import replace
from itertools import islice

from clipsearch.documents import Document
from clipsearch.engine import Engine
from clipsearch.feed.contents import content_of_image
from clipsearch.feed.ledger.entry import Entry
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.tables import ContentTable, Hashed
from clipsearch.feed.pipeline import Step, upsert_step
from clipsearch.feed.plan import DocumentSource, Plan, Work
from finetune.console import Progress
from finetune.manifest.manifest import Record

DOCUMENTS_AT_ONCE = 200


def plan_reuse(
    plan: Plan, source: DocumentSource, ledger: Ledger, contents: ContentTable, progress: Progress
) -> None:
    """Find the images to be encoded whose embedding is there, or comes from an equal one.

    Their work becomes REUSE or DUPLICATE. `contents` keeps what was hashed; `progress` advances
    by one for each image that was to be encoded.
    """
    for number, record in plan.numbered(source.manifest, Work.EMBED):
        plan.works[number] = _work(record, source, ledger, contents)
        progress.advance()


def _work(record: Record, source: DocumentSource, ledger: Ledger, contents: ContentTable) -> Work:
    image = record.image
    if image is None:
        return Work.EMBED
    entry = source.image(record).entry
    if not entry.size:
        return Work.EMBED
    known, met = ledger.has_size(entry.size), contents.has_size(entry.size)
    if not met:
        contents.add_size(entry.size, image, hashed=known)
    elif (first := contents.take_unhashed(entry.size)) is not None:
        contents.add(content_of_image(first) or "")
    if not known and not met:
        return Work.EMBED
    content = content_of_image(image)
    if content is None:
        return Work.EMBED
    contents.remember(entry.id, Hashed(content, entry.stamp))
    if ledger.holder(content, entry.size, source.encoder) is not None:
        return Work.REUSE
    if content in contents:
        return Work.DUPLICATE
    contents.add(content)
    return Work.EMBED


def reused(
    plan: Plan,
    source: DocumentSource,
    ledger: Ledger,
    engine: Engine,
    contents: ContentTable,
    work: Work,
) -> Generator[Step, None, None]:
    """Yield a whole document for each record of this `work`, with an embedding out of the index.

    A record whose embedding is not there after all is left to be encoded (EMBED).
    """
    written: set[str] = set()
    records = plan.numbered(source.manifest, work)
    while group := list(islice(records, DOCUMENTS_AT_ONCE)):
        holders = [_holder(record, source, ledger, contents) for _, record in group]
        wanted = [holder.id for _, holder in holders if holder is not None]
        found = dict(zip(wanted, engine.get(wanted, embeddings=True), strict=True))
        for (number, record), (hashed, holder) in zip(group, holders, strict=True):
            document = None if holder is None else found[holder.id]
            if document is None or not _is_from(document, hashed.content, written):
                plan.works[number] = Work.EMBED
                continue
            assert document.embedding is not None
            image = source.image(record, number)
            image = replace(image, entry=replace(image.entry, stamp=hashed.stamp))
            written.add(image.document.id)
            step = upsert_step(image, document.embedding, hashed.content, look=document.look)
            yield replace(step, reused=True)


def _holder(
    record: Record, source: DocumentSource, ledger: Ledger, contents: ContentTable
) -> tuple[Hashed, Entry | None]:
    entry = source.image(record).entry
    hashed = contents.hashed(entry.id) or Hashed("", "")
    return hashed, ledger.holder(hashed.content, entry.size, source.encoder)


def _is_from(document: Document, content: str, written: set[str]) -> bool:
    """Return whether the embedding is that of this content.

    `written` are ids that this feed has changed.

    Documents of an earlier version do not say what they were made from: the ledger does.
    """
    if document.embedding is None:
        return False
    if document.content:
        return document.content == content
    return document.id not in written
