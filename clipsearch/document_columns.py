"""Many documents at once, a column a field: what a feed passes on without an object for each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from clipsearch.documents import PARTS, Document


@dataclass(frozen=True, slots=True)
class DocumentColumns:
    """Documents of distinct ids, at least one, each with its embedding.

    Attributes:
        ids: Of the documents.
        parts: The values of each of `clipsearch.documents.PARTS`, by its name, in the same order.
        embeddings: float32[n, d], in the same order.
    """

    ids: Sequence[str]
    parts: Mapping[str, Sequence[Any]]
    embeddings: npt.NDArray[np.float32]

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Self:
        """Lay out documents, of which each has an embedding of one dimension."""
        return cls(
            [each.id for each in documents],
            {name: [getattr(each, name) for each in documents] for name in PARTS},
            np.stack([each.embedding for each in documents if each.embedding is not None]),
        )

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.ids)

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents."""
        for id, embedding, *values in zip(
            self.ids, self.embeddings, *self.parts.values(), strict=True
        ):
            yield Document(id, embedding=embedding, **dict(zip(self.parts, values, strict=True)))

    def rows(self, places: npt.NDArray[np.intp]) -> Self:
        """Return those at these places, in the order given."""
        listed = places.tolist()
        parts = {name: [held[at] for at in listed] for name, held in self.parts.items()}
        return type(self)([self.ids[at] for at in listed], parts, self.embeddings[places])
