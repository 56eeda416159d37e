"""A large batch's own gradients in the memory of a small one.

A contrastive loss needs every embedding of the batch at once, but not every activation. GradCache
(Gao et al. 2021, arXiv:2101.06983, section 3.2):

    1. Embed the batch chunk by chunk, without a graph; keep the embeddings alone, and the random
       state before each chunk.
    2. Take the loss of all embeddings, and its gradient with respect to each embedding (and to
       the parameters of the loss: scale and bias). Keep these gradients.
    3. Chunk by chunk, from the same random state, embed again, now with a graph, and go back from
       the kept gradients to the parameters, which add them up.

By the chain rule the sum over chunks is the gradient of the large batch: an embedding depends on
its own chunk only, and the random state makes dropout drop the same in 1 and 3. (A tower that
mixes the rows of a batch, as batch normalisation does, breaks this; no CLIP or SigLIP does.)
Memory is that of one chunk's activations, the time is that of one more forward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from finetune.data.tensors import TensorBatch
from finetune.data.world import even_slices
from finetune.losses.loss import ScoresBatch
from finetune.models.dual_encoder import DualEncoder
from finetune.training.gradients.backward import autocast, nothing, whole_backward

Embed = Callable[[slice], torch.Tensor]


def cached_backward(
    dual: DualEncoder,
    batch: TensorBatch,
    loss_of: ScoresBatch,
    chunk_size: int,
    *,
    scaler: torch.amp.GradScaler | None = None,
    dtype: torch.dtype = torch.float32,
    after_backward: Callable[[], None] = nothing,
) -> torch.Tensor:
    """Add the gradients of the whole batch's loss to the parameters' own.

    Args:
        dual: The model.
        batch: n images and m texts, on the model's device. `pixel_values` may be anything that
            has a length and gives float32[k, 3, h, w] for a slice of k.
        loss_of: The loss of all embeddings.
        chunk_size: Images, and texts, whose activations are held at a time. A batch that is no
            larger goes the plain way, without the second forward pass.
        scaler: Multiplies the loss before the backward pass (fp16); the caller unscales.
        dtype: Of autocast; float32 is without.
        after_backward: Called after the backward pass of each chunk, where gradients are
            collected from.

    Returns the loss, a scalar float32 without a graph, not scaled by `scaler`.
    """
    images, texts = len(batch.pixel_values), len(batch.input_ids)
    if chunk_size >= max(images, texts):
        return whole_backward(
            dual, batch, loss_of, scaler=scaler, dtype=dtype, after_backward=after_backward
        )

    def embed_images(rows: slice) -> torch.Tensor:
        # Each chunk has an autocast of its own: the weights that one casts without a graph must
        # not serve another with one.
        with autocast(dual, dtype):
            return dual.embed_images(batch.pixel_values[rows])

    def embed_texts(rows: slice) -> torch.Tensor:
        with autocast(dual, dtype):
            return dual.embed_texts(*batch.texts(rows))

    device = dual.logit_scale.device

    # 1. all embeddings, without a graph
    image_chunks = _embed(embed_images, images, chunk_size, device)
    text_chunks = _embed(embed_texts, texts, chunk_size, device)
    after = RandomState.now(device)

    # 2. the loss, and the gradient of each embedding
    image_embeds = torch.cat([chunk.embeds for chunk in image_chunks]).requires_grad_()
    text_embeds = torch.cat([chunk.embeds for chunk in text_chunks]).requires_grad_()
    loss = loss_of(image_embeds, text_embeds, dual.logit_scale, batch.positives)
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))

    # 3. the same embeddings with a graph, from their gradients back to the parameters
    _replay(embed_images, image_chunks, image_embeds.grad, after_backward)
    _replay(embed_texts, text_chunks, text_embeds.grad, after_backward)
    after.restore()
    return loss.detach()


@dataclass(frozen=True, slots=True)
class RandomState:
    """Of torch, on the CPU and on one device."""

    device: torch.device
    cpu: torch.Tensor
    cuda: torch.Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "RandomState":
        """Return the state at this moment."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows' embeddings, float32[k, d], and the random state before they were made."""

    rows: slice
    embeds: torch.Tensor
    random_state: RandomState


@torch.no_grad()
def _embed(embed: Embed, count: int, chunk_size: int, device: torch.device) -> list[_Chunk]:
    chunks = []
    for rows in even_slices(count, -(-count // chunk_size)):
        random_state = RandomState.now(device)
        chunks.append(_Chunk(rows, embed(rows), random_state))
    return chunks


def _replay(
    embed: Embed,
    chunks: list[_Chunk],
    gradient: torch.Tensor | None,
    after_backward: Callable[[], None],
) -> None:
    assert gradient is not None
    for chunk in chunks:
        chunk.random_state.restore()
        embeds = embed(chunk.rows)
        if not embeds.requires_grad:  # a frozen tower
            return
        torch.autograd.backward(embeds, gradient[chunk.rows])
        after_backward()
