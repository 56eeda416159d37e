"""How likely each class is for each image of a split, as a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsearch.evaluation.embeddings import NO_CLASS, SplitImages
from clipsearch.recognition.classify import check_table, write_table
from finetune.arrays import Float32, Float64
from finetune.evaluation.zero_shot import class_probabilities
from finetune.manifest.inputs import Inputs

OPTION = "--predictions"
_IMAGES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Predictions:
    """What an encoder makes of n images and c classes.

    Attributes:
        images: Of the split, those without a class included.
        image_embeds: float32[n, d], unit length.
        names: Of the classes.
        class_embeds: float32[c, d], unit length.
        scale: On cosines before the softmax.
    """

    images: SplitImages
    image_embeds: Float32
    names: tuple[str, ...]
    class_embeds: Float32
    scale: float

    def rows(self) -> Iterator[tuple[str, str, Float64]]:
        """Yield id, own class ("" where it has none) and probabilities, float64[c], of each."""
        for start in range(0, len(self.images), _IMAGES_AT_ONCE):
            embeds = self.image_embeds[start : start + _IMAGES_AT_ONCE]
            found = class_probabilities(embeds, self.class_embeds, self.scale)
            for row, probabilities in enumerate(found, start):
                own = int(self.images.classes[row])
                yield (
                    self.images.ids[row],
                    "" if own == NO_CLASS else self.names[own],
                    probabilities,
                )


def check_predictions(path: Path, inputs: Inputs) -> None:
    """Raise UsageError unless predictions can be written to `path`; `inputs`: what is read."""
    check_table(path, OPTION, inputs)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write a row an image: its class, the likeliest one, its probability, then that of each.

    Raises ClipsearchError where it cannot be written.
    """
    write_table(path, OPTION, predictions.names, predictions.rows(), with_own=True)
