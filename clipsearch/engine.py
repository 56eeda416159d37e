"""The engine contract: what the embedded engine and Vespa both do, and what passes between.

Everything above (feed, query, server, commands) speaks to an engine through this page only.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args

from clipsearch.collapsing import check_collapse
from clipsearch.cutoffs import check_cutoffs
from clipsearch.documents import (
    DOCUMENT_FORM,
    Document,
    Embedding,
    check_embedding,
    frame_of_documents,
)
from clipsearch.explanation import Explanation
from clipsearch.feed_facts import DataSet, OpenFeed
from clipsearch.filtering import Filter
from clipsearch.json_records import record
from clipsearch.modes import (
    MODES_WITHOUT_VECTOR,
    RRF_K,
    UNRANKED,
    Calibration,
    Mode,
    Ranking,
    Weights,
    WordShare,
    ranking_of,
)
from clipsearch.operations import Operation, Outcome
from clipsearch.reordering import Reorder
from clipsearch.sorting import Sort
from clipsearch.terms import NO_TERMS, DocumentFrequencies, Term, Terms
from clipsearch.vocabulary import Correction, WordCount
from finetune.errors import DocumentError, EngineError, UsageError

if TYPE_CHECKING:
    import pandas as pd

EmbeddingPrecision = Literal["float", "bfloat16"]
EMBEDDING_PRECISIONS: tuple[EmbeddingPrecision, ...] = get_args(EmbeddingPrecision)

MAX_WEIGHT = 1e9
"""Of bm25, vector or a part of a query: far above any use, and no sum of scores can overflow."""

DEFAULT_CANDIDATES = 100
DEFAULT_BM25_WEIGHT = 0.1
DEFAULT_VECTOR_WEIGHT = 1.0
RERANK_COUNT = 1000

NO_WORDS = "the query has no word to look for, so nothing is found by text"


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index knows about itself; travels with it.

    Attributes:
        dimension: Values in an embedding.
        language: Of the text analysis, a code of `clipsearch.text.LANGUAGES`.
        encoder_fingerprint: Of the encoder that filled it; None where vectors came ready-made.
        encoder_name: For people.
        encoder_path: Where its folder lay at the feed, absolute; None without an encoder.
        bm25_weight, vector_weight: Of `hybrid` and `hybrid-normalized`.
        number_columns: Metadata columns that are kept as numbers.
        tag_columns: Metadata columns that are kept as tags.
        date_columns: Metadata columns that are kept as dates: each as its text, among the tags of a
            document, and as its seconds (`finetune.text.dates`), among the numbers.
        images_root: Folder from which relative document paths are meant; None where unknown.
        precision: Of the embeddings in the index; bfloat16, about three digits, on Vespa alone.
        index_id: Random, given at the first feed; by it a ledger knows that the index is still
            the one that it wrote about, and not a new one at the same address.
        may_lack_embeddings: Dimension or precision changed while there were documents, and no
            feed has found since that each has an embedding.
        data_sets: What its documents come from, in the order of their first feeds.
        last_feed: Token of the last feed that began (`clipsearch.feed.ledger.mark`); empty before.
        open_feeds: Those that have not ended.
        column_order: Columns whose numbers were written to a Vespa, in the order in which they
            came. A column's place here, from 1, stands in the documents: it never changes.
        document_form: Of the documents on a Vespa; see `clipsearch.documents.DOCUMENT_FORM`.
        rrf_k, text_mode: Of `hybrid-rrf`; and the mode of a text that names none (None: hybrid).
        calibration: How these and the weights came about; None where nobody calibrated.
        word_share: How `hybrid` joins words and vector in place of the weights, where a query
            brings none; None where the weights hold.
        measured_at: Documents that were there when that was last looked for.
        reorder: How the first hits of `hybrid` are put into another order where a query names no
            mode; None where they stay as they are.
    """

    dimension: int
    language: str = "en"
    encoder_fingerprint: str | None = None
    encoder_name: str | None = None
    encoder_path: str | None = None
    bm25_weight: float = DEFAULT_BM25_WEIGHT
    vector_weight: float = DEFAULT_VECTOR_WEIGHT
    number_columns: tuple[str, ...] = ()
    tag_columns: tuple[str, ...] = ()
    date_columns: tuple[str, ...] = ()
    images_root: str | None = None
    precision: EmbeddingPrecision = "float"
    index_id: str = ""
    may_lack_embeddings: bool = False
    data_sets: tuple[DataSet, ...] = ()
    last_feed: str = ""
    open_feeds: tuple[OpenFeed, ...] = ()
    column_order: tuple[str, ...] = ()
    document_form: int = DOCUMENT_FORM
    rrf_k: int = RRF_K
    text_mode: Mode | None = None
    calibration: Calibration | None = None
    word_share: WordShare | None = None
    measured_at: int = 0
    reorder: Reorder | None = None

    @property
    def compared_columns(self) -> tuple[str, ...]:
        """Those that ranges are asked of and that answers are sorted by: numbers and dates."""
        return (*self.number_columns, *self.date_columns)

    @property
    def counted_columns(self) -> tuple[str, ...]:
        """Those whose texts facets count: tags and dates."""
        return (*self.tag_columns, *self.date_columns)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the object that `to_json` gave; keys of later versions are left out.

        Raises TypeError where the dimension is missing, or a value is of another kind.
        """
        return record(cls, values)

    def to_json(self) -> dict[str, Any]:
        """Return all of it, as what JSON can hold; `from_json` gives it back."""
        return asdict(self)


class TooManyValuesError(EngineError):
    """A facet has more values than the engine can name."""


@dataclass(frozen=True, slots=True)
class EngineQuery:
    """A query as an engine takes it: words already cut, image already a vector.

    Attributes:
        mode: The ranking; None for none: all that passes the filters, by id unless `sort` says
            otherwise.
        tokens: The plain words of the query text by `clipsearch.text.tokens`, repeats kept; each
            finds documents by itself.
        terms: Phrases, beginnings of words, and what is required or left out, beside these. What
            restricts (`Terms.restrict`) does so in every mode, as filters do.
        vector: float32[d], unit length; None for a bm25 query.
        k: Hits wanted, at least 1.
        offset: Hits skipped.
        filters: All must hold.
        facets: Tag columns to count over all matches.
        candidates: Nearest by vector that a hybrid adds to the lexical matches.
        bm25_weight, vector_weight: None takes the index's own.
        exact: Compare the vector with every document, never through an approximate index.
        exclude_ids: Documents left out of the hits (the image that the query came from).
        min_score: Hits score at least this.
        min_cosine: What the vector finds has at least this cosine. In a hybrid, what has a word of
            the query stays with any.
        sort: The order of all that is found; None is by score. Of `vector` and the hybrids the
            `candidates` nearest are sorted, whatever k and offset are.
        collapse: Show the best alone of hits that look alike (`Document.look`).
        all_values: Count each value of the facets, also more than people are shown; the search
            raises TooManyValuesError where the engine cannot.
    """

    mode: Mode | None
    tokens: tuple[str, ...] = ()
    vector: Embedding | None = None
    k: int = 10
    offset: int = 0
    filters: tuple[Filter, ...] = ()
    facets: tuple[str, ...] = ()
    candidates: int = DEFAULT_CANDIDATES
    bm25_weight: float | None = None
    vector_weight: float | None = None
    exact: bool = False
    exclude_ids: tuple[str, ...] = ()
    terms: Terms = NO_TERMS
    min_score: float | None = None
    min_cosine: float | None = None
    sort: Sort | None = None
    collapse: bool = False
    all_values: bool = False

    @property
    def scored(self) -> tuple[Term, ...]:
        """What counts in bm25: words and phrases, in a fixed order, repeats kept."""
        words = (Term((token,)) for token in self.tokens)
        return (*words, *(term for term in self.terms.looked_for if not term.is_prefix))

    @property
    def has_words(self) -> bool:
        """Whether documents can be found by words at all."""
        return bool(self.tokens or self.terms.looked_for)

    @property
    def ranking(self) -> Ranking:
        """What the mode ranks by. Raises UsageError for an unknown mode."""
        return UNRANKED if self.mode is None else ranking_of(self.mode)

    @property
    def is_cut_after_ranking(self) -> bool:
        """Whether the least score is one that only the reranked hits have."""
        return self.min_score is not None and self.ranking.reranks is not None

    def check(self, info: IndexInfo) -> None:
        """Raise UsageError for a query that cannot work over the index of `info`.

        Vespa would refuse it, or worse, take it and answer wrongly: a vector of too few values
        ranks there without a word.
        """
        ranking = self.ranking
        if self.k < 1 or self.offset < 0 or self.candidates < 1:
            raise UsageError(
                f"k {self.k}, offset {self.offset}, candidates {self.candidates}: k and candidates"
                f" must be at least 1, and the offset not below 0"
            )
        check_weights(self.bm25_weight, self.vector_weight)
        check_cutoffs(self.mode, self.min_score, self.min_cosine, self.sort)
        if self.collapse:
            check_collapse(self.mode, self.sort, self.offset + self.k)
        if not ranking.needs_vector:
            return
        if self.vector is None:
            raise UsageError(
                f"mode {self.mode} needs a vector, but the query has none;"
                f" try {' or '.join(MODES_WITHOUT_VECTOR)}"
            )
        try:
            check_embedding(self.vector, info.dimension, "the query")
        except DocumentError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found, with the parts of its score.

    Attributes:
        document: Without its embedding.
        score: What the hits are ordered by, descending; equal scores by id, ascending. Of a sorted
            query the number that it is sorted by, and 0 where that is a text.
        bm25: The lexical part, 0 where no term matches; None where the mode has none.
        cosine: Of query vector and embedding, -1 to 1; None where the mode has none.
        more: Of a collapsed query, how many others that were found look like this one.
        explanation: Why it is where it is; None unless that was asked for.
        find_image: Tells where the image file of a document's path lies; engines know none.
    """

    document: Document
    score: float
    bm25: float | None = None
    cosine: float | None = None
    more: int = 0
    explanation: Explanation | None = None
    find_image: Callable[[str], Path | None] | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> Path | None:
        """The absolute path of the image file; None where it is not on this machine."""
        return None if self.find_image is None else self.find_image(self.document.path)


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a query.

    Attributes:
        hits: Best first.
        total: Every match for bm25 and the hybrids; for `vector` every document that passes the
            filters, whatever k, offset and candidates are. With a least score or cosine what has
            it; of a sorted query what is sorted. Of a collapsed one what was found, of `vector` the
            nearest that were looked for.
        offset: Hits skipped before these.
        facets: Column to (value, count) pairs over all that `total` counts, most frequent first,
            then by value; spellings of one tag are counted together.
        seconds: Time inside the engine.
        notes: Sentences for the user (a query without any word, say).
        partial: The reason why the answer may be incomplete; None where it is whole.
        candidates: For `vector`, how many of the nearest were ranked; None for other modes.
        at_least: Whether there may be more than `total`: as many were found as were looked for, and
            the last of them is not below the least score or cosine.
        corrections: Words of the query that no document has, with what may have been meant.
    """

    hits: tuple[Hit, ...]
    total: int
    offset: int = 0
    facets: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    partial: str | None = None
    candidates: int | None = None
    at_least: bool = False
    corrections: tuple[Correction, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """Make a DataFrame of the hits, a row each, best first.

        Columns: `rank`, from 1 at the very first hit, whatever `offset` is; `id`; `score`; `bm25`
        and `cosine`, NaN where the mode has none; `image`, the path of the file as text, None where
        it is not on this machine; `path`, as the document has it; `captions`, a list; then each
        tag, None where a document has none, and each number, NaN where it has none. A tag or number
        with one of these names has `metadata_` before it.

        Raises UsageError where pandas is not installed.
        """
        columns: dict[str, Sequence[object]] = {
            "rank": [self.offset + number for number in range(1, len(self.hits) + 1)],
            "id": [hit.document.id for hit in self.hits],
            "score": [hit.score for hit in self.hits],
            "bm25": [math.nan if hit.bm25 is None else hit.bm25 for hit in self.hits],
            "cosine": [math.nan if hit.cosine is None else hit.cosine for hit in self.hits],
            "image": [None if hit.image is None else str(hit.image) for hit in self.hits],
        }
        return frame_of_documents(columns, [hit.document for hit in self.hits])


class Engine(Protocol):
    """An index that can be fed and searched. All methods raise EngineError, in one sentence."""

    @property
    def target(self) -> str:
        """The path or address that was opened."""

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself."""

    @property
    def takes_many(self) -> bool:
        """Whether `feed` takes an UpsertMany."""

    def version(self) -> int | None:
        """Return a number that grows with every change of what `search` finds.

        None where none is known: others may change the index, and nobody counts.
        """

    def change_info(self, change: Callable[[IndexInfo], IndexInfo]) -> IndexInfo:
        """Replace what the index knows about itself by `change` of it; the new knowledge.

        `change` is given what the index knows now, which another writer may have changed since it
        was opened, and is called again where one comes in between. The dimension cannot change.
        """

    def refresh_info(self) -> IndexInfo:
        """Read anew what the index knows about itself: another process may have changed it."""

    def feed(self, operations: Iterable[Operation]) -> Iterator[Outcome]:
        """Apply operations, yielding one Outcome each as it is acknowledged or refused.

        Pulls `operations` no faster than it writes. Outcomes may come in another order; two
        operations of the same id are applied in the order given. An exception raised by
        `operations` reaches the caller, after the outcomes of what was pulled before it.
        Blanks stand for characters that no engine can hold (`clipsearch.storable`), but in ids:
        such an id is refused; one that nothing can have counts as removed by a Delete.
        Raises EngineError where the whole feed cannot go on (disk full).
        """

    def upgrade(self, advance: Callable[[], None]) -> int:
        """Bring documents that an earlier version wrote to the form of this one; how many were.

        Embeddings stay. `advance` is called after each. Stopped in between, the next call goes on.
        Nothing is done, at once, where all are of this form.
        """

    def finish_feed(self) -> None:
        """Bring indexes and statistics up to date and free space; call once after feeding."""

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """Return the documents of these ids, in their order; None where there is none."""

    def search(self, query: EngineQuery) -> Page:
        """Rank. Raises UsageError for a query that cannot work (no vector for `vector`)."""

    def count(self) -> int:
        """Return the number of documents."""

    def document_frequencies(self, words: Sequence[str]) -> DocumentFrequencies:
        """Count the documents that hold each of these tokens, and all."""

    def suggest(self, prefix: str, limit: int) -> tuple[WordCount, ...]:
        """Return the most frequent written words that begin so; equally frequent ones by letters.

        `prefix` is one as `clipsearch.text.words` gives it, not empty.
        """

    def spelled_like(self, word: str, limit: int) -> tuple[WordCount, ...]:
        """Return the written words that are spelled like this one, the nearest first.

        What that is: `clipsearch.vocabulary`.
        """

    def count_without_embedding(self) -> int:
        """Return the number of documents that no search by vector can find.

        A change of dimension or precision leaves such on Vespa; the embedded engine has none.
        """

    def count_by_data_set(self) -> Mapping[str, int]:
        """Count the documents of each data set; under "" are those of an earlier version."""

    def visit(self, *, embeddings: bool = False) -> Iterator[Document]:
        """Yield every document, each once, in no particular order."""

    def close(self) -> None:
        """Free what is held; the engine cannot be used after."""


def target_hits(query: EngineQuery) -> int:
    """Return how many of the nearest by vector are looked for: no fewer than the page needs."""
    if query.ranking.uses_words or query.sort is not None:
        return query.candidates
    return max(query.candidates, query.offset + query.k)


def check_weights(*weights: float | None) -> None:
    """Raise UsageError unless each weight of a hybrid is a number from 0 to MAX_WEIGHT, or None."""
    for weight in weights:
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise UsageError(
                f"the weight {weight:g} is not a finite number of 0 or more, up to {MAX_WEIGHT:g}"
            )


def fused_weights(query: EngineQuery, info: IndexInfo) -> Weights:
    """Return the (bm25, vector) weights that hold for `query`: its own, or else the index's."""
    bm25 = info.bm25_weight if query.bm25_weight is None else query.bm25_weight
    vector = info.vector_weight if query.vector_weight is None else query.vector_weight
    check_weights(bm25, vector)
    return Weights(bm25, vector, info.rrf_k)
