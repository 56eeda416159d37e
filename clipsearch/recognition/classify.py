"""Say which label an image has: how likely each is, by prompts.

>>> encoder = Encoder.load("encoder")
>>> labels = ("airport", "beach")
>>> classify(encoder, encoder.encode_images(["a.jpg"]), labels).probabilities
array([[0.03, 0.97]])
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder.encoder import Encoder
from finetune.arrays import Float32, Float64
from finetune.errors import ClipsearchError, UsageError
from finetune.evaluation.zero_shot import (
    TEMPLATES,
    average_prompts,
    class_probabilities,
    class_prompts,
)
from finetune.files.atomic import replace_file
from finetune.files.regular_files import open_regular
from finetune.manifest.class_labels import check_distinct
from finetune.manifest.inputs import Inputs, check_output

LOGIT_SCALE = 100.0
"""Where an encoder folder does not tell its own: the most that CLIP's training lets it grow to."""

IMAGE, OWN, PREDICTED, PROBABILITY = "image", "class", "predicted", "probability"
_HEADERS = ((IMAGE, PREDICTED, PROBABILITY), (IMAGE, OWN, PREDICTED, PROBABILITY))


@dataclass(frozen=True, slots=True)
class Classified:
    """Labels of n images.

    Attributes:
        labels: c of them, as they were given.
        probabilities: float64[n, c]; each row sums to 1.
        templates: Of the prompts.
        notes: Sentences for the user.
    """

    labels: tuple[str, ...]
    probabilities: Float64
    templates: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def best(self, row: int, k: int | None = None) -> list[tuple[str, float]]:
        """Return the k likeliest labels of an image (None: all), the likeliest first."""
        order = np.argsort(-self.probabilities[row], kind="stable")[:k].tolist()
        return [(self.labels[label], float(self.probabilities[row, label])) for label in order]

    def to_json(self, images: Sequence[str], k: int | None = None) -> dict[str, Any]:
        """Return everything, each image under its name, as what JSON can hold."""
        return {
            "templates": list(self.templates),
            "images": [
                {
                    "image": image,
                    "labels": [
                        {"label": label, "probability": probability}
                        for label, probability in self.best(row, k)
                    ],
                }
                for row, image in enumerate(images)
            ],
            "notes": list(self.notes),
        }


def classify(
    encoder: Encoder,
    image_embeds: Float32,
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Classified:
    """Say how likely each label is for each image: the softmax of scaled cosines, as CLIP's.

    The probabilities are among these labels: one of them is likely also where none fits.

    Args:
        encoder: Embeds the prompts, and knows the scale.
        image_embeds: float32[n, d], unit length.
        labels: At least two, all different.
        templates: Prompts with {category}; of several the embeddings are averaged.

    Raises UsageError for labels or templates that cannot work, ManifestError where a label is there
    twice, and EncoderError.
    """
    check_labels(labels, "the labels")
    class_embeds = embed_classes(encoder, labels, templates)
    scale, notes = scale_of(encoder)
    found = class_probabilities(image_embeds, class_embeds, scale)
    return Classified(tuple(labels), found, tuple(templates), notes)


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raise UsageError for fewer than two labels, ManifestError where one is there twice."""
    if len(labels) < 2:
        raise UsageError(f"{where}: {len(labels)} is nothing to choose among; give at least two")
    check_distinct(labels, where)


def embed_classes(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> Float32:
    """Return one embedding a class, float32[c, d], the mean over the templates."""
    return average_prompts(encoder.encode_texts(class_prompts(names, templates)), len(templates))


def scale_of(encoder: Encoder) -> tuple[float, tuple[str, ...]]:
    """Return the factor on cosines of an encoder, and a note where its folder does not tell it."""
    scale = encoder.logit_scale
    if scale is not None:
        return scale, ()
    return LOGIT_SCALE, (
        f"{encoder.folder} does not say how sure it is of a cosine (it has no checkpoint):"
        f" {LOGIT_SCALE:g} was taken for its scale, as trained CLIPs have it",
    )


def check_table(path: Path, option: str, inputs: Inputs) -> None:
    """Raise UsageError unless a table of probabilities can be written to `path`.

    Args:
        path: Only an older table is replaced.
        option: How the user named it: "--csv".
        inputs: What the command reads.
    """
    what = f"{option} {path}"
    if not path.parent.is_dir():
        raise UsageError(f"{what}: there is no folder {path.parent}; make it first")
    check_output(path, what, _is_table, inputs)


def write_table(
    path: Path,
    option: str,
    labels: Sequence[str],
    rows: Iterable[tuple[str, str, Float64]],
    *,
    with_own: bool,
) -> None:
    """Write a row an image: the likeliest label, its probability, then that of each label.

    Args:
        path: Checked by `check_table`; an older table is replaced whole.
        option: How the user named it.
        labels: c of them.
        rows: Image, its own class ("" where it has none) and probabilities, float64[c].
        with_own: Whether the own class has a column.

    Raises ClipsearchError where it cannot be written.
    """

    def lines() -> Iterator[bytes]:
        yield _line([*_HEADERS[with_own], *labels])
        for image, own, probabilities in rows:
            best = int(np.argmax(probabilities))
            named = [image, own] if with_own else [image]
            values = [f"{value:.6g}" for value in (probabilities[best], *probabilities.tolist())]
            yield _line([*named, labels[best], *values])

    try:
        replace_file(path.resolve(), lines())
    except OSError as error:
        raise ClipsearchError(f"{option} {path}: cannot be written ({error.strerror})") from error


def _is_table(path: Path) -> bool:
    """Return whether a file is such a table, by how its first line begins."""
    try:
        with open_regular(path) as file:
            first = file.readline(1 << 16)
    except OSError:
        return False
    return any(first.startswith(",".join(header).encode() + b",") for header in _HEADERS)


def _line(values: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode("utf-8", "replace")
