"""How an index is asked beside the question itself: of `Search`, a service and the command line.

The options of a query stand here once: as a record, which passes from stage to stage, and as the
keywords of `Search.query` and `Client.query`, which make one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from clipsearch.engine import DEFAULT_CANDIDATES
from clipsearch.modes import Mode
from clipsearch.search.filters import Filters
from clipsearch.search.synonyms import NO_SYNONYMS, Synonyms
from finetune.near_names import check_names

SIMILAR_MODE: Mode = "vector"


class ListKeywords(TypedDict, total=False):
    """The keywords that make `ListOptions`."""

    k: int
    page: int
    filters: Filters
    facets: Sequence[str]
    sort: str | None


class QueryKeywords(ListKeywords, total=False):
    """The keywords that make `QueryOptions`."""

    mode: Mode | None
    candidates: int
    exact: bool
    bm25_weight: float | None
    vector_weight: float | None
    min_score: float | None
    min_cosine: float | None
    collapse: bool
    plain: bool
    synonyms: Synonyms
    explain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions:
    """Which documents are wanted, and in which order.

    Attributes:
        k: Hits a page.
        page: From 1.
        filters: All must hold; see clipsearch.search.filters.
        facets: Tag columns to count over all matches.
        sort: Another order: "year", "-year" for the greatest first, "id", "path".
    """

    k: int = 10
    page: int = 1
    filters: Filters = ()
    facets: Sequence[str] = ()
    sort: str | None = None

    @property
    def offset(self) -> int:
        """Hits that lie before the page."""
        return (self.page - 1) * self.k


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions(ListOptions):
    """How a query is ranked, and what of its answer is wanted.

    Attributes:
        mode: The ranking. None: hybrid where there is text, or bm25 if the index has no encoder
            and there is text alone; vector without text.
        sort: Of `vector` and the hybrids the `candidates` nearest are put into this order.
        candidates: Nearest by vector that a hybrid adds to the matches by word.
        exact: Compare the vector with every document, never through an approximate index.
        bm25_weight, vector_weight: Of words and vector in a hybrid; None takes the index's own.
        min_score, min_cosine: Leave out what has less, and count what is left; in a hybrid, what
            has a word of the query stays with any cosine.
        collapse: Show one of images that look alike.
        plain: Take texts as they stand, without the operators of clipsearch.search.typed_text.
        synonyms: What stands for the words of texts (`Synonyms.read` of a file).
        explain: Have each hit say why it is there.
    """

    mode: Mode | None = None
    candidates: int = DEFAULT_CANDIDATES
    exact: bool = False
    bm25_weight: float | None = None
    vector_weight: float | None = None
    min_score: float | None = None
    min_cosine: float | None = None
    collapse: bool = False
    plain: bool = False
    synonyms: Synonyms = NO_SYNONYMS
    explain: bool = False


LISTED = ListOptions()
ASKED = QueryOptions()
SIMILAR = QueryOptions(mode=SIMILAR_MODE)


def query_options(given: Mapping[str, Any]) -> QueryOptions:
    """Return the options of a query. Raises TypeError for an unknown one, naming what was meant."""
    known = [each.name for each in fields(QueryOptions)]
    check_names(given, known, "query()")
    return QueryOptions(**given)
