"""Milliseconds of a warm query, from tokens and query vector to hits with their captions.

    python benchmarks/search.py                                    # 20,000 and 200,000 documents
    python benchmarks/search.py --documents 1000000 --kinds unclustered --no-peers

Captions are 8 to 15 words with frequencies after Zipf, vectors are unclustered and clustered
(`made_up`); queries are 1 to 6 words of a document, and a vector near one. k is 10, without facets.
Recall is that of the vector part against the exact cosines, among the first 10 and 100.

Peers stand beside it in the same run where they are installed (`pip install -r
benchmarks/requirements.txt`): tantivy for words; usearch for vectors, its expansion raised until
its recall is as wanted; both one after the other for hybrid, without fusing or documents; and
NumPy's product of all vectors. A time is the median of all queries, and behind it the processor
time of all threads: on a machine that is shared with others the second tells more.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from made_up.documents import KINDS, Collection, make_collection

from clipsearch.engine import EngineQuery, IndexInfo, Upsert
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.modes import Mode

MODES: tuple[Mode, ...] = ("bm25", "vector", "hybrid", "hybrid-rrf", "hybrid-normalized")
WANTED = {10: 0.99, 100: 0.95}
EXPANSIONS = (64, 128, 256, 512, 1024, 2048, 4096)
Slots = npt.NDArray[np.int64]
Ask = Callable[[EngineQuery], object]


@dataclass(frozen=True)
class Timed:
    """Medians in ms: of the clock, and of the processor time of all threads."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} ({self.cpu:.2f})"


def timed(ask: Ask, queries: Sequence[EngineQuery]) -> Timed:
    """Of every query, after a round that warms caches."""
    for query in queries:
        ask(query)
    wall, cpu = [], []
    for query in queries:
        began, used = time.perf_counter(), time.process_time()
        ask(query)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return Timed(1e3 * float(np.median(wall)), 1e3 * float(np.median(cpu)))


def fed(folder: Path, collection: Collection) -> LocalEngine:
    dimension = collection.embeddings.shape[1]
    engine = LocalEngine.create(folder / "index", IndexInfo(dimension))
    for outcome in engine.feed(map(Upsert, collection.documents())):
        assert outcome.error is None, outcome.error
    engine.finish_feed()
    return engine


def exact(collection: Collection) -> Slots:
    """The numbers of the 100 nearest of each query, best first."""
    products = collection.embeddings @ collection.asked.T
    best = np.argpartition(-products, 100, axis=0)[:100]
    order = np.argsort(-np.take_along_axis(products, best, axis=0), axis=0)
    return np.take_along_axis(best, order, axis=0).T


def recall(found: Sequence[Slots], truth: Slots, count: int) -> float:
    shares = [len({*f[:count]} & {*t[:count]}) / count for f, t in zip(found, truth, strict=True)]
    return float(np.mean(shares))


def our_recall(engine: LocalEngine, queries: Sequence[EngineQuery], truth: Slots) -> str:
    shown = []
    for count in WANTED:
        found = []
        for query in queries:
            page = engine.search(replace(query, mode="vector", k=count))
            numbers = [int(hit.document.id[-11:-4]) for hit in page.hits]
            found.append(np.array(numbers))
        shown.append(f"@{count} {recall(found, truth, count):.3f}")
    return " ".join(shown)


def usearch_index(collection: Collection) -> Any:
    from usearch.index import Index

    index = Index(ndim=collection.embeddings.shape[1], metric="ip", dtype="f16", connectivity=16)
    began = time.perf_counter()
    index.add(np.arange(len(collection.embeddings)), collection.embeddings)
    print(f"usearch: built in {time.perf_counter() - began:.0f} s")
    return index


def usearch_asks(
    index: Any, queries: Sequence[EngineQuery], truth: Slots
) -> Iterator[tuple[str, int, Ask]]:
    """(what is shown, count, how it is asked) at the first expansion that finds enough."""
    for count, wanted in WANTED.items():
        for expansion in EXPANSIONS:
            index.expansion_search = expansion
            found = [np.asarray(index.search(query.vector, count).keys) for query in queries]
            reached = recall(found, truth, count)
            if reached >= wanted:
                break

        def ask(query: EngineQuery, count: int = count, expansion: int = expansion) -> object:
            index.expansion_search = expansion
            return index.search(query.vector, count)

        yield f"recall@{count} {reached:.3f} at expansion {expansion}", count, ask


def tantivy_ask(collection: Collection, count: int) -> Ask:
    import tantivy

    from clipsearch.text import tokens

    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name="whitespace")
    builder.add_unsigned_field("number", stored=True)
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(200_000_000, 1)
    for number, caption in enumerate(collection.captions):
        writer.add_document(tantivy.Document(text=" ".join(tokens(caption)), number=number))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def ask(query: EngineQuery) -> object:
        terms = [
            (tantivy.Occur.Should, tantivy.Query.term_query(schema, "text", token))
            for token in dict.fromkeys(query.tokens)
        ]
        return searcher.search(tantivy.Query.boolean_query(terms), count, count=True).hits

    return ask


def show(what: str, times: object, note: str = "") -> None:
    print(f"{what:28} {times!s:>20}   {note}".rstrip())


def compare(collection: Collection, *, peers: bool) -> None:
    queries, truth = collection.queries(), exact(collection)
    with tempfile.TemporaryDirectory() as folder:
        engine = fed(Path(folder), collection)
        print(f"{'':28} {'ms (processor ms)':>20}")
        ours = {}
        for mode in MODES:
            asked = [replace(query, mode=mode) for query in queries]
            ours[mode] = timed(engine.search, asked)
            note = our_recall(engine, queries, truth) if mode == "vector" else ""
            show(mode, ours[mode], f"recall {note}" if note else "")
        asked = [replace(query, mode="vector", exact=True) for query in queries]
        exactly = timed(engine.search, asked)
        matrix = np.ascontiguousarray(collection.embeddings)
        scan = timed(lambda query: matrix @ query.vector, queries)
        show("vector, exact", exactly, f"{exactly.wall / scan.wall:.2f} of NumPy's product")
        show("NumPy: all products", scan)
        hybrid = ours["hybrid"]
        show("hybrid-rrf of hybrid", f"{ours['hybrid-rrf'].wall / hybrid.wall:.2f}")
        show("hybrid-normalized of hybrid", f"{ours['hybrid-normalized'].wall / hybrid.wall:.2f}")
        if peers:
            beside(collection, queries, truth, ours)
        engine.close()


def beside(
    collection: Collection,
    queries: Sequence[EngineQuery],
    truth: Slots,
    ours: dict[Mode, Timed],
) -> None:
    words = tantivy_ask(collection, 100)
    show("tantivy", timed(tantivy_ask(collection, 10), queries), "10 hits and their count")
    index = usearch_index(collection)
    for note, count, ask in usearch_asks(index, queries, truth):
        alone = timed(ask, queries)
        show(f"usearch, {count} nearest", alone, note)
        if count == 10:
            show("vector of usearch", f"{ours['vector'].wall / alone.wall:.2f}")
        else:
            both = timed(lambda query, ask=ask: (words(query), ask(query)), queries)
            show("tantivy + usearch, 100 each", both)
            show("hybrid of both", f"{ours['hybrid'].wall / both.wall:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    peers = not asked.no_peers
    if peers:
        try:
            import tantivy  # noqa: F401
            import usearch  # noqa: F401
        except ImportError:
            print("no peers: pip install -r benchmarks/requirements.txt")
            peers = False
    for count in asked.documents:
        for kind in asked.kinds:
            print(f"\n{count:,} documents of {asked.dimension} values, {kind}")
            compare(make_collection(count, asked.dimension, kind, asked.queries), peers=peers)


if __name__ == "__main__":
    main()
