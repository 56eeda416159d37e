"""The queries of a measurement, and how they are asked, from whatever the user has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.feed.data_sets import ManifestPlace
from clipsearch.relevance.collection import Collection
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.judgments import read_judgments
from clipsearch.relevance.leave_one_out import caption_queries
from clipsearch.relevance.splits import held_out
from clipsearch.search.finding import find_documents
from clipsearch.search.search import Search
from finetune.errors import UsageError
from finetune.manifest.manifest import Manifest
from finetune.manifest.splits import SPLITS

ALL_SPLITS = "all"
SPLIT_CHOICES = (*SPLITS, ALL_SPLITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySource:
    """Where queries come from: judgments, a manifest, or the index's own captions (neither given).

    Attributes:
        queries: Judgments (`clipsearch.relevance.judgments`), or topics.
        qrels: Of the topics.
        manifest: Its captions are the queries, each with one caption left out.
        images: Where the manifest's relative paths are looked for last.
        split: Of captions, the images' split; of BEIR's folder, its qrels. "all": every caption.
    """

    queries: Path | None = None
    qrels: Path | None = None
    manifest: Path | None = None
    images: Path | None = None
    split: str = "test"

    def check(self) -> None:
        """Raise UsageError for a combination that cannot work."""
        if self.queries is not None and self.manifest is not None:
            raise UsageError(
                "--queries and --manifest are two sources of queries; give one of them"
            )
        if self.qrels is not None and self.queries is None:
            raise UsageError(f"--qrels {self.qrels}: name the topics with --queries FILE")
        if self.queries is None and self.split not in SPLIT_CHOICES:
            raise UsageError(f"--split {self.split}: take one of {', '.join(SPLIT_CHOICES)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, with what they are asked of.

    Attributes:
        source: Where they come from, for people.
        queries: At least two.
        collection: The documents in memory, where captions are left out; None: ask the index.
        knows: Whether a word of a query stands in the index, as it is for that query.
        notes: Sentences for the user.
    """

    source: str
    queries: tuple[JudgedQuery, ...]
    collection: Collection | None
    knows: Callable[[JudgedQuery, str], bool]
    notes: tuple[str, ...]


def ask(search: Search, source: QuerySource) -> Asked:
    """Read the queries of `source` for an index.

    Raises UsageError where there are fewer than two, or they do not fit the index, and
    ManifestError for a manifest that cannot be read.
    """
    source.check()
    asked = _judged(search, source) if source.queries is not None else _captions(search, source)
    if len(asked.queries) < 2:
        raise UsageError(
            f"{asked.source}: only one query, of which no interval can be drawn; give more"
        )
    return asked


def collection_of(search: Search) -> Collection:
    """Visit every document of the index once, and hold them all."""
    info = search.info
    return Collection.of(search.engine.visit(embeddings=True), info.dimension, info.language)


def _judged(search: Search, source: QuerySource) -> Asked:
    assert source.queries is not None
    judgments = read_judgments(source.queries, source.qrels, source.split)
    ids = judgments.ids
    found = find_documents(search.engine, ids)
    held = {id_: one.id for id_, one in zip(ids, found, strict=True) if one is not None}
    queries = judgments.queries(held)

    @cache
    def stands_somewhere(word: str) -> bool:
        return search.engine.search(EngineQuery("bm25", tokens=(word,), k=1)).total > 0

    return Asked(
        str(source.queries),
        tuple(queries),
        None,
        lambda _, word: stands_somewhere(word),
        tuple(judgments.notes),
    )


def _captions(search: Search, source: QuerySource) -> Asked:
    info, collection = search.info, collection_of(search)
    notes: list[str] = []
    if source.manifest is None:
        name, captions = search.engine.target, _held_captions(collection, info, source.split)
    else:
        name = str(source.manifest)
        captions, notes = _manifest_captions(search, collection, source)
    if not captions:
        raise UsageError(
            f"{name}: no image of the split {source.split} has a caption to ask with; choose"
            f" another with --split, or --split {ALL_SPLITS}"
        )
    queries = caption_queries(collection, captions, info.language)
    alone = sum(not query.other_captions for query in queries)
    if alone:
        notes.append(
            f"{alone:,} of {len(queries):,} captions are the only one of their images: without it"
            f" no word finds these"
        )
    return Asked(
        f"{name}, split {source.split}, each caption left out while it is asked",
        tuple(queries),
        collection,
        lambda query, word: collection.holding(word, query.removed or {}) > 0,
        tuple(notes),
    )


def _held_captions(collection: Collection, info: IndexInfo, split: str) -> list[tuple[int, str]]:
    every = range(len(collection))
    rows = every if split == ALL_SPLITS else held_out(collection, info, split)
    return [(row, caption) for row in rows for caption in collection.documents[row].captions]


def _manifest_captions(
    search: Search, collection: Collection, source: QuerySource
) -> tuple[list[tuple[int, str]], list[str]]:
    assert source.manifest is not None
    prefix = _id_prefix(search.info, source.manifest, search.engine.target)
    captions: list[tuple[int, str]] = []
    missing: list[str] = []
    with Manifest.open(source.manifest, images=source.images) as manifest:
        split = None if source.split == ALL_SPLITS else source.split
        for record in manifest.records(split):
            row = _row(collection, (f"{prefix}{record.id}", f"{prefix}{record.earlier_id}"))
            if row is None:
                missing.append(record.id)
            else:
                captions += [(row, caption) for caption in record.captions]
    if missing and not captions:
        raise UsageError(
            f"{source.manifest}: none of its images of the split {source.split} is in"
            f" {search.engine.target}, such as {missing[0]}; feed the manifest first"
        )
    notes = []
    if missing:
        notes.append(
            f"{len(missing):,} images of {source.manifest} are not in the index, such as"
            f" {missing[0]}: not asked for"
        )
    return captions, notes


def _row(collection: Collection, ids: Iterable[str]) -> int | None:
    return next((collection.rows[id_] for id_ in ids if id_ in collection.rows), None)


def _id_prefix(info: IndexInfo, manifest: Path, target: str) -> str:
    place = ManifestPlace.of(manifest, target)
    return next((each.id_prefix for each in info.data_sets if place.is_of(each)), "")


def inputs_of(source: QuerySource, others: Sequence[str | Path | None] = ()) -> list[str | Path]:
    """List the files and folders that are read, for the checks of what is written."""
    given = (source.queries, source.qrels, source.manifest, *others)
    return [each for each in given if each is not None]
