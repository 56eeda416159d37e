"""Made-up captioned images for the demo: coloured shapes, counted and placed.

Some combinations of shape and colour never appear in training, so that a search for them shows
what the encoder has understood rather than what it has seen.
"""

import csv
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "bar")
COLOURS = {
    "red": (214, 40, 40),
    "green": (52, 160, 64),
    "blue": (38, 84, 214),
    "yellow": (244, 208, 30),
    "purple": (128, 50, 168),
    "orange": (244, 130, 30),
    "black": (28, 28, 32),
    "cyan": (40, 190, 208),
}
COUNTS = {1: "one", 2: "two", 3: "three"}
POSITIONS = {
    "left": ((0.26, 0.5), (0.0, 1.0)),
    "right": ((0.74, 0.5), (0.0, 1.0)),
    "top": ((0.5, 0.26), (1.0, 0.0)),
    "bottom": ((0.5, 0.74), (1.0, 0.0)),
}
# The same in other words.
OTHER_COUNTS = {1: "a single", 2: "a pair of", 3: "a group of three"}
OTHER_POSITIONS = {"left": "west", "right": "east", "top": "upper edge", "bottom": "lower edge"}
RADIUS = {1: 0.22, 2: 0.185, 3: 0.15}
STEP = {1: 0.0, 2: 0.42, 3: 0.32}
PIXELS = 96
SUPERSAMPLING = 3

TEST_COMBINATIONS = 10
VAL_COMBINATIONS = 6
TRAIN_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Scene:
    """One image to draw, and what is said of it."""

    shape: str
    colour: str
    count: int
    position: str
    split: str
    number: int

    @property
    def file_name(self) -> str:
        """Unique within the data set."""
        return f"{self.colour}-{self.shape}-{self.count}-{self.position}-{self.number}.png"

    @property
    def caption(self) -> str:
        """As a person would write it."""
        place = {"left": "on the left", "right": "on the right"}.get(
            self.position, f"at the {self.position}"
        )
        return f"{COUNTS[self.count]} {self.colour} {self._noun} {place}"

    @property
    def other_caption(self) -> str:
        """The same in other words: it shares colour and shape with `caption`."""
        place, number = OTHER_POSITIONS[self.position], OTHER_COUNTS[self.count]
        return f"{place}: {number} {self._noun}, painted {self.colour}"

    @property
    def _noun(self) -> str:
        plural = {"cross": "crosses"}.get(self.shape, f"{self.shape}s")
        return self.shape if self.count == 1 else plural


def scenes(seed: int = 0) -> list[Scene]:
    """Return every scene of the data set; which combinations are held out follows from `seed`.

    Test and validation scenes come once each, so that their captions are all different.
    """
    chance = random.Random(seed)
    pairs = list(product(SHAPES, COLOURS))
    chance.shuffle(pairs)
    held_out = TEST_COMBINATIONS + VAL_COMBINATIONS
    splits = ["test"] * TEST_COMBINATIONS + ["val"] * VAL_COMBINATIONS
    splits += ["train"] * (len(pairs) - held_out)
    return [
        Scene(shape, colour, count, position, split, number)
        for (shape, colour), split in zip(pairs, splits, strict=True)
        for count, position in product(COUNTS, POSITIONS)
        for number in range(TRAIN_REPEATS if split == "train" else 1)
    ]


def write_shapes(folder: Path, seed: int = 0, *, count: int | None = None) -> Path:
    """Draw every scene into `folder` and return the manifest, `folder`/captions.csv.

    With `count`, so many of the split train, each of another kind. Each image has two captions,
    the second in other words.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    manifest = folder / "captions.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split", "shape", "colour", "position", "count"])
        chosen = scenes(seed)
        if count is not None:
            train = [scene for scene in chosen if scene.split == "train"]
            chosen = train[:: max(len(train) // count, 1)][:count]
        for scene in chosen:
            draw(scene, seed).save(images / scene.file_name, compress_level=1)
            tags = (scene.split, scene.shape, scene.colour, scene.position, scene.count)
            for caption in (scene.caption, scene.other_caption):
                writer.writerow((f"images/{scene.file_name}", caption, *tags))
    return manifest


def draw(scene: Scene, seed: int = 0) -> Image.Image:
    """Return the scene as an RGB image of PIXELS by PIXELS; size, angle, shade and place vary."""
    chance = random.Random(f"{seed} {scene.file_name}")
    side = PIXELS * SUPERSAMPLING
    image = Image.new("RGB", (side, side), _pale(chance))
    pen = ImageDraw.Draw(image)
    fill = _shade(COLOURS[scene.colour], chance)
    for x, y in _places(scene, chance):
        radius = side * RADIUS[scene.count] * chance.uniform(0.9, 1.1)
        draw_shape(pen, scene.shape, (x * side, y * side), radius, chance, fill)
    return image.resize((PIXELS, PIXELS), Image.Resampling.BOX)


def _places(scene: Scene, chance: random.Random) -> Iterator[tuple[float, float]]:
    (x, y), (along_x, along_y) = POSITIONS[scene.position]
    for index in range(scene.count):
        step = (index - (scene.count - 1) / 2) * STEP[scene.count]
        yield (
            x + along_x * step + chance.uniform(-0.03, 0.03),
            y + along_y * step + chance.uniform(-0.03, 0.03),
        )


def _pale(chance: random.Random) -> tuple[int, int, int]:
    return (chance.randint(205, 255), chance.randint(205, 255), chance.randint(205, 255))


def _shade(colour: tuple[int, int, int], chance: random.Random) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, part + chance.randint(-14, 14))) for part in colour)
    return (red, green, blue)


def draw_shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    chance: random.Random,
    fill: tuple[int, int, int],
) -> None:
    """Draw one of SHAPES with a pen; it lies within `radius` pixels of `centre`."""
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    turn = chance.uniform(-0.2, 0.2)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=round(radius * 0.38))
    elif shape == "cross":
        for angle in (turn, turn + math.pi / 2):
            pen.polygon(_rectangle(centre, radius, radius * 0.28, angle), fill=fill)
    elif shape == "bar":
        pen.polygon(_rectangle(centre, radius, radius * 0.3, turn), fill=fill)
    else:
        pen.polygon(_corners(shape, centre, radius, turn), fill=fill)


def _corners(
    shape: str, centre: tuple[float, float], radius: float, turn: float
) -> list[tuple[float, float]]:
    """Return corners at equal angles from the top; a star's lie near and far by turns."""
    number = {"square": 4, "diamond": 4, "triangle": 3, "star": 10}[shape]
    start = turn - math.pi / 2 + (math.pi / 4 if shape == "square" else 0.0)
    squeeze = 0.62 if shape == "diamond" else 1.0
    corners = []
    for index in range(number):
        length = radius * (0.45 if shape == "star" and index % 2 else 1.0)
        angle = start + 2 * math.pi * index / number
        corners.append(
            (centre[0] + squeeze * length * math.cos(angle), centre[1] + length * math.sin(angle))
        )
    return corners


def _rectangle(
    centre: tuple[float, float], half_length: float, half_width: float, angle: float
) -> list[tuple[float, float]]:
    along = (half_length * math.cos(angle), half_length * math.sin(angle))
    across = (-half_width * math.sin(angle), half_width * math.cos(angle))
    return [
        (centre[0] + i * along[0] + j * across[0], centre[1] + i * along[1] + j * across[1])
        for i, j in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
