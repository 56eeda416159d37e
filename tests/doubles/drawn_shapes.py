"""Coloured shapes on pale grounds, and captions of them, some of which would like to be HTML."""

import csv
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

COLOURS = {
    "red": (210, 50, 40),
    "green": (60, 150, 70),
    "blue": (50, 90, 200),
    "yellow": (240, 200, 40),
}
SHAPES = ("circle", "square", "triangle")
SIZES = ((200, 150), (150, 200), (180, 180), (300, 100))
HOSTILE = '<img src=x onerror="document.title=1"> & </script><script>document.title=2</script>'
HOSTILE_NAME = "'><svg onload=alert(1)> %2e%2e #1?.png"
RIGHT_TO_LEFT = "دائرة كبيرة على أرض فاتحة"


def draw_shapes(folder: Path, count: int) -> Path:
    """Draw `count` images of one shape each, and write `shapes.csv` beside them."""
    chance = Random(1)
    with (folder / "shapes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "class", "year"])
        for number in range(count):
            colour, shape = chance.choice(list(COLOURS)), chance.choice(SHAPES)
            name = HOSTILE_NAME if number == 0 else f"{colour}/{shape} {number:02}.png"
            _draw(folder / name, chance, COLOURS[colour], shape)
            caption = f"a {colour} {shape} on a pale ground"
            tag = '"<b>quoted</b>|"' if number == 1 else shape
            writer.writerow([name, caption, tag, 2000 + number % 20])
            for other in (HOSTILE if number < 2 else "", RIGHT_TO_LEFT if number == 2 else ""):
                if other:
                    writer.writerow([name, other, "", ""])
    return folder / "shapes.csv"


def _draw(path: Path, chance: Random, colour: tuple[int, int, int], shape: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", chance.choice(SIZES), (235, 235, 225))
    pen = ImageDraw.Draw(image)
    half = chance.randint(15, 40)
    x, y = image.width // 2 + chance.randint(-30, 30), image.height // 2
    box = (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=colour)
    image.save(path)
