"""Which documents of an index are of a split, also where the manifest named none."""

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.feed.columns import SPLIT_COLUMN
from clipsearch.relevance.collection import Collection
from finetune.manifest.splits import HashedSplit


def held_out(collection: Collection, info: IndexInfo, split: str) -> list[int]:
    """Return the rows of documents of the split "train", "val" or "test".

    A document says it by a tag. One without has the split that training gives its record: by a
    hash of the id, without what the index has put before that.
    """
    prefixes = {each.name: each.id_prefix for each in info.data_sets}
    by_hash = HashedSplit()

    def is_of_split(document: Document) -> bool:
        named = document.tags.get(SPLIT_COLUMN)
        if named is None:
            named = by_hash(document.id.removeprefix(prefixes.get(document.data_set, "")))
        return named == split

    return [row for row, document in enumerate(collection.documents) if is_of_split(document)]
