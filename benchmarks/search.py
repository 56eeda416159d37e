"""Milliseconds of a warm query, from tokens and query vector to hits with their captions.

    python benchmarks/search.py                                  # 200,000 documents of 512 values
    python benchmarks/search.py --documents 20000 --queries 100

Captions are 8 to 15 words, stop words among them, with frequencies after Zipf; embeddings lie in
clusters. Queries are 1 to 6 words of a random document's caption, and its embedding with noise;
k is 10, without facets. Each mode is taken twice: with the vector part through the IVF_HNSW_SQ
index, as above the engine's limit, and exact, as below it. The baseline of the ratio is plain
LanceDB in the same run: a full-text query for bm25, a vector query (refined) for vector, both one
after the other for hybrid, each with the same columns of the ten best. They count no matches and
fuse nothing.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.index import FTS

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo, Page, Upsert
from clipsearch.engines.local.engine import EXACT_LIMIT, LocalEngine
from clipsearch.engines.local.table import TABLE
from clipsearch.modes import Mode
from clipsearch.text import tokens

# fmt: off
STOP_WORDS = [
    "the", "of", "a", "in", "and", "on", "with", "is", "to", "at",
    "an", "by", "for", "from", "are", "two", "over", "near", "under", "its",
]
# fmt: on
VOCABULARY = 20_000
STOP_WORD_SHARE = 0.42
DOCUMENTS_A_CLUSTER = 200
CLUSTER_NOISE = 0.8
QUERY_NOISE = 0.5
MODES: tuple[Mode, ...] = ("bm25", "vector", "hybrid", "hybrid-rrf")


@dataclass(frozen=True)
class Collection:
    """Made-up documents: captions as lists of words, embeddings float32[n, d]."""

    captions: list[list[str]]
    embeddings: npt.NDArray[np.float32]

    def documents(self) -> Iterator[Document]:
        """Each with tags and a number, as a feed would make it."""
        for number, (words, embedding) in enumerate(
            zip(self.captions, self.embeddings, strict=True)
        ):
            name = f"photos/{number % 100:03}/{number:07}.jpg"
            tags = {"class": f"class {number % 30}", "split": "train"}
            numbers = {"year": 2000.0 + number % 25}
            yield Document(name, (" ".join(words),), name, tags, numbers, embedding)


def make_collection(count: int, dimension: int) -> Collection:
    random = np.random.default_rng(0)
    clusters = max(8, count // DOCUMENTS_A_CLUSTER)
    centers = unit(random.standard_normal((clusters, dimension), np.float32))
    embeddings = centers[random.integers(0, clusters, count)]
    for start in range(0, count, 20_000):
        part = embeddings[start : start + 20_000]
        noise = random.standard_normal(part.shape, np.float32) * (CLUSTER_NOISE / dimension**0.5)
        part[:] = unit(part + noise)
    words = [*STOP_WORDS, *(f"word{number}" for number in range(VOCABULARY))]
    stop_shares = 1 / np.arange(1, len(STOP_WORDS) + 1)
    content_shares = 1 / np.arange(1, VOCABULARY + 1)
    shares = np.concatenate(
        [
            STOP_WORD_SHARE * stop_shares / stop_shares.sum(),
            (1 - STOP_WORD_SHARE) * content_shares / content_shares.sum(),
        ]
    )
    lengths = random.integers(8, 16, count)
    drawn = np.searchsorted(np.cumsum(shares), random.random(int(lengths.sum())))
    drawn = np.minimum(drawn, len(words) - 1)
    ends = np.cumsum(lengths)
    captions = [
        [words[word] for word in drawn[end - length : end]]
        for end, length in zip(ends, lengths, strict=True)
    ]
    return Collection(captions, embeddings)


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def make_queries(collection: Collection, count: int) -> list[EngineQuery]:
    random = np.random.default_rng(1)
    dimension = collection.embeddings.shape[1]
    queries = []
    for _ in range(count):
        source = int(random.integers(len(collection.captions)))
        words = collection.captions[source]
        chosen = random.choice(len(words), int(random.integers(1, 7)), replace=False)
        noise = random.standard_normal((dimension,), np.float32)
        vector = unit(collection.embeddings[source] + noise * (QUERY_NOISE / dimension**0.5))
        cut = tokens(" ".join(words[place] for place in chosen))
        queries.append(EngineQuery("bm25", tuple(cut), vector))
    return queries


def fill(folder: Path, collection: Collection) -> None:
    """An index with an approximate vector index, and plain LanceDB's full-text index."""
    count, dimension = collection.embeddings.shape
    engine = LocalEngine.create(folder / "index", IndexInfo(dimension), exact_limit=count - 1)
    start = time.perf_counter()
    for outcome in engine.feed(map(Upsert, collection.documents())):
        assert outcome.error is None, outcome.error
    fed = time.perf_counter()
    engine.finish_feed()
    print(f"fed in {fed - start:.1f} s, finished in {time.perf_counter() - fed:.1f} s more")
    texts = pa.table(
        {
            "id": [document.id for document in collection.documents()],
            "document": [" ".join(words) for words in collection.captions],
            "text": [" ".join(tokens(" ".join(words))) for words in collection.captions],
        }
    )
    table = lancedb.connect(folder / "plain").create_table("texts", texts)
    settings = FTS(
        base_tokenizer="whitespace",
        stem=False,
        remove_stop_words=False,
        ascii_folding=False,
        lower_case=False,
        max_token_length=None,
    )
    table.create_index("text", config=settings)


def milliseconds(
    ask: Callable[[EngineQuery], object], queries: Sequence[EngineQuery]
) -> npt.NDArray[np.float64]:
    """Of every query, after a round that warms caches."""
    for query in queries[:20]:
        ask(query)
    taken = []
    for query in queries:
        start = time.perf_counter()
        ask(query)
        taken.append(time.perf_counter() - start)
    return np.array(taken) * 1000


def baselines(folder: Path) -> dict[str, Callable[[EngineQuery], object]]:
    """Plain LanceDB's own queries for the ten best."""
    texts = lancedb.connect(folder / "plain").open_table("texts")
    vectors = lancedb.connect(folder / "index").open_table(TABLE)

    def full_text(query: EngineQuery) -> object:
        search = texts.search(" ".join(query.tokens), query_type="fts", fts_columns="text")
        return search.select(["id", "document", "_score"]).limit(10).to_list()

    def nearest(query: EngineQuery) -> object:
        search = vectors.search(query.vector, vector_column_name="embedding")
        search = search.distance_type("dot").refine_factor(10)
        return search.select(["id", "document", "_distance"]).limit(10).to_list()

    def both(query: EngineQuery) -> object:
        return full_text(query), nearest(query)

    return {"bm25": full_text, "vector": nearest, "hybrid": both, "hybrid-rrf": both}


def recall(found: Sequence[Page], wanted: Sequence[Page]) -> float:
    """Share of the wanted pages' hits that the found pages hold."""
    shares = []
    for ours, exact in zip(found, wanted, strict=True):
        ids = {hit.document.id for hit in exact.hits}
        shares.append(len(ids & {hit.document.id for hit in ours.hits}) / max(len(ids), 1))
    return float(np.mean(shares))


def measure(folder: Path, count: int, queries: Sequence[EngineQuery]) -> None:
    indexed = LocalEngine.open(folder / "index", exact_limit=count - 1)
    exact = LocalEngine.open(folder / "index", exact_limit=max(count, EXACT_LIMIT))
    plain = baselines(folder)
    print(
        f"{'mode':<12}{'vectors':<9}{'p50 ms':>8}{'p99 ms':>8}"
        f"{'plain p50':>11}{'ratio':>7}{'recall@10':>11}"
    )
    for mode in MODES:
        asked = [replace(query, mode=mode) for query in queries]
        baseline = np.percentile(milliseconds(plain[mode], asked), 50)
        truth = [exact.search(query) for query in asked]
        engines = {"-": exact} if mode == "bm25" else {"index": indexed, "exact": exact}
        for name, engine in engines.items():
            p50, p99 = np.percentile(milliseconds(engine.search, asked), (50, 99))
            found = recall([engine.search(query) for query in asked], truth)
            print(
                f"{mode:<12}{name:<9}{p50:>8.2f}{p99:>8.2f}"
                f"{baseline:>11.2f}{p50 / baseline:>7.2f}{found:>11.3f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="keep the index here and use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        collection = make_collection(options.documents, options.dimension)
        queries = make_queries(collection, options.queries)
        print(f"{options.documents:,} documents of {options.dimension} values", flush=True)
        if not (folder / "index").exists():
            fill(folder, collection)
        measure(folder, options.documents, queries)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory {peak:,.0f} MiB, mapped files and the made-up documents included")


if __name__ == "__main__":
    main()
