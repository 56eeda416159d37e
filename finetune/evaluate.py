"""Embed a split and rank all of it: the figures that training is steered and reported by."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from finetune.batches import TokenizedCaptions
from finetune.dataset import Int64
from finetune.metrics import RetrievalMetrics
from finetune.model import DualEncoder
from finetune.pixels import PixelStore
from finetune.pool import Pool as Pool
from finetune.pool import pool_of as pool_of
from finetune.pool import rank_pool as rank_pool


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
