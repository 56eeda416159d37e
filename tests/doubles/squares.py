"""Made-up captioned pictures that a tiny CLIP learns within seconds."""

import csv
import random
from pathlib import Path

from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 220),
    "yellow": (240, 220, 30),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}


def write_squares(folder: Path, *, train: int, val: int) -> Path:
    """A square of one colour in a corner of another, two captions each; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    manifest = folder / "squares.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "caption", "split"))
        for number in range(train + val):
            ground, square = chance.sample(sorted(COLOURS), 2)
            x, y = chance.choice((0, 16)), chance.choice((0, 16))
            image = Image.new("RGB", (32, 32), COLOURS[ground])
            image.paste(COLOURS[square], (x, y, x + 16, y + 16))
            name = f"{number}.png"
            image.save(folder / name)
            place = f"{'bottom' if y else 'top'} {'right' if x else 'left'}"
            split = "train" if number < train else "val"
            rows.writerow((name, f"a {square} square {place} on {ground}", split))
            rows.writerow((name, f"{ground} with a {square} square at the {place}", split))
    return manifest
