"""Queries with what is right for them: what relevance is measured by, wherever it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from clipsearch.relevance.collection import Removed


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and the documents that were judged for it.

    Attributes:
        key: Its name: the topic's, or the text itself.
        text: What is searched for.
        grades: Document id to grade; right is what has one above 0.
        cluster: Queries of the same one are no independent draws: captions of one image.
        removed: What of the index counts as not written while this query is asked.
        other_captions: Whether a right image has a caption beside the query; None for judgments.
    """

    key: str
    text: str
    grades: Mapping[str, int]
    cluster: int
    removed: Removed | None = None
    other_captions: bool | None = None

    @property
    def right(self) -> tuple[str, ...]:
        """The ids with a grade above 0, the highest first, then as they were given."""
        found = [(id_, grade) for id_, grade in self.grades.items() if grade > 0]
        return tuple(id_ for id_, _ in sorted(found, key=lambda pair: -pair[1]))
