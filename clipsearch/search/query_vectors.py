"""The vector of a query: the weighted sum of its parts' unit embeddings, brought to unit length."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.documents import Embedding
from clipsearch.engine import Engine
from clipsearch.search.finding import known_document
from clipsearch.search.parts import Part, unit_vector
from clipsearch.search.query_images import image_of_part
from finetune.errors import EngineError, UsageError

if TYPE_CHECKING:
    from clipsearch.encoder.encoder import Encoder

# Unit vectors that cancel leave rounding noise of about 1e-7 of their weights.
_CANCELLED = 1e-5


class QueryVectors:
    """Makes vectors of queries, and remembers those of texts. Safe between threads."""

    def __init__(
        self, engine: Engine, encoder: "Callable[[], Encoder]", texts_remembered: int
    ) -> None:
        """Ask `encoder` for the encoder, only where a text or an image needs it."""
        self._engine = engine
        self._encoder = encoder
        self._embed_text = lru_cache(maxsize=texts_remembered)(self._encode_text)

    def mix(self, parts: Sequence[Part]) -> Embedding:
        """Return the weighted sum of the parts' unit vectors, float32[d], at unit length.

        Raises UsageError where the parts cancel, DocumentNotFoundError for an unknown id,
        ImageError for an image that cannot be read, EncoderError and EngineError.
        """
        ids = [str(part.value) for part in parts if part.kind == "id"]
        indexed = self._indexed(ids)
        total = np.zeros(self._engine.info.dimension, np.float64)
        # Only their proportion counts; as they are, the smallest ones would lose their digits.
        largest = max(abs(part.weight) for part in parts) or 1.0
        weights = [part.weight / largest for part in parts]
        for part, weight in zip(parts, weights, strict=True):
            total += weight * self._unit(part, indexed)
        length = float(np.linalg.norm(total))
        if length <= _CANCELLED * sum(map(abs, weights)):
            raise UsageError("the parts of the query cancel each other out; change a weight")
        return (total / length).astype(np.float32)

    @property
    def texts_looked_up(self) -> tuple[int, int]:
        """How many texts had their embedding remembered, and how many were to be encoded."""
        found = self._embed_text.cache_info()
        return found.hits, found.misses

    def forget_texts(self) -> None:
        """Forget the embeddings of texts: another encoder makes others."""
        self._embed_text.cache_clear()

    def _unit(self, part: Part, indexed: dict[str, Embedding]) -> Embedding:
        match part.kind:
            case "text":
                return self._embed_text(str(part.value))
            case "image":
                image = image_of_part(part, lambda: self._encoder().preprocessing)
                embedding: Embedding = self._encoder().encode_images([image])[0]
                return embedding
            case "id":
                return indexed[str(part.value)]
            case "vector":
                return unit_vector(part, self._engine.info.dimension)
            case "words":
                raise UsageError("words are no vector; give a text")

    def _encode_text(self, text: str) -> Embedding:
        vector: Embedding = self._encoder().encode_texts([text])[0]
        vector.setflags(write=False)  # it is remembered, and handed out again
        return vector

    def _indexed(self, ids: Sequence[str]) -> dict[str, Embedding]:
        vectors: dict[str, Embedding] = {}
        if not ids:  # most queries: the engine need not be asked for nothing
            return vectors
        for id, document in zip(ids, self._engine.get(ids, embeddings=True), strict=True):
            embedding = known_document(self._engine, id, document).embedding
            if embedding is None:
                raise EngineError(f"{id}: has no embedding in {self._engine.target}; feed it again")
            vectors[id] = embedding
        return vectors
