"""A brute-force engine in memory: the plainest reading of the ranking, for tests above it."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, Hit, IndexInfo, Page, fused_weights, target_hits
from clipsearch.engines.facet_counts import counts_by_tag
from clipsearch.filtering import Filter, NumberFilter
from clipsearch.folding import fold
from clipsearch.operations import Operation, Outcome
from clipsearch.terms import DocumentFrequencies
from clipsearch.text import tokens, words
from clipsearch.vocabulary import WordCount, most_frequent, nearest_first


class MemoryEngine:
    target = "memory"

    def __init__(self, info: IndexInfo, documents: Iterable[Document]) -> None:
        self.info = info
        self.documents = {document.id: document for document in documents}
        self.queries: list[EngineQuery] = []
        self.partial: str | None = None
        self.closed = False

    @property
    def takes_many(self) -> bool:
        return False

    def version(self) -> int | None:
        return None

    def change_info(self, change: Callable[[IndexInfo], IndexInfo]) -> IndexInfo:
        self.info = change(self.info)
        return self.info

    def upgrade(self, advance: Callable[[], None]) -> int:
        return 0

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        raise NotImplementedError

    def finish_feed(self) -> None: ...

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        return [self.documents.get(id) for id in ids]

    def count(self) -> int:
        return len(self.documents)

    def document_frequencies(self, words: Sequence[str]) -> DocumentFrequencies:
        held = [
            {token for caption in each.captions for token in tokens(caption)}
            for each in self.documents.values()
        ]
        return DocumentFrequencies(
            len(held), {word: sum(word in each for each in held) for word in words}
        )

    def suggest(self, prefix: str, limit: int) -> tuple[WordCount, ...]:
        found = [each for each in self._written_words() if each.word.startswith(prefix)]
        return most_frequent(found, limit)

    def spelled_like(self, word: str, limit: int) -> tuple[WordCount, ...]:
        return nearest_first(word, self._written_words(), limit)

    def _written_words(self) -> list[WordCount]:
        counts = Counter(
            word
            for each in self.documents.values()
            for word in {word for caption in each.captions for word in words(caption)}
        )
        return [WordCount(word, count) for word, count in counts.items()]

    def count_without_embedding(self) -> int:
        return sum(one.embedding is None for one in self.documents.values())

    def count_by_data_set(self) -> Mapping[str, int]:
        return Counter(document.data_set for document in self.documents.values())

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        yield from self.documents.values()

    def close(self) -> None:
        self.closed = True

    def search(self, query: EngineQuery) -> Page:
        self.queries.append(query)
        kept = [
            document
            for document in self.documents.values()
            if all(passes(document, one) for one in query.filters)
            and document.id not in query.exclude_ids
        ]
        bm25 = self._bm25(query.tokens)
        hits = [self._hit(document, query, bm25.get(document.id, 0.0)) for document in kept]
        if query.mode == "vector":
            hits = [hit for hit in hits if hit.cosine is not None]
        elif query.mode == "bm25":
            hits = [hit for hit in hits if hit.document.id in bm25]
        hits.sort(key=lambda hit: (-hit.score, hit.document.id))
        facets = {}
        for column in query.facets:
            counts = Counter(
                hit.document.tags[column] for hit in hits if column in hit.document.tags
            )
            facets[column] = counts_by_tag(counts)
        page = tuple(hits[query.offset : query.offset + query.k])
        candidates = min(target_hits(query), len(hits)) if query.mode == "vector" else None
        return Page(page, len(hits), query.offset, facets, 0.001, (), self.partial, candidates)

    def _hit(self, document: Document, query: EngineQuery, bm25: float) -> Hit:
        shown = replace(document, embedding=None)
        if query.mode == "bm25":
            return Hit(shown, bm25, bm25)
        cosine = float(document.embedding @ query.vector)
        if query.mode == "vector":
            return Hit(shown, 1 / (2 - cosine), None, cosine)
        bm25_weight, vector_weight, _ = fused_weights(query, self.info)
        return Hit(shown, bm25_weight * bm25 + vector_weight * cosine, bm25, cosine)

    def _bm25(self, words: Sequence[str]) -> dict[str, float]:
        counts = {
            id: Counter(token for caption in document.captions for token in tokens(caption))
            for id, document in self.documents.items()
        }
        average = sum(map(Counter.total, counts.values())) / max(len(counts), 1)
        scores: dict[str, float] = {}
        for word in words:
            holding = {id: count[word] for id, count in counts.items() if count[word]}
            weight = math.log(1 + (len(counts) - len(holding) + 0.5) / (len(holding) + 0.5))
            for id, count in holding.items():
                norm = 1.2 * (0.25 + 0.75 * counts[id].total() / average)
                scores[id] = scores.get(id, 0.0) + weight * count * 2.2 / (count + norm)
        return scores


def passes(document: Document, one: Filter) -> bool:
    if isinstance(one, NumberFilter):
        value = document.numbers.get(one.column)
        if value is None:
            return False
        above = one.low is None or value > one.low or (value == one.low and not one.low_open)
        below = one.high is None or value < one.high or (value == one.high and not one.high_open)
        return above and below
    value = document.tags.get(one.column)
    found = value is not None and fold(value) in [fold(wanted) for wanted in one.values]
    return found != one.exclude
