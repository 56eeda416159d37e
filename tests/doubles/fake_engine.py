"""An engine in memory that fails as it is told: a double for tests of what feeds it.

It keeps the contract of `clipsearch.engine.Engine.feed` to the letter, batches included: what was
pulled before an exception of the operations is written and acknowledged before it is raised.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clipsearch.documents import Document, check_document
from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.operations import Delete, Operation, Outcome, Update, Upsert
from clipsearch.terms import DocumentFrequencies
from clipsearch.text import tokens, words
from clipsearch.vocabulary import WordCount, most_frequent, nearest_first
from finetune.errors import DocumentError, EngineError


@dataclass
class FakeEngine:
    """Documents in a dict.

    Attributes:
        batch: Operations written at once; their outcomes come in reverse order.
        refuse: Ids that are refused.
        full_after: Operations after which the disk is full; None for never.
        log: Every operation applied.
    """

    info: IndexInfo
    target: str = "fake"
    documents: dict[str, Document] = field(default_factory=dict)
    batch: int = 4
    refuse: set[str] = field(default_factory=set)
    full_after: int | None = None
    log: list[Operation] = field(default_factory=list)
    finished: int = 0

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
        waiting: list[Operation] = []
        try:
            for operation in operations:
                waiting.append(operation)
                if len(waiting) == self.batch:
                    yield from self._write(waiting)
                    waiting = []
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._write(waiting)
            raise
        yield from self._write(waiting)

    def _write(self, operations: list[Operation]) -> list[Outcome]:
        if self.full_after is not None and len(self.log) + len(operations) > self.full_after:
            raise EngineError("fake: the disk is full; free space and run the same command again")
        return [Outcome(each, self._apply(each)) for each in operations][::-1]

    def _apply(self, operation: Operation) -> str | None:
        if operation.id in self.refuse:
            return "refused, as told"
        match operation:
            case Upsert(document):
                try:
                    check_document(document, self.info.dimension)
                except DocumentError as error:
                    return str(error)
                self.documents[document.id] = document
            case Update(name):
                if name not in self.documents:
                    return "no such document"
                self.documents[name] = replace(self.documents[name], **operation.parts)
            case Delete(name):
                self.documents.pop(name, None)
        self.log.append(operation)
        return None

    def finish_feed(self) -> None:
        self.finished += 1

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        return [self.documents.get(each) for each in ids]

    def search(self, query: EngineQuery) -> Page:
        raise NotImplementedError

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
        yield from list(self.documents.values())

    def close(self) -> None:
        pass
