"""Documents with captions after Zipf and embeddings of two kinds, and queries for them.

Unclustered vectors have a falling spectrum and no structure else: the hardest for any index of
vectors. Clustered ones lie around the centres of a thousand groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery
from clipsearch.text import tokens

# fmt: off
STOP_WORDS = [
    "the", "of", "a", "in", "and", "on", "with", "is", "to", "at",
    "an", "by", "for", "from", "are", "two", "over", "near", "under", "its",
]
# fmt: on
VOCABULARY = 20_000
STOP_WORD_SHARE = 0.42
CLUSTERS = 1000
KINDS = ("unclustered", "clustered")
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Collection:
    """Captions as texts, embeddings float32[n, d], and vectors that are asked for."""

    captions: list[str]
    embeddings: Vectors
    asked: Vectors

    def documents(self, start: int = 0, end: int | None = None) -> Iterator[Document]:
        """Each with tags and a number, as a feed would make it."""
        for number in range(start, len(self.captions) if end is None else end):
            name = f"photos/{number % 100:03}/{number:07}.jpg"
            tags = {"class": f"class {number % 30}", "split": "train"}
            numbers = {"year": 2000.0 + number % 25}
            yield Document(
                name, (self.captions[number],), name, tags, numbers, self.embeddings[number]
            )

    def raw_bytes(self) -> int:
        """Of vectors and texts: captions, ids, tags and numbers as they stand in a table."""
        texts = sum(map(len, self.captions)) + 42 * len(self.captions)
        return self.embeddings.nbytes + texts

    def queries(self) -> list[EngineQuery]:
        """One for each vector that is asked for, with 1 to 6 words of a document."""
        random = np.random.default_rng(1)
        found = []
        for vector in self.asked:
            words = self.captions[int(random.integers(len(self.captions)))].split()
            chosen = random.choice(len(words), int(random.integers(1, 7)), replace=False)
            cut = tokens(" ".join(words[place] for place in chosen))
            found.append(EngineQuery("bm25", tuple(cut), vector))
        return found


def make_collection(count: int, dimension: int, kind: str, queries: int = 60) -> Collection:
    """`count` documents with vectors of one of KINDS."""
    random = np.random.default_rng(7)
    source = random.integers(0, count, queries)
    if kind == "unclustered":
        spectrum = (np.arange(1, dimension + 1) ** -0.5).astype(np.float32)
        embeddings = np.empty((count, dimension), np.float32)
        for start in range(0, count, 50_000):
            size = min(50_000, count - start)
            part = random.standard_normal((size, dimension), np.float32) * spectrum
            embeddings[start : start + size] = unit(part)
        noise = random.standard_normal((queries, dimension), np.float32) * spectrum
        asked = unit(embeddings[source] + 0.7 * noise / np.linalg.norm(spectrum))
    else:
        centres = unit(random.standard_normal((CLUSTERS, dimension), np.float32))
        embeddings = centres[random.integers(0, CLUSTERS, count)]
        for start in range(0, count, 50_000):
            part = embeddings[start : start + 50_000]
            noise = random.standard_normal(part.shape, np.float32) * (0.6 / dimension**0.5)
            part[:] = unit(part + noise)
        noise = random.standard_normal((queries, dimension), np.float32) / dimension**0.5
        asked = unit(embeddings[source] + 0.3 * noise)
    return Collection(made_up_captions(count, random), embeddings, asked)


def unit(vectors: Vectors) -> Vectors:
    """At unit length."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def made_up_captions(count: int, random: np.random.Generator) -> list[str]:
    """Of 8 to 15 words, stop words among them."""
    words = np.array([*STOP_WORDS, *(f"word{number}" for number in range(VOCABULARY))])
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
    chosen = words[np.minimum(drawn, len(words) - 1)].tolist()
    ends = np.cumsum(lengths).tolist()
    return [
        " ".join(chosen[end - length : end])
        for end, length in zip(ends, lengths.tolist(), strict=True)
    ]
