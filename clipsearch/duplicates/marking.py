"""What groups of near duplicates share, written into the index: `query --collapse` goes by it."""

from collections.abc import Iterator, Sequence

from clipsearch.documents import Document, look_of
from clipsearch.duplicates.grouping import DuplicateGroup, Reason
from clipsearch.engine import Engine
from clipsearch.operations import Update
from finetune.errors import EngineError


def mark(
    engine: Engine,
    documents: Sequence[Document],
    groups: Sequence[DuplicateGroup],
    reasons: Sequence[Reason],
) -> int:
    """Write one look for each group, and one for each document that had none; how many changed.

    Where the groups are by embedding, no look is left that documents of two groups, or of none,
    share: each of these groups and documents is given one of its own. So a group of before that
    has fallen apart is none any more. Documents of equal content look alike in any case.

    Embeddings, captions and all else stay, and so does what ledgers know. A document whose image
    changes is given a look of its own again by the feed. Raises EngineError.
    """
    updates = _updates(documents, groups, by_embedding="embedding" in reasons)
    outcomes = list(engine.feed(updates))
    engine.finish_feed()
    for outcome in outcomes:
        if outcome.error is not None:
            raise EngineError(f"{outcome.operation.id}: was not marked: {outcome.error}")
    return len(outcomes)


def _updates(
    documents: Sequence[Document], groups: Sequence[DuplicateGroup], *, by_embedding: bool
) -> Iterator[Update]:
    firsts = {
        member.document.id: group.members[0].document
        for group in groups
        for member in group.members
    }
    holders: dict[str, set[str]] = {}
    for document in documents:
        first = firsts.get(document.id, document)
        holders.setdefault(look_of(document), set()).add(first.id)
    for document in documents:
        first = firsts.get(document.id, document)
        look = look_of(first) if document.id in firsts else document.look
        if not look or (by_embedding and len(holders[look]) > 1):
            look = first.content or first.id
        if look != document.look:
            yield Update(document.id, look=look)
