"""Documents of an index that are nearly the same, in groups.

By content, what was read of two images is the same to the byte; by look, their perceptual hashes
are (`Document.look`); by embedding, their cosine reaches a bound. Who is like another is in its
group, and so on: the ends of a long chain may be less alike than the bound.

Content and look are compared by a table: the cost grows with the documents. Embeddings are compared
each with each, a block of products at a time: n * n * d / 2 multiplications, and memory for all
embeddings and for one block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, Embedding
from finetune.errors import EngineError, UsageError

Reason = Literal["content", "look", "embedding"]
REASONS: tuple[Reason, ...] = get_args(Reason)

MIN_COSINE = 0.98
_BLOCK = 1024
MOST_PAIRS = 5_000_000
"""Of embeddings: more pairs mean that the bound is no bound."""

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Alike:
    """A document of a group.

    Attributes:
        document: Without its embedding.
        cosine: With the group's first.
    """

    document: Document
    cosine: float


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Documents that are nearly the same.

    Attributes:
        members: At least two, by id; the first stands for the others.
        reasons: By what any two of them were found alike, in the order of REASONS.
    """

    members: tuple[Alike, ...]
    reasons: tuple[Reason, ...]


def duplicate_groups(
    documents: Sequence[Document],
    *,
    reasons: Sequence[Reason] = REASONS,
    min_cosine: float = MIN_COSINE,
) -> list[DuplicateGroup]:
    """Return the groups of near duplicates, the largest first, equal ones by the first's id.

    Args:
        documents: With their embeddings.
        reasons: By which they may be alike.
        min_cosine: Of two embeddings that are alike, above 0 and up to 1.

    Raises UsageError for a bound out of range, or that more than MOST_PAIRS reach, and EngineError
    for a document without an embedding.
    """
    if not 0 < min_cosine <= 1:
        raise UsageError(f"the least cosine is {min_cosine:g}, must be above 0 and at most 1")
    ordered = sorted(documents, key=lambda document: document.id)
    embeddings = _stacked(ordered)
    parents = np.arange(len(ordered))
    found: dict[Reason, Pairs] = {}
    for reason in REASONS:
        if reason in reasons:
            found[reason] = _pairs(reason, ordered, embeddings, min_cosine)
            _join(parents, found[reason])
    roots = np.array([_root(parents, place) for place in range(len(ordered))], np.int64)
    by_root: dict[int, set[Reason]] = {}
    for reason, pairs in found.items():
        for root in np.unique(roots[pairs[:, 0]]).tolist():
            by_root.setdefault(root, set()).add(reason)
    places: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.isin(roots, list(by_root))).tolist():
        places.setdefault(int(roots[place]), []).append(place)
    groups = [
        _group([ordered[place] for place in held], embeddings[held], by_root[root])
        for root, held in places.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.members), group.members[0].document.id))


def _group(
    documents: Sequence[Document], embeddings: Embedding, reasons: set[Reason]
) -> DuplicateGroup:
    cosines = (embeddings @ embeddings[0]).tolist()
    members = tuple(Alike(*each) for each in zip(documents, cosines, strict=True))
    return DuplicateGroup(members, tuple(reason for reason in REASONS if reason in reasons))


def _stacked(documents: Sequence[Document]) -> Embedding:
    for document in documents:
        if document.embedding is None:
            raise EngineError(f"{document.id}: has no embedding; feed it again")
    embeddings = [each.embedding for each in documents if each.embedding is not None]
    return np.stack(embeddings) if embeddings else np.zeros((0, 1), np.float32)


def _pairs(
    reason: Reason, documents: Sequence[Document], embeddings: Embedding, min_cosine: float
) -> Pairs:
    if reason == "embedding":
        found = list(_near_pairs(embeddings, min_cosine))
    else:
        found = [np.array(list(_equal_pairs(documents, reason)), np.int64).reshape(-1, 2)]
    return np.concatenate([*found, np.zeros((0, 2), np.int64)])


def _equal_pairs(documents: Sequence[Document], reason: Reason) -> Iterator[tuple[int, int]]:
    """Yield each document with the first of the same content, or look, that is known."""
    first: dict[str, int] = {}
    for place, document in enumerate(documents):
        value = document.content if reason == "content" else document.look
        if value and (other := first.setdefault(value, place)) != place:
            yield other, place


def _near_pairs(embeddings: Embedding, min_cosine: float) -> Iterator[Pairs]:
    count = 0
    for start in range(0, len(embeddings), _BLOCK):
        block = embeddings[start : start + _BLOCK]
        products = block @ embeddings[start:].T
        rows, columns = np.nonzero(products >= min_cosine - 1e-6)
        after = columns > rows
        count += int(after.sum())
        if count > MOST_PAIRS:
            raise UsageError(
                f"more than {MOST_PAIRS:,} pairs have a cosine of {min_cosine:g}: give a higher"
                f" --min-cosine"
            )
        yield np.stack([rows[after], columns[after]], axis=1) + start


def _join(parents: npt.NDArray[np.int64], pairs: Pairs) -> None:
    """Bring the two of each pair into one set, whose root is the lowest place."""
    for one, other in pairs.tolist():
        first, second = sorted((_root(parents, one), _root(parents, other)))
        parents[second] = first


def _root(parents: npt.NDArray[np.int64], place: int) -> int:
    while parents[place] != place:
        parents[place] = parents[parents[place]]
        place = int(parents[place])
    return place
