"""Write both towers as ONNX, and compare them with torch."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
import torch
from torch import nn

from finetune.arrays import Float32, Pixels
from finetune.encoder_folder import (
    IMAGE_TOWER,
    PATCH_TOWER,
    TEXT_TOWER,
)
from finetune.errors import ClipsearchError
from finetune.images.pixels import normalize
from finetune.images.preprocessing import Preprocessing
from finetune.models.dual_encoder import DualEncoder
from finetune.models.patches import embed_patches
from finetune.models.pretrained import quiet_transformers

# Opset 17 has LayerNormalization; every onnxruntime since 1.12 runs it.
OPSET = 17
MOST_DIFFERENCE = 1e-3
CHECKED_TEXTS = 64
CHECKED_IMAGES = 16
# An ONNX file is one protobuf message, which cannot be longer.
MOST_TOWER_BYTES = 2**31 - 2**20


def compare_towers(
    folder: Path, dual: DualEncoder, texts: Sequence[str], pixels: Pixels | None
) -> dict[str, float]:
    """Return by tower the largest difference of a value in ONNX's and torch's unit vectors.

    Texts are compared alone and in a padded batch, images alone and in a batch.
    Raises ClipsearchError where one is above 1e-3.
    """
    differences = tower_differences(folder, dual, texts, pixels)
    for tower, difference in differences.items():
        # Written so that NaN fails too.
        if not difference <= MOST_DIFFERENCE:
            raise ClipsearchError(
                f"the ONNX {tower} tower differs from torch by {difference:.2g}, more than"
                f" {MOST_DIFFERENCE:g}; this model cannot be exported with torch"
                f" {torch.__version__} and onnxruntime {onnxruntime.__version__}"
            )
    return differences


def tower_differences(
    folder: Path, dual: DualEncoder, texts: Sequence[str], pixels: Pixels | None
) -> dict[str, float]:
    """Return what `compare_towers` does, however large the differences are."""
    differences = {
        "text": _compare_texts(folder / TEXT_TOWER, dual, texts),
        "image": _compare_images(folder / IMAGE_TOWER, dual, dual.embed_images, pixels),
    }
    if (folder / PATCH_TOWER).is_file():
        embed = partial(embed_patches, dual)
        differences["patch"] = _compare_images(folder / PATCH_TOWER, dual, embed, pixels)
    return differences


class _Tower(nn.Module):
    """One side of a dual encoder as a module: what an ONNX file holds."""

    def __init__(self, dual: DualEncoder, embed: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.dual = dual
        self.embed = embed

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.embed(*inputs)


def write_text_tower(dual: DualEncoder, path: Path) -> None:
    """Write token ids and mask to text_embeds[n, d] of unit length; ClipsearchError above 2 GB."""
    _check_size("text", dual.model.text_model)
    axes = {0: "batch", 1: "tokens"}
    _trace(
        _Tower(dual, dual.embed_texts),
        path,
        example=dual.tokenize(["a", "two dogs on a beach"]),
        inputs={"input_ids": axes, "attention_mask": axes},
        output="text_embeds",
    )


def write_image_tower(dual: DualEncoder, path: Path) -> None:
    """Write pixel values to image_embeds[n, d] of unit length; ClipsearchError above 2 GB."""
    _write_of_images(dual, dual.embed_images, path, "image_embeds")


def write_patch_tower(dual: DualEncoder, path: Path) -> None:
    """Write pixel values to patch_embeds[n, rows, columns, d], each of unit length.

    As `finetune.models.patches`; about as large as the image tower. ClipsearchError above 2 GB.
    """
    _write_of_images(dual, partial(embed_patches, dual), path, "patch_embeds")


def _write_of_images(
    dual: DualEncoder, embed: Callable[[torch.Tensor], torch.Tensor], path: Path, output: str
) -> None:
    _check_size("image", dual.model.vision_model)
    pixels = made_up_images(dual.preprocessing, 2)
    _trace(
        _Tower(dual, embed),
        path,
        example=(torch.from_numpy(normalize(pixels, dual.preprocessing)),),
        inputs={"pixel_values": {0: "batch"}},
        output=output,
    )


def _check_size(name: str, tower: nn.Module) -> None:
    size = sum(value.numel() * 4 for value in tower.parameters())
    if size > MOST_TOWER_BYTES:
        raise ClipsearchError(
            f"the {name} tower has {size / 2**30:.1f} GB of weights in float32, but an ONNX file"
            f" holds at most 2; take a smaller model"
        )


def _trace(
    tower: nn.Module,
    path: Path,
    *,
    example: tuple[torch.Tensor, ...],
    inputs: Mapping[str, Mapping[int, str]],
    output: str,
) -> None:
    with warnings.catch_warnings(), torch.inference_mode(), quiet_transformers():
        # The tracer warns about each comparison of lengths; the comparison with torch at several
        # lengths and batch sizes is what shows that none of them matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={**inputs, output: {0: "batch"}},
            opset_version=OPSET,
            # The newer exporter needs onnxscript and fixes a dimension that is 1 in the example.
            dynamo=False,
        )


def made_up_images(preprocessing: Preprocessing, count: int) -> Pixels:
    """Return noise over gradients, uint8[count, h, w, 3].

    They stand in where there are no real images to compare.
    """
    random = np.random.default_rng(0)
    height, width = preprocessing.height, preprocessing.width
    ramp = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, 3))
    tint = random.uniform(0, 1, size=(count, 1, 1, 3))
    noise = random.normal(0, 30, size=(count, height, width, 3))
    return cast(Pixels, np.clip(ramp * tint + noise, 0, 255).astype(np.uint8))


def _compare_texts(path: Path, dual: DualEncoder, texts: Sequence[str]) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    edges = ["", "a", "two dogs on a beach", "word " * 2 * dual.max_tokens]
    sample = [*edges, *texts[:CHECKED_TEXTS]]
    # Padding must change nothing: alone, all together, and the shorter half together.
    shorter = sorted(sample, key=len)[: len(sample) // 2]
    batches = [*([text] for text in sample[:8]), sample, shorter]
    worst = 0.0
    for batch in batches:
        ids, mask = dual.tokenize(batch)
        with torch.inference_mode():
            expected = dual.embed_texts(ids, mask).numpy()
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        worst = _worse(worst, expected, found)
    return worst


def _compare_images(
    path: Path,
    dual: DualEncoder,
    embed: Callable[[torch.Tensor], torch.Tensor],
    pixels: Pixels | None,
) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if pixels is None or not len(pixels):
        pixels = made_up_images(dual.preprocessing, 5)
    values = normalize(pixels[:CHECKED_IMAGES], dual.preprocessing)
    worst = 0.0
    for batch in (values[:1], values):
        with torch.inference_mode():
            expected = embed(torch.from_numpy(batch)).numpy()
        (found,) = session.run(None, {"pixel_values": batch})
        worst = _worse(worst, expected, found)
    return worst


def _worse(worst: float, expected: Float32, found: Float32) -> float:
    if expected.shape != found.shape:
        return float("inf")
    # np.maximum keeps NaN, max() would lose it.
    return float(np.maximum(worst, np.abs(expected - found).max()))
