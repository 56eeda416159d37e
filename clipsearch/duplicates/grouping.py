"""Documents of an index that are nearly the same, in groups.

By content, what was read of two images is the same to the byte; by look, their perceptual hashes
are (`Document.look`); by embedding, their cosine reaches a bound. Content and look are compared by
a table: the cost grows with the documents. Embeddings are compared each with each, a block of
products at a time: n * n * d / 2 multiplications, and memory for all embeddings and for one block.

By embedding a group is a star: each of its documents reaches the bound with the group's first, or
equals in content or look one that does. So a chain, of which each is like the next, does not
become one group whose ends are nothing alike; two others of a star have a cosine of at least
2 c^2 - 1 for a bound c. The documents with most others within the bound become the first of a group
in turn, and take those that are in no group yet (Aslam, Pelekhov and Rus, The star clustering
algorithm, 2004). Grouped again by what `clipsearch.duplicates.marking` wrote, the groups stay.
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
Places = npt.NDArray[np.int64]


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
        members: At least two; the first, which all others are like, stands for them. These come by
            descending cosine, equal ones by id.
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
    near = np.zeros((0, 2), np.int64)
    if "embedding" in reasons:
        near = np.concatenate([near, *_near_pairs(embeddings, min_cosine)])
    degrees = np.bincount(near.ravel(), minlength=len(ordered))
    # The first of a group is its first here.
    turns = np.lexsort((np.arange(len(ordered)), -degrees))
    parents = np.arange(len(ordered))
    equal: dict[Reason, Pairs] = {}
    for reason in REASONS:
        if reason != "embedding" and reason in reasons:
            found = list(_equal_pairs(ordered, reason))
            equal[reason] = np.array(found, np.int64).reshape(-1, 2)
            _join(parents, equal[reason])
    roots = np.array([_root(parents, place) for place in range(len(ordered))], np.int64)
    firsts = _firsts(roots, turns)
    centers = _stars(firsts, turns, near)
    found_by: dict[int, set[Reason]] = {}
    for reason, pairs in equal.items():
        for center in np.unique(centers[pairs[:, 0]]).tolist():
            found_by.setdefault(center, set()).add(reason)
    for center in np.unique(centers[firsts != centers]).tolist():
        found_by.setdefault(center, set()).add("embedding")
    places: dict[int, list[int]] = {center: [] for center in found_by}
    for place in np.flatnonzero(np.isin(centers, list(found_by))).tolist():
        places[int(centers[place])].append(place)
    groups = [
        _group(ordered, embeddings, center, held, found_by[center])
        for center, held in places.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.members), group.members[0].document.id))


def _firsts(roots: Places, turns: Places) -> Places:
    """Return, for each document, that of the documents of its root whose turn comes first."""
    firsts = np.full(len(roots), -1, np.int64)
    # Backwards, so that the first writes last.
    firsts[roots[turns[::-1]]] = turns[::-1]
    return firsts[roots]


def _stars(firsts: Places, turns: Places, near: Pairs) -> Places:
    """Return the first of each document's group; of one alone itself.

    Args:
        firsts: Of each document, that which stands for all of equal content or look.
        turns: Places of documents, in the order in which they become the first of a group.
        near: Pairs of places within the bound.
    """
    centers = np.full(len(firsts), -1, np.int64)
    # Between the firsts alone, in both directions, by the one that they lead from.
    pairs = near[(firsts[near[:, 0]] == near[:, 0]) & (firsts[near[:, 1]] == near[:, 1])]
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    starts = np.searchsorted(pairs[:, 0], np.arange(len(firsts) + 1))
    for place in turns.tolist():
        if firsts[place] == place and centers[place] < 0:
            others = pairs[starts[place] : starts[place + 1], 1]
            centers[others[centers[others] < 0]] = place
            centers[place] = place
    return centers[firsts]


def _group(
    documents: Sequence[Document],
    embeddings: Embedding,
    center: int,
    places: Sequence[int],
    reasons: set[Reason],
) -> DuplicateGroup:
    cosines = (embeddings[places] @ embeddings[center]).tolist()
    near = sorted(
        zip(places, cosines, strict=True), key=lambda each: (each[0] != center, -each[1], each[0])
    )
    members = tuple(Alike(documents[place], cosine) for place, cosine in near)
    return DuplicateGroup(members, tuple(reason for reason in REASONS if reason in reasons))


def _stacked(documents: Sequence[Document]) -> Embedding:
    for document in documents:
        if document.embedding is None:
            raise EngineError(f"{document.id}: has no embedding; feed it again")
    embeddings = [each.embedding for each in documents if each.embedding is not None]
    return np.stack(embeddings) if embeddings else np.zeros((0, 1), np.float32)


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
