"""The distinct captions and images of a split, who belongs to whom, and their ranks.

Imports without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.arrays import Float32, Int64
from finetune.data.captioned_images import CaptionedImages
from finetune.evaluation.metrics import positive_ranks, summarize
from finetune.figures import CUTOFFS, IMAGE_TO_TEXT, TEXT_TO_IMAGE, Measurement


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct captions and images, and which belong together.

    A caption that several images share, but for case and white space, is one query that finds any
    of them: which of them was meant cannot be told. Without such captions the figures are those
    of `finetune.evaluation.metrics.text_to_image`.

    Attributes:
        captions: int64[q], one index into all captions for each distinct one.
        text_positives: CSR (indptr, indices): images of each distinct caption.
        image_positives: CSR: distinct captions (0..q-1) of each image.
        images: n.
    """

    captions: Int64
    text_positives: tuple[Int64, Int64]
    image_positives: tuple[Int64, Int64]
    images: int

    @property
    def pairs(self) -> tuple[Int64, Int64]:
        """Distinct caption (0..q-1) and image of every pair, int64[p] each."""
        indptr, images = self.text_positives
        return np.repeat(np.arange(len(self.captions)), np.diff(indptr)), images


def pool_of(data: CaptionedImages) -> Pool:
    """Return who belongs to whom in a split."""
    _, first, text = np.unique(data.keys, return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([text.astype(np.int64), data.image_of_caption], axis=1), axis=0)
    return Pool(
        captions=first.astype(np.int64),
        text_positives=_csr(pairs[:, 0], pairs[:, 1], len(first)),
        image_positives=_csr(pairs[:, 1], pairs[:, 0], len(data)),
        images=len(data),
    )


def pool_ranks(
    pool: Pool, text_embeds: Float32, image_embeds: Float32, most: int = max(CUTOFFS)
) -> tuple[Int64, Int64]:
    """Return the `positive_ranks` of every caption and of every image.

    Args:
        pool: q distinct captions and n images.
        text_embeds: float32[q, d], unit length.
        image_embeds: float32[n, d], unit length.
        most: Positives of a query whose ranks are wanted, at most.

    Returns:
        int64[q, most] among the n images, and int64[n, most] among the q captions.
    """
    return (
        positive_ranks(text_embeds, image_embeds, pool.text_positives, most),
        positive_ranks(image_embeds, text_embeds, pool.image_positives, most),
    )


def pool_figures(
    pool: Pool, ranks: tuple[Int64, Int64], ks: Sequence[int] = CUTOFFS
) -> tuple[Measurement, Measurement]:
    """Return text-to-image and image-to-text figures over the whole pool.

    Args:
        pool: The pool.
        ranks: Of `pool_ranks`, of at least the largest cutoff.
        ks: Cutoffs.
    """
    captions, images = pool.text_positives[0], pool.image_positives[0]
    return (
        summarize(TEXT_TO_IMAGE, pool.images, ranks[0], np.diff(captions), ks),
        summarize(IMAGE_TO_TEXT, len(pool.captions), ranks[1], np.diff(images), ks),
    )


def _csr(rows: Int64, columns: Int64, count: int) -> tuple[Int64, Int64]:
    """Return (indptr, indices) of pairs in any order."""
    order = np.lexsort((columns, rows))
    indptr = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=indptr[1:])
    return indptr, columns[order]
