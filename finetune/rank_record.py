"""What an evaluation found for each query, kept on disk to compare with a later one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from finetune.dataset import Int64
from finetune.evaluate import Evaluation
from finetune.metrics import Floats

SHOWN = 3
BLOCK = 256


@dataclass(frozen=True, slots=True)
class RankRecord:
    """Of one evaluation.

    Attributes:
        text_ranks: int64[q], of each distinct caption's best image, from 1.
        image_ranks: int64[n], of each image's best caption, from 1.
        nearest: int64[q, up to 3], the images nearest to each caption, best first.
    """

    text_ranks: Int64
    image_ranks: Int64
    nearest: Int64

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        """From an evaluation's ranks and embeddings."""
        by_text, by_image = evaluation.ranks
        embedded = evaluation.embedded
        return cls(by_text[:, 0], by_image[:, 0], nearest(embedded.texts, embedded.images, SHOWN))

    def save(self, path: Path) -> None:
        """Write an .npz file. Raises OSError."""
        np.savez(
            path, text_ranks=self.text_ranks, image_ranks=self.image_ranks, nearest=self.nearest
        )

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What `save` wrote; None where it is not there or damaged."""
        try:
            with np.load(path) as arrays:
                return cls(arrays["text_ranks"], arrays["image_ranks"], arrays["nearest"])
        except (OSError, ValueError, KeyError):
            return None


def nearest(queries: Floats, gallery: Floats, count: int) -> Int64:
    """int64[q, min(count, g)]: rows of the gallery with the highest dot products, best first.

    Args:
        queries: float32[q, d].
        gallery: float32[g, d].
        count: Rows wanted.
    """
    count = min(count, len(gallery))
    found = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), BLOCK):
        rows = slice(start, start + BLOCK)
        scores: npt.NDArray[np.float32] = queries[rows] @ gallery.T
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, 1)
    return found
