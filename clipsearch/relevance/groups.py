"""Queries in groups, to see where a mode is good: by length, by known words, by other captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.modes import Mode
from clipsearch.relevance.judged_queries import JudgedQuery
from clipsearch.relevance.measures import ModeFigures, measure_modes
from clipsearch.text import tokens
from finetune.arrays import Bools, Float64, Int64
from finetune.evaluation.intervals import Sampling

LENGTHS = ((0, 2), (3, 5), (6, 10), (11, None))
"""Words of a query, from and to."""

BY_LENGTH, BY_KNOWN, BY_OTHERS = "words", "all words known", "other captions"


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of each of q queries, beside what was answered.

    Attributes:
        words: int64[q], tokens.
        known: bool[q], whether each of them stands somewhere in the index.
        others: bool[q], whether a right image has a caption beside the query; None for judgments.
    """

    words: Int64
    known: Bools
    others: Bools | None

    @classmethod
    def of(
        cls,
        queries: Sequence[JudgedQuery],
        language: str,
        knows: Callable[[JudgedQuery, str], bool],
    ) -> "Traits":
        """Return the queries' traits.

        `knows` says of each word of a query whether the index has it.
        """
        words = [tokens(query.text, language) for query in queries]
        others = [query.other_captions for query in queries]
        return cls(
            words=np.array([len(each) for each in words], np.int64),
            known=np.array(
                [
                    all(knows(query, word) for word in dict.fromkeys(each))
                    for query, each in zip(queries, words, strict=True)
                ],
                np.bool_,
            ),
            others=None if None in others else np.array(others, np.bool_),
        )

    def groups(self) -> list[tuple[str, str, Bools]]:
        """List what is told apart, the group's name, and which queries are in it, bool[q]."""
        found = []
        for low, high in LENGTHS:
            within = (self.words >= low) & (self.words <= (np.inf if high is None else high))
            name = f"{low} or more" if high is None else f"{low}-{high}"
            found.append((BY_LENGTH, name, within))
        found += [(BY_KNOWN, "yes", self.known), (BY_KNOWN, "no", ~self.known)]
        if self.others is not None:
            found += [(BY_OTHERS, "yes", self.others), (BY_OTHERS, "no", ~self.others)]
        return found


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of some of the queries.

    Attributes:
        by: What tells the groups apart.
        name: Of this one.
        queries: In it.
        modes: Their figures, compared as over all queries.
    """

    by: str
    name: str
    queries: int
    modes: tuple[ModeFigures, ...]

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        modes = [each.as_dict() for each in self.modes]
        return {"by": self.by, "name": self.name, "queries": self.queries, "modes": modes}


def measure_groups(
    traits: Traits,
    per_query: Mapping[Mode, Mapping[str, Float64]],
    clusters: Int64,
    sampling: Sampling,
    against: Mode,
) -> list[GroupFigures]:
    """Measure each group that has queries, see `clipsearch.relevance.measures`."""
    return [
        GroupFigures(
            by,
            name,
            int(kept.sum()),
            tuple(measure_modes(per_query, clusters, sampling, against=against, kept=kept)),
        )
        for by, name, kept in traits.groups()
        if kept.any()
    ]
