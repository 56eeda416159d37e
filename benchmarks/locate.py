"""Where in the image: how often the peak of a heat map lies in the shape that a text names.

    python benchmarks/locate.py                          # trains first, for 10 to 20 minutes
    python benchmarks/locate.py --keep DIR               # keeps the encoder, and takes it next time
    python benchmarks/locate.py --images 500 --epochs 2  # a quick look

The pointing game (Zhang et al. 2016, arXiv:1608.00507). Images of two to four different shapes at
known places (`scenes/placed_shapes.py`); a tiny CLIP of 8-pixel patches is trained on such images,
with captions that list the shapes and say nothing of places. Each shape of each test image is a
query, "a red star"; it counts as found where the peak lies in the square around that shape. Beside
both methods: a point at random, and the image's centre. Intervals are 95 % by bootstrap over
images.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scenes.placed_shapes import (
    HEIGHT,
    PlacedScene,
    PlacedShape,
    draw_placed,
    placed_scenes,
    write_placed,
)

from clipsearch.encoder.encoder import Encoder
from clipsearch.localization.locate import locate
from clipsearch.localization.methods import METHODS
from finetune import TrainConfig, train
from finetune.arrays import Float64
from finetune.encoder_folder import PATCH_TOWER
from finetune.images.processor_config import preprocessor_config
from finetune.models.tiny import TinySize, tiny_clip

PATCH = 8
RESAMPLES = 2000
HELD_OUT = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """A query, and what found it.

    Attributes:
        scene: Number of its image.
        shapes: In that image.
        found: By method, "chance" and "centre": 1, 0, or a probability.
        seconds: By method.
    """

    scene: int
    shapes: int
    found: dict[str, float]
    seconds: dict[str, float]


def trained(folder: Path, scenes: Sequence[PlacedScene], epochs: int) -> Encoder:
    """Return the encoder of `folder`, trained where it is not there yet."""
    if not (folder / "encoder" / PATCH_TOWER).is_file():
        manifest = write_placed(folder, list(scenes))
        start = folder / "start"
        start.mkdir(exist_ok=True)
        captions = [scene.caption for scene in scenes if scene.split == "train"]
        made = tiny_clip(captions, size=TinySize(patch_size=PATCH))
        made.model.save_pretrained(start)
        made.tokenizer.save_pretrained(start)
        preprocessing = preprocessor_config(made.preprocessing, "clip")
        (start / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        train(
            TrainConfig(
                manifest=str(manifest),
                model=str(start),
                out=str(folder / "encoder"),
                epochs=epochs,
                batch_size=128,
                patience=0,
                learning_rate=1e-3,
            )
        )
    return Encoder.load(folder / "encoder")


def played(encoder: Encoder, scenes: Sequence[PlacedScene]) -> list[Outcome]:
    """Ask for each shape of each scene, by each method."""
    outcomes = []
    for number, scene in enumerate(scenes):
        image = draw_placed(scene)
        for shape in scene.shapes:
            vector = encoder.encode_texts([shape.text])[0]
            found, seconds = guessed(scene, shape), {}
            for method in METHODS:
                began = time.perf_counter()
                peak = locate(encoder, image, vector, method).peak
                seconds[method] = time.perf_counter() - began
                found[method] = float(shape.holds(peak.x, peak.y))
            outcomes.append(Outcome(number, len(scene.shapes), found, seconds))
    return outcomes


def guessed(scene: PlacedScene, shape: PlacedShape) -> dict[str, float]:
    """Return what a random point and the centre would find."""
    area = (2 * shape.radius) ** 2 / (scene.width * HEIGHT)
    return {"chance": area, "centre": float(shape.holds(scene.width / 2, HEIGHT / 2))}


def interval(values: Float64, scenes: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean, images drawn anew."""
    chance = np.random.default_rng(0)
    sums, counts = np.bincount(scenes, values), np.bincount(scenes)
    drawn = chance.integers(0, len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print a row a method, with the share found of all and by the number of shapes."""
    scenes = np.array([each.scene for each in outcomes])
    shapes = np.array([each.shapes for each in outcomes])
    print(f"{scenes.max() + 1} images, {len(outcomes)} queries; share whose peak is in the shape")
    print(f"{'':9}{'all':>7}{'95 %':>16}{'2 shapes':>10}{'3':>7}{'4':>7}{'ms':>8}")
    for name in (*METHODS, "centre", "chance"):
        found = np.array([each.found[name] for each in outcomes])
        low, high = interval(found, scenes)
        parts = "".join(
            f"{found[shapes == count].mean():>{width}.3f}"
            for count, width in ((2, 10), (3, 7), (4, 7))
        )
        times = [1000 * each.seconds[name] for each in outcomes if name in each.seconds]
        took = f"{np.median(times):>8.1f}" if times else ""
        print(f"{name:9}{found.mean():>7.3f}{f'{low:.3f} to {high:.3f}':>16}{parts}{took}")
    one, other = METHODS
    difference = np.array([each.found[one] - each.found[other] for each in outcomes])
    low, high = interval(difference, scenes)
    print(f"{one} minus {other}: {difference.mean():+.3f} ({low:+.3f} to {high:+.3f})")


def main() -> None:
    """Train, ask, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--split", choices=("val", "test"), default="test", help="that is asked")
    parser.add_argument("--keep", type=Path, help="folder for images and encoder")
    options = parser.parse_args()
    counts = {"train": options.images, "val": HELD_OUT, "test": HELD_OUT}
    scenes = list(placed_scenes(counts))
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        encoder = trained(folder, scenes, options.epochs)
        print_table(played(encoder, [each for each in scenes if each.split == options.split]))


if __name__ == "__main__":
    main()
