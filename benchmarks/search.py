"""Milliseconds of a warm query, from tokens and query vector to hits with their captions.

    python benchmarks/search.py                                    # 20,000 and 200,000 documents
    python benchmarks/search.py --documents 1000000 --kinds unclustered --no-peers

Captions are 8 to 15 words with frequencies after Zipf, vectors are unclustered and clustered
(`made_up`); queries are 1 to 6 words of a document, and a vector near one. k is 10, without facets.
Recall is that of the vector part against the exact cosines, among the first 10 and 100.

Peers stand beside it in the same run where they are installed (`pip install -r
benchmarks/requirements.txt`): tantivy for words; usearch for vectors, its expansion raised until
its recall is as wanted; both one after the other for hybrid, without fusing or documents; and
NumPy's product of all vectors. A table is printed as soon as it is there: what needs no usearch
first, then what stands beside it, since its index takes most of the time. Where that is not built
within `--minutes` it is given up, and said so. Every query of a table is asked in all its ways by
turns, the least of three rounds counts, and a time is the median over queries; behind it stands the
processor time of all threads.
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

from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.engine import LocalEngine
from clipsearch.modes import Mode
from clipsearch.operations import Upsert

MODES: tuple[Mode, ...] = ("bm25", "vector", "hybrid", "hybrid-rrf", "hybrid-normalized")
WANTED = {10: 0.99, 100: 0.95}
EXPANSIONS = (64, 128, 256, 512, 1024, 2048, 4096)
RATIOS = (
    ("hybrid-rrf", "hybrid"),
    ("hybrid-normalized", "hybrid"),
    ("vector, exact", "NumPy, all products"),
    ("bm25", "tantivy"),
    ("vector", "usearch, 10 nearest"),
    ("hybrid", "tantivy + usearch"),
)
ROUNDS = 3
ADDED_AT_ONCE = 2000
# After a product OpenBLAS keeps its other threads busy waiting for 33 ms, which would fall on what
# is asked next. (Of its own accord a query that is not exact makes no product so large.)
PRODUCTS = ("vector, exact", "NumPy, all products")
BUSY_WAITING = 0.04
Slots = npt.NDArray[np.int64]
Ask = Callable[[EngineQuery], object]
Asks = dict[str, tuple[Ask, Sequence[EngineQuery]]]


@dataclass(frozen=True)
class Timed:
    """Medians in ms: of the clock, and of the processor time of all threads."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:8.2f} ({self.cpu:.2f})"


def timed(asks: Asks) -> dict[str, Timed]:
    """Of every query, each asked in all ways by turns: the least of ROUNDS, after one more."""
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in asks}
    for place in range(len(next(iter(asks.values()))[1])):
        for name in asks:
            found[name].append([])
        for round in range(ROUNDS + 1):
            for name, (ask, queries) in asks.items():
                began, used = time.perf_counter(), time.process_time()
                ask(queries[place])
                took = time.perf_counter() - began, time.process_time() - used
                if name in PRODUCTS:
                    time.sleep(BUSY_WAITING)
                if round:
                    found[name][place].append(took)
    return {
        name: Timed(
            1e3 * float(np.median([min(wall for wall, _ in rounds) for rounds in taken])),
            1e3 * float(np.median([min(cpu for _, cpu in rounds) for rounds in taken])),
        )
        for name, taken in found.items()
    }


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


def usearch_index(collection: Collection, seconds: float) -> Any | None:
    """An index of all vectors; None where it is not built in time."""
    from usearch.index import Index

    vectors = collection.embeddings
    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16)
    began = time.perf_counter()
    for start in range(0, len(vectors), ADDED_AT_ONCE):
        if time.perf_counter() - began > seconds:
            print(f"usearch: given up after {seconds:.0f} s, with {start:,} documents", flush=True)
            return None
        part = vectors[start : start + ADDED_AT_ONCE]
        index.add(np.arange(start, start + len(part)), part)
    print(f"usearch: built in {time.perf_counter() - began:.0f} s", flush=True)
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


def compare(collection: Collection, *, peers: bool, until: float) -> None:
    queries, truth = collection.queries(), exact(collection)
    matrix = np.ascontiguousarray(collection.embeddings)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        engine = fed(Path(folder), collection)
        print(f"fed in {time.perf_counter() - began:.0f} s", flush=True)
        ours: Asks = {
            mode: (engine.search, [replace(query, mode=mode) for query in queries])
            for mode in MODES
        }
        asks = dict(ours)
        exactly = [replace(query, mode="vector", exact=True) for query in queries]
        asks["vector, exact"] = (engine.search, exactly)
        asks["NumPy, all products"] = (lambda query: matrix @ query.vector, queries)
        if peers:
            asks["tantivy"] = (tantivy_ask(collection, 10), queries)
        show(timed(asks), {"vector": f"recall {our_recall(engine, queries, truth)}"})
        index = usearch_index(collection, until - time.perf_counter()) if peers else None
        if index is not None:
            beside, notes = with_usearch(collection, index, queries, truth)
            show(timed({name: ours[name] for name in ("vector", "hybrid")} | beside), notes)
        engine.close()


def ratios(documents: int = 20_000) -> dict[str, float]:
    """For `check.py`: all products without BLAS, which has no threads, beside our modes."""
    collection = make_collection(documents, 512, "unclustered", 24)
    matrix = np.ascontiguousarray(collection.embeddings)
    queries = collection.queries()
    with tempfile.TemporaryDirectory() as folder:
        engine = fed(Path(folder), collection)
        asks: Asks = {
            mode: (engine.search, [replace(query, mode=mode) for query in queries])
            for mode in MODES
        }
        asks["products"] = (lambda query: np.einsum("ij,j->i", matrix, query.vector), queries)
        times = timed(asks)
        engine.close()
    products = times.pop("products").cpu
    return {
        f"{mode}: cpu of NumPy's einsum of all vectors over ours": products / each.cpu
        for mode, each in times.items()
    }


def show(times: dict[str, Timed], notes: dict[str, str]) -> None:
    print(f"{'':30} {'ms (processor ms)':>20}")
    for name, each in times.items():
        print(f"{name:30} {each!s:>20}   {notes.get(name, '')}".rstrip())
    for name, other in RATIOS:
        if name in times and other in times:
            ratio = times[name].wall / times[other].wall
            used = times[name].cpu / times[other].cpu
            print(f"{name + ' / ' + other:30} {ratio:12.2f} ({used:.2f})")
    print(end="", flush=True)


def with_usearch(
    collection: Collection, index: Any, queries: Sequence[EngineQuery], truth: Slots
) -> tuple[Asks, dict[str, str]]:
    """How usearch is asked, and what is to be said of it."""
    words = tantivy_ask(collection, 100)
    asks: Asks = {}
    notes = {}
    for note, count, ask in usearch_asks(index, queries, truth):
        name = f"usearch, {count} nearest"
        asks[name], notes[name] = (ask, queries), note
        if count == 100:
            asks["tantivy + usearch"] = (lambda query, ask=ask: (words(query), ask(query)), queries)
    return asks, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--minutes", type=float, default=10, help="for all tables together")
    asked = parser.parse_args()
    peers = not asked.no_peers
    if peers:
        try:
            import tantivy  # noqa: F401
            import usearch  # noqa: F401
        except ImportError:
            print("no peers: pip install -r benchmarks/requirements.txt")
            peers = False
    began = time.perf_counter()
    tables = [(count, kind) for count in asked.documents for kind in asked.kinds]
    for place, (count, kind) in enumerate(tables):
        print(f"\n{count:,} documents of {asked.dimension} values, {kind}", flush=True)
        made = make_collection(count, asked.dimension, kind, asked.queries)
        # What the last ones are to have is not spent by the first.
        left = began + 60 * asked.minutes - time.perf_counter()
        share = count / sum(each for each, _ in tables[place:])
        compare(made, peers=peers, until=time.perf_counter() + share * left)


if __name__ == "__main__":
    main()
