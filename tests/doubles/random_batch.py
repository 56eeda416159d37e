"""A small dual encoder and a batch of noise for it."""

import torch
from torch.nn import functional as F

from finetune.data.tensors import TensorBatch
from finetune.models.dual_encoder import DualEncoder
from finetune.models.tiny import TinySize, tiny_clip

CAPTIONS = ("a red square", "a blue circle", "two green dots", "a car near a long white wall")
SMALL = TinySize(image_size=32, width=32, mlp_width=64, heads=2, projection=16, max_tokens=16)


def small_dual(*, dropout: float = 0.0, attention: str = "sdpa") -> DualEncoder:
    """A tiny CLIP in training mode; the same weights each time."""
    built = tiny_clip(CAPTIONS, size=SMALL)
    built.model.set_attn_implementation(attention)
    dual = DualEncoder(
        built.model, built.tokenizer, built.preprocessing, max_tokens=16, base_model="tiny"
    )
    for module in dual.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = dropout
    return dual.train()


def random_batch(dual: DualEncoder, images: int, texts: int | None = None) -> TensorBatch:
    """Noise with texts of different lengths; some have two positives; the same each time."""
    texts = images if texts is None else texts
    chance = torch.Generator().manual_seed(images)
    size = dual.preprocessing.height
    ids, mask = dual.tokenize([CAPTIONS[i % 4] + " red" * (i % 3) for i in range(texts)])
    positives = torch.rand(images, texts, generator=chance) < 0.5 / texts
    positives |= F.one_hot(torch.arange(texts) % images, images).T.bool()
    pixels = torch.randn(images, 3, size, size, generator=chance)
    return TensorBatch(pixels, ids, mask, positives)


def gradients(dual: DualEncoder) -> dict[str, torch.Tensor]:
    """Copies of the gradients, which are then cleared."""
    found = {
        name: parameter.grad.clone()
        for name, parameter in dual.named_parameters()
        if parameter.grad is not None
    }
    dual.zero_grad(set_to_none=True)
    return found


def assert_close(found: dict, expected: dict, tolerance: float) -> None:
    """The same parameters, each within `tolerance` of the largest expected gradient."""
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        error = (found[name] - gradient).abs().max().item()
        assert error <= tolerance * largest, f"{name}: {error} of {largest}"
