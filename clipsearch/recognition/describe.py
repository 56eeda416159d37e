"""Describe an image by the captions of an index that lie nearest to it.

Retrieval in the other direction, from image to text, as CLIP is trained for both (Radford et al.
2021, arXiv:2103.00020).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.search.limits import MAX_CANDIDATES
from clipsearch.search.parts import Part
from clipsearch.search.search import Search
from finetune.errors import UsageError

CANDIDATES = 100
"""Nearest images whose captions are compared."""


@dataclass(frozen=True, slots=True)
class NearCaption:
    """A caption of the index.

    Attributes:
        caption: As its nearest image has it.
        cosine: Of its embedding and the image's, -1 to 1.
        ids: The images that have it, the nearest first.
    """

    caption: str
    cosine: float
    ids: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {"caption": self.caption, "cosine": self.cosine, "ids": list(self.ids)}


def describe(
    search: Search, image: Part, *, k: int = 5, candidates: int = CANDIDATES
) -> tuple[NearCaption, ...]:
    """Return the k captions nearest to an image by their vectors, the nearest first.

    An index holds the vectors of images alone. So its nearest images are found first, and their
    captions are embedded and compared: the cost is one query and the embedding of the captions of
    `candidates` images.

    Args:
        search: An open index with its encoder.
        image: Of kind "image", or "id": then its own captions are left out.
        k: At least 1.
        candidates: Nearest images whose captions are compared.

    Raises UsageError for a value out of range, DocumentNotFoundError for an unknown id, ImageError,
    EncoderError and EngineError.
    """
    if k < 1:
        raise UsageError(f"k is {k}, must be at least 1")
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise UsageError(f"candidates is {candidates}, must be 1 to {MAX_CANDIDATES}")
    vector = search.vector_of([image])
    encoder = search.encoder
    page = search.query(parts=[image], mode="vector", k=candidates)
    owners: dict[str, list[str]] = {}
    for hit in page.hits:
        for caption in hit.document.captions:
            owners.setdefault(caption, []).append(hit.document.id)
    captions = list(owners)
    cosines = encoder.encode_texts(captions) @ vector
    order = np.argsort(-cosines, kind="stable")[:k].tolist()
    return tuple(
        NearCaption(captions[row], float(cosines[row]), tuple(owners[captions[row]]))
        for row in order
    )
