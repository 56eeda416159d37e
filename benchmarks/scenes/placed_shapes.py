"""Made-up images of several different shapes at known places, to measure where a text is found.

Two to four shapes an image, each of another shape and another colour, at places drawn at random
without touching: nothing about a shape says where it lies, and every image holds wrong answers.
"""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from clipsearch.demo.shapes import COLOURS, SHAPES, draw_shape

HEIGHT = 128
# The tower sees the middle of a wide image alone, so that captions fit square ones only.
TRAIN_WIDTHS, WIDTHS = (128,), (128, 160, 200)
SUPERSAMPLING = 3
# Of the height of the image.
RADII = (0.11, 0.19)
MOST_SHAPES = 4
# Places are drawn anew until the shapes lie apart.
TRIES = 1000


@dataclass(frozen=True, slots=True)
class PlacedShape:
    """A shape at its place: the circle that it lies in, in pixels of the image."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def text(self) -> str:
        """How a query names it."""
        return f"a {self.colour} {self.shape}"

    def holds(self, x: float, y: float) -> bool:
        """Return whether a point lies in the square around the shape."""
        return max(abs(x - self.x), abs(y - self.y)) <= self.radius


@dataclass(frozen=True, slots=True)
class PlacedScene:
    """An image to draw, and what lies where in it."""

    name: str
    split: str
    width: int
    shapes: tuple[PlacedShape, ...]

    @property
    def caption(self) -> str:
        """As a person would list what is there, without the places."""
        *first, last = (each.text for each in self.shapes)
        return f"{', '.join(first)} and {last}"


def placed_scenes(counts: dict[str, int], seed: int = 0) -> Iterator[PlacedScene]:
    """Yield `counts[split]` scenes a split; equal seeds give equal scenes."""
    chance = random.Random(seed)
    for split, count in counts.items():
        for number in range(count):
            width = chance.choice(TRAIN_WIDTHS if split == "train" else WIDTHS)
            shapes = _placed(chance, width, chance.randint(2, MOST_SHAPES))
            yield PlacedScene(f"{split}-{number:05}.png", split, width, shapes)


def _placed(chance: random.Random, width: int, count: int) -> tuple[PlacedShape, ...]:
    shapes, colours = chance.sample(SHAPES, count), chance.sample(sorted(COLOURS), count)
    for _ in range(TRIES):
        placed: list[PlacedShape] = []
        for shape, colour in zip(shapes, colours, strict=True):
            radius = HEIGHT * chance.uniform(*RADII)
            x = chance.uniform(radius, width - radius)
            y = chance.uniform(radius, HEIGHT - radius)
            placed.append(PlacedShape(shape, colour, x, y, radius))
        if all(_apart(*pair) for pair in _pairs(placed)):
            return tuple(placed)
    raise AssertionError(f"{count} shapes found no place in {width} x {HEIGHT} pixels")


def _pairs(placed: list[PlacedShape]) -> Iterator[tuple[PlacedShape, PlacedShape]]:
    return ((a, b) for number, a in enumerate(placed) for b in placed[:number])


def _apart(one: PlacedShape, other: PlacedShape) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) > one.radius + other.radius


def draw_placed(scene: PlacedScene) -> Image.Image:
    """Return the scene as an RGB image of `scene.width` by HEIGHT pixels."""
    chance = random.Random(scene.name)
    scale = SUPERSAMPLING
    ground = tuple(chance.randint(205, 255) for _ in range(3))
    image = Image.new("RGB", (scene.width * scale, HEIGHT * scale), ground)
    pen = ImageDraw.Draw(image)
    for each in scene.shapes:
        red, green, blue = (
            max(0, min(255, part + chance.randint(-14, 14))) for part in COLOURS[each.colour]
        )
        centre = (each.x * scale, each.y * scale)
        draw_shape(pen, each.shape, centre, each.radius * scale, chance, (red, green, blue))
    return image.resize((scene.width, HEIGHT), Image.Resampling.BOX)


def write_placed(folder: Path, scenes: list[PlacedScene]) -> Path:
    """Draw the scenes into `folder` and return their manifest."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    manifest = folder / "captions.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "split"])
        for scene in scenes:
            draw_placed(scene).save(folder / "images" / scene.name, compress_level=1)
            rows.writerow([f"images/{scene.name}", scene.caption, scene.split])
    return manifest
