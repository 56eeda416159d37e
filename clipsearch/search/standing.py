"""How an image stands among those of an index for a query."""

from dataclasses import dataclass

from clipsearch.documents import Embedding
from clipsearch.engine import Engine, EngineQuery

# Cosines that are nearer than this are equal: embedded indexes keep them as float32.
_SAME = 2e-6


@dataclass(frozen=True, slots=True)
class Standing:
    """How many images of an index are nearer to a query than one image.

    Attributes:
        nearer: Images with a higher cosine.
        images: Of the index.
    """

    nearer: int
    images: int


def standing(engine: Engine, vector: Embedding, cosine: float) -> Standing:
    """Count what is nearer to the query's vector, float32[d], than this cosine.

    That compares every vector of the index. Raises EngineError.
    """
    images = engine.count()
    if not images:
        return Standing(0, 0)
    above = EngineQuery(
        "vector", vector=vector, k=1, candidates=images, exact=True,
        min_cosine=min(cosine + _SAME, 1.0),
    )  # fmt: skip
    return Standing(engine.search(above).total, images)
