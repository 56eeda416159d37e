"""What groups of near duplicates share, written into the index: `query --collapse` goes by it."""

from collections.abc import Iterator, Sequence

from clipsearch.documents import Document, look_of
from clipsearch.duplicates.grouping import DuplicateGroup
from clipsearch.engine import Engine
from clipsearch.operations import Update
from finetune.errors import EngineError


def mark(engine: Engine, documents: Sequence[Document], groups: Sequence[DuplicateGroup]) -> int:
    """Write one look for each group, and one for each document that had none; how many changed.

    Embeddings, captions and all else stay, and so does what ledgers know. A document whose image
    changes is given a look of its own again by the feed. Raises EngineError.
    """
    outcomes = list(engine.feed(_updates(documents, groups)))
    engine.finish_feed()
    for outcome in outcomes:
        if outcome.error is not None:
            raise EngineError(f"{outcome.operation.id}: was not marked: {outcome.error}")
    return len(outcomes)


def _updates(documents: Sequence[Document], groups: Sequence[DuplicateGroup]) -> Iterator[Update]:
    shared = {
        member.document.id: look_of(group.members[0].document)
        for group in groups
        for member in group.members
    }
    for document in documents:
        look = shared.get(document.id) or document.look or document.content or document.id
        if look != document.look:
            yield Update(document.id, look=look)
