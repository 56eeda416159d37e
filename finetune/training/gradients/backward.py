"""Gradients of a batch: of the whole at once, or of its parts one after the other.

The parts of `accumulated_backward` do not see each other's negatives, so it is another loss than
that of the large batch; `finetune.training.gradients.gradcache` has the large batch's own gradients
in as little
memory.
"""

from collections.abc import Callable

import torch

from finetune.data.tensors import TensorBatch
from finetune.data.world import even_slices
from finetune.losses.loss import ScoresBatch
from finetune.models.dual_encoder import DualEncoder


def nothing() -> None:
    """Do nothing after a backward pass: the parameters have their gradients."""


def whole_backward(
    dual: DualEncoder,
    batch: TensorBatch,
    loss_of: ScoresBatch,
    *,
    scaler: torch.amp.GradScaler | None = None,
    dtype: torch.dtype = torch.float32,
    weight: float = 1.0,
    after_backward: Callable[[], None] = nothing,
) -> torch.Tensor:
    """Add the gradients of a batch's loss to the parameters' own, in one forward and backward.

    Args:
        dual: The model.
        batch: On the model's device.
        loss_of: The loss of the embeddings.
        scaler: Multiplies the loss before the backward pass (fp16); the caller unscales.
        dtype: Of autocast; float32 is without.
        weight: Multiplies the loss.
        after_backward: Called after the backward pass, where gradients are collected from.

    Returns the loss times `weight`, a scalar float32 without a graph, not scaled by `scaler`.
    """
    with autocast(dual, dtype):
        loss = weight * loss_of(
            dual.embed_images(batch.pixel_values[:]),
            dual.embed_texts(*batch.texts(slice(None))),
            dual.logit_scale,
            batch.positives,
        )
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
    after_backward()
    return loss.detach()


def accumulated_backward(
    dual: DualEncoder,
    batch: TensorBatch,
    loss_of: ScoresBatch,
    parts: int,
    *,
    scaler: torch.amp.GradScaler | None = None,
    dtype: torch.dtype = torch.float32,
    own: Callable[[int], slice] = slice,
    after_backward: Callable[[], None] = nothing,
) -> torch.Tensor:
    """Add the gradients of the mean of the losses of `parts` batches, cut from this one.

    A pair meets the negatives of its own part alone. The parts differ in size by one at most, and
    each counts as its share of the pairs. Other arguments and the result are those of
    `whole_backward`.

    Args:
        parts: How many.
        own: Which of so many pairs of a part are this process's, `World.share`; the batch then
            holds these, part after part, and the `positives` of all processes.

    Raises ValueError where text i of the batch is not the text of image i.
    """
    pairs = len(batch.positives)
    if batch.positives.shape != (pairs, pairs):
        raise ValueError("a batch can be cut into parts only where each image has one text")
    total = torch.zeros((), device=dual.logit_scale.device)
    start = 0
    for part in even_slices(pairs, min(parts, pairs)):
        count = part.stop - part.start
        rows = slice(start, start + len(range(count)[own(count)]))
        start = rows.stop
        input_ids, attention_mask = batch.texts(rows)
        piece = TensorBatch(
            batch.pixel_values[rows], input_ids, attention_mask, batch.positives[part, part]
        )
        total += whole_backward(
            dual,
            piece,
            loss_of,
            scaler=scaler,
            dtype=dtype,
            weight=count / pairs,
            after_backward=after_backward,
        )
    return total


def autocast(dual: DualEncoder, dtype: torch.dtype) -> torch.autocast:
    """Return autocast on the model's device, off for float32."""
    return torch.autocast(dual.logit_scale.device.type, dtype, enabled=dtype != torch.float32)
