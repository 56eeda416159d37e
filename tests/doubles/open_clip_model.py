"""A tiny model of OpenCLIP's: its configuration, weights and inputs, all made up by rule.

What open_clip 3.3 gives for it lies in tests/recorded/open_clip.json. Where open_clip can be
imported, a test compares the two again; it alone needs torchvision.
"""

from typing import Any

import numpy as np
import torch
from transformers import CLIPTokenizer

from finetune.models.tiny import caption_tokenizer

MAX_TOKENS = 12


def tokenizer() -> CLIPTokenizer:
    """CLIP's kind, of which the end of a text has the highest id."""
    return caption_tokenizer(["a red car"], vocabulary=514, max_tokens=MAX_TOKENS)


def model_config(*, quick_gelu: bool) -> dict[str, Any]:
    """`model_cfg` of open_clip_config.json."""
    return {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": MAX_TOKENS, "vocab_size": 514, "width": 24, "heads": 3, "layers": 1,
            "mlp_ratio": 4.0, "hf_tokenizer_name": ".",
        },
    }  # fmt: skip


def weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Noise by rule, for each name of `shapes` alone; large enough that activations matter."""
    return {name: _noise(name, shape) for name, shape in shapes.items()}


def _noise(name: str, shape: list[int]) -> torch.Tensor:
    random = np.random.default_rng(list(name.encode()))
    middle = 1.0 if name.endswith(("ln_1.weight", "ln_2.weight")) else 0.0
    return torch.from_numpy(random.normal(middle, 0.5, size=shape).astype(np.float32))


def pixels() -> torch.Tensor:
    """Three pictures, float32[3, 3, 32, 32]."""
    noise = np.random.default_rng(1).normal(size=(3, 3, 32, 32))
    return torch.from_numpy(noise.astype(np.float32))


def token_ids() -> torch.Tensor:
    """Three texts of different lengths, int64[3, MAX_TOKENS], filled with 0 as open_clip does."""
    begin, end = 512, 513
    ids = np.zeros((3, MAX_TOKENS), np.int64)
    for row, length in enumerate((3, 7, MAX_TOKENS)):
        words = np.random.default_rng(row).integers(1, begin, size=length - 2)
        ids[row, :length] = [begin, *words, end]
    return torch.from_numpy(ids)
