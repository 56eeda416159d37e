"""A split of a manifest, embedded by one encoder or by two: what evaluation ranks."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import numpy.typing as npt

from clipsearch.encoder.encoder import Encoder
from finetune.arrays import Float32, Int64
from finetune.console import Progress
from finetune.errors import ManifestError
from finetune.images.decode_workers import decode_ahead
from finetune.images.preprocessing import Preprocessing
from finetune.images.source import ImageSource
from finetune.manifest.class_labels import ClassLabels
from finetune.manifest.manifest import Manifest
from finetune.manifest.problems import Problem

ALL_SPLITS = "all"
NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class SplitImages:
    """The n images of a split that have a caption or a class.

    Attributes:
        ids: n.
        sources: n.
        captions: n; empty for images that have a class alone.
        classes: int64[n], rows of ClassLabels.names; NO_CLASS where there is none.
    """

    ids: tuple[str, ...]
    sources: tuple[ImageSource, ...]
    captions: tuple[tuple[str, ...], ...]
    classes: Int64

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, kept: npt.NDArray[np.integer]) -> "SplitImages":
        """Return the rows of these indices."""
        return SplitImages(
            tuple(self.ids[i] for i in kept),
            tuple(self.sources[i] for i in kept),
            tuple(self.captions[i] for i in kept),
            self.classes[kept],
        )


def read_split_images(
    manifest: Manifest, split: str, labels: ClassLabels | None
) -> tuple[SplitImages, list[Problem]]:
    """Return the split's images, and those that have a caption or a class but no image file.

    Args:
        manifest: An open one.
        split: "train", "val", "test" or "all".
        labels: Where images are also to be classified.

    Raises ManifestError where the split is empty or none of its images can be used.
    """
    counts = manifest.split_counts()
    if split != ALL_SPLITS and not counts[split]:
        found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        raise ManifestError(
            f"{manifest.path}: no image is in the split {split}; there are {found}: choose one"
            f" with --split, or --split all"
        )
    ids: list[str] = []
    sources: list[ImageSource] = []
    captions: list[tuple[str, ...]] = []
    classes: list[int] = []
    left_out: list[Problem] = []
    for record in manifest.records(None if split == ALL_SPLITS else split):
        own = NO_CLASS if labels is None else labels.of_image.get(record.id, NO_CLASS)
        if own == NO_CLASS and not record.captions:
            continue
        if record.image is None:
            left_out.append(Problem("no image", record.id, "has only a vector, no picture"))
            continue
        ids.append(record.id)
        sources.append(record.image)
        captions.append(record.captions)
        classes.append(own)
    if left_out and not ids:
        raise ManifestError(
            f"{manifest.path}: its images in the split {split} have only vectors; evaluation"
            f" embeds the pictures themselves"
        )
    images = SplitImages(tuple(ids), tuple(sources), tuple(captions), np.array(classes, np.int64))
    return images, left_out


def embed_images(
    encoders: Sequence[Encoder],
    images: SplitImages,
    *,
    workers: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    stream: TextIO | None = None,
) -> tuple[SplitImages, list[Float32], list[Problem]]:
    """Embed every image by every encoder; decoded once for all that take the same pixels.

    Args:
        encoders: One or more.
        images: n of them.
        workers: Processes that decode; None chooses, see `decode_ahead`.
        batch_size: Images embedded at once.
        device: Where the encoders run.
        stream: For the progress; standard error where None.

    Returns:
        The m images that can be read, float32[m, d] for each encoder, and why the others cannot.
    """
    together: dict[Preprocessing, list[Encoder]] = {}
    for encoder in encoders:
        together.setdefault(encoder.preprocessing, []).append(encoder)
    embedded: dict[Encoder, Float32] = {}
    errors: dict[int, str] = {}
    total = len(images) * len(together)
    with Progress("embedding pictures", total, unit="images", stream=stream) as progress:
        for preprocessing, alike in together.items():
            arrays = [np.zeros((len(images), one.dimension), np.float32) for one in alike]
            decoded = decode_ahead(
                enumerate(images.sources),
                preprocessing,
                workers=workers,
                ahead=4 * batch_size,
                device=device,
            )
            batch: list[tuple[int, npt.NDArray[np.uint8]]] = []
            with closing(decoded):
                for row, image in decoded:
                    if image.pixels is None:
                        errors[row] = image.error or "cannot be read"
                    else:
                        batch.append((row, image.pixels))
                    if len(batch) == batch_size:
                        _embed(alike, arrays, batch)
                        batch = []
                    progress.advance()
            if batch:
                _embed(alike, arrays, batch)
            embedded |= dict(zip(alike, arrays, strict=True))
    kept = np.array([row for row in range(len(images)) if row not in errors], np.int64)
    unreadable = [
        Problem("unreadable image", images.ids[row], reason)
        for row, reason in sorted(errors.items())
    ]
    return images.only(kept), [embedded[encoder][kept] for encoder in encoders], unreadable


def _embed(
    encoders: Sequence[Encoder],
    arrays: Sequence[Float32],
    batch: Sequence[tuple[int, npt.NDArray[np.uint8]]],
) -> None:
    rows = [row for row, _ in batch]
    pixels = np.stack([one for _, one in batch])
    for encoder, array in zip(encoders, arrays, strict=True):
        array[rows] = encoder.encode_pixels(pixels)
