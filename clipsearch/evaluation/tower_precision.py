"""What an encoder folder's smaller ONNX towers cost: cosines to float32, and recall@10 lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from clipsearch.encoder.encoder import Encoder
from clipsearch.evaluation.embeddings import ALL_SPLITS, embed_images, read_split_images
from clipsearch.evaluation.measures import embed_captions
from finetune.arrays import Float32
from finetune.errors import ManifestError
from finetune.evaluation.pool import pool_figures, pool_ranks
from finetune.export.onnx import made_up_images
from finetune.manifest.manifest import Manifest

FIGURE = "recall@10"
TEXTS = ("a", "two dogs on a beach", "a red car beside an old house", "word " * 200)
IMAGES = 16


@dataclass(frozen=True, slots=True)
class Cosines:
    """Between the embeddings of the same texts, or images, by two encoders.

    Attributes:
        least, mean: Of `count` of them.
        count: Texts, or images.
    """

    least: float
    mean: float
    count: int

    @classmethod
    def of(cls, found: Float32, expected: Float32) -> "Cosines":
        """Compare float32[n, d] with float32[n, d], both of unit length."""
        each = (found.astype(np.float64) * expected).sum(axis=1)
        return cls(float(each.min()), float(each.mean()), len(each))


@dataclass(frozen=True, slots=True)
class PrecisionCost:
    """The ONNX towers of a folder against its checkpoint in float32.

    Attributes:
        texts, images: Cosines.
        recall_in_fp32, recall: recall@10 of captions over the whole pool; None without a manifest.
        pool: Images that captions choose among; 0 without a manifest.
    """

    texts: Cosines
    images: Cosines
    recall_in_fp32: float | None = None
    recall: float | None = None
    pool: int = 0


def precision_cost(
    folder: Path, manifest: Path | None, *, stream: TextIO | None = None
) -> PrecisionCost:
    """Embed the captioned images of a manifest by both; its split val where it has one, else all.

    Args:
        folder: The encoder folder.
        manifest: Captioned images; None compares cosines alone, of a few made-up images and texts.
        stream: For the progress; standard error where None.

    Raises ManifestError where fewer than two images can be read.
    """
    # The checkpoint in the folder is float32, whatever its ONNX towers are.
    encoders = (Encoder.load(folder, device="torch-cpu", verify=False), Encoder.load(folder))
    if manifest is None:
        pixels = made_up_images(encoders[0].preprocessing, IMAGES)
        expected, smaller_texts = (encoder.encode_texts(TEXTS) for encoder in encoders)
        shown, smaller_images = (encoder.encode_pixels(pixels) for encoder in encoders)
        return PrecisionCost(Cosines.of(smaller_texts, expected), Cosines.of(smaller_images, shown))
    with Manifest.open(manifest) as opened:
        split = "val" if opened.split_counts()["val"] else ALL_SPLITS
        found, _ = read_split_images(opened, split, None)
    found, image_embeds, _ = embed_images(encoders, found, stream=stream)
    retrieval = embed_captions(encoders, found, image_embeds)
    if retrieval is None:
        raise ManifestError(
            f"{manifest}: fewer than two of its captioned images (split {split}) can be read, so"
            f" that there is no {FIGURE} to measure; give --measure-on another manifest"
        )
    exact, smaller = (
        pool_figures(retrieval.pool, pool_ranks(retrieval.pool, texts, images))[0][FIGURE]
        for texts, images in zip(retrieval.text_embeds, retrieval.image_embeds, strict=True)
    )
    return PrecisionCost(
        Cosines.of(retrieval.text_embeds[1], retrieval.text_embeds[0]),
        Cosines.of(retrieval.image_embeds[1], retrieval.image_embeds[0]),
        exact,
        smaller,
        retrieval.pool.images,
    )
