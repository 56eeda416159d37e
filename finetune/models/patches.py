"""Embeddings of an image's patches in the space of its texts, from one forward pass.

As MaskCLIP has it (Zhou et al. 2022, arXiv:2112.01071): where the image's embedding is read, the
last attention would gather the whole image into each token. There every patch attends to itself
alone, so that what comes out is the projection of its own values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from finetune.models.dual_encoder import DualEncoder

Tokens = Callable[[Any, torch.Tensor], torch.Tensor]


def gives_patches(dual: DualEncoder) -> bool:
    """Return whether the image tower is of a kind whose patches can be embedded: CLIP or SigLIP."""
    return _kind(dual) in _TOKENS


def embed_patches(dual: DualEncoder, pixel_values: torch.Tensor) -> torch.Tensor:
    """Embed the patches of normalised pixels, float32[n, 3, h, w] of the tower's size.

    Returns:
        float32[n, rows, columns, d] of unit length, from the image's upper left.

    Raises KeyError for a tower of which `gives_patches` is false.
    """
    tower = dual.model.vision_model
    tokens = _TOKENS[_kind(dual)](tower, pixel_values)
    # SigLIP has no projection: its head ends in the common space.
    project = getattr(dual.model, "visual_projection", None)
    embedded = tokens if project is None else project(tokens)
    # Not the sizes of the tensor, which a trace takes for dynamic.
    size, patch = dual.preprocessing, tower.config.patch_size
    rows, columns = size.height // patch, size.width // patch
    unit = F.normalize(embedded.float(), dim=-1)
    return unit.reshape(-1, rows, columns, dual.dimension)


def _kind(dual: DualEncoder) -> str:
    return str(dual.model.vision_model.config.model_type)


def _clip_tokens(tower: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return the patches' last hidden states, float32[n, patches, width], each of itself alone."""
    hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = layer(hidden, attention_mask=None)
    attention = last.self_attn
    hidden = hidden[:, 1:]  # the first is the class token
    hidden = hidden + attention.out_proj(attention.v_proj(last.layer_norm1(hidden)))
    hidden = hidden + last.mlp(last.layer_norm2(hidden))
    normalized: torch.Tensor = tower.post_layernorm(hidden)
    return normalized


def _siglip_tokens(tower: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Return what the pooling head makes of each patch, float32[n, patches, d].

    The head is the last attention here: its probe attends to one patch at a time.
    """
    hidden = tower.embeddings(pixel_values)
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=None)
    hidden = tower.post_layernorm(hidden)
    head = tower.head
    attention, width = head.attention, hidden.shape[-1]
    weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    hidden = attention.out_proj(F.linear(hidden, weight, bias))
    pooled: torch.Tensor = hidden + head.mlp(head.layernorm(hidden))
    return pooled


_TOKENS: dict[str, Tokens] = {
    "clip_vision_model": _clip_tokens,
    "siglip_vision_model": _siglip_tokens,
}
