"""Embed a split and rank all of it: the figures that training is steered and reported by."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from finetune.batches import TokenizedCaptions
from finetune.dataset import CaptionedImages, Int64
from finetune.metrics import CUTOFFS, RetrievalMetrics, positive_ranks, summarize
from finetune.model import DualEncoder
from finetune.pixels import PixelStore

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct captions and images, and which belong together.

    A caption that several images share, but for case and white space, is one query that finds any
    of them: which of them was meant cannot be told. Without such captions the figures are those
    of `finetune.metrics.text_to_image`.

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


def pool_of(data: CaptionedImages) -> Pool:
    """Who belongs to whom in a split."""
    _, first, text = np.unique(data.keys, return_index=True, return_inverse=True)
    pairs = np.unique(np.stack([text.astype(np.int64), data.image_of_caption], axis=1), axis=0)
    return Pool(
        captions=first.astype(np.int64),
        text_positives=_csr(pairs[:, 0], pairs[:, 1], len(first)),
        image_positives=_csr(pairs[:, 1], pairs[:, 0], len(data)),
        images=len(data),
    )


def rank_pool(
    pool: Pool, text_embeds: Float32, image_embeds: Float32
) -> tuple[RetrievalMetrics, RetrievalMetrics]:
    """Text-to-image and image-to-text figures over the whole pool.

    Args:
        pool: q distinct captions and n images.
        text_embeds: float32[q, d], unit length.
        image_embeds: float32[n, d], unit length.
    """
    most = max(CUTOFFS)
    by_text = positive_ranks(text_embeds, image_embeds, pool.text_positives, most)
    by_image = positive_ranks(image_embeds, text_embeds, pool.image_positives, most)
    return (
        summarize("text-to-image", len(image_embeds), by_text, np.diff(pool.text_positives[0])),
        summarize("image-to-text", len(text_embeds), by_image, np.diff(pool.image_positives[0])),
    )


@torch.no_grad()
def evaluate(
    dual: DualEncoder,
    pool: Pool,
    pixels: PixelStore,
    first_image: int,
    tokens: TokenizedCaptions,
    *,
    batch_size: int,
    to_pixel_values: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    check: Callable[[], None] = lambda: None,
) -> tuple[RetrievalMetrics, RetrievalMetrics]:
    """Figures of the model as it is, in float32, whatever precision it trains in.

    Args:
        dual: The model; left in evaluation mode.
        pool: The split.
        pixels: A store in which the split's images are first_image, first_image + 1, …
        first_image: See `pixels`.
        tokens: Of all captions of the split.
        batch_size: Images or captions that are embedded at once.
        to_pixel_values: uint8[b, h, w, 3] to float32[b, 3, h, w] on the model's device.
        check: Called between batches; what it raises ends the evaluation.
    """
    dual.eval()
    device = dual.logit_scale.device
    image_embeds = []
    for chunk in pixels.batches(_chunks(first_image + np.arange(pool.images), batch_size)):
        check()
        image_embeds.append(dual.embed_images(to_pixel_values(chunk)).cpu().numpy())
    text_embeds = []
    for captions in _chunks(pool.captions, batch_size):
        check()
        ids, mask = (torch.from_numpy(array).to(device) for array in tokens.padded(captions))
        text_embeds.append(dual.embed_texts(ids, mask).cpu().numpy())
    return rank_pool(pool, np.concatenate(text_embeds), np.concatenate(image_embeds))


def _chunks(values: Int64, size: int) -> list[Int64]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _csr(rows: Int64, columns: Int64, count: int) -> tuple[Int64, Int64]:
    """(indptr, indices) of pairs in any order."""
    order = np.lexsort((columns, rows))
    indptr = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=indptr[1:])
    return indptr, columns[order]
