"""How well perceptual hashes tell copies from other pictures.

    python benchmarks/near_duplicates.py FOLDER…

Of each folder up to 300 pictures are saved anew: as JPEG of quality 90 and 70, and at half the
size. Printed: the share of copies with their original's hash, and the pictures that share theirs
with another one of the folder.
"""

import argparse
import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.images.perceptual_hash import perceptual_hash

COUNT = 300
SIDE = 224


def main(folders: list[str]) -> None:
    """Print a line for each folder."""
    print(f"{'folder':40} {'jpeg 90':>8} {'jpeg 70':>8} {'half':>6} {'shared':>8}")
    for folder in folders:
        paths = sorted(each for each in Path(folder).rglob("*") if each.suffix in (".png", ".jpg"))
        random.Random(1).shuffle(paths)
        images = [_opened(path) for path in paths[:COUNT]]
        hashes = [_hash(image) for image in images]
        counts = Counter(hashes)
        shared = sum(count for count in counts.values() if count > 1)
        copies = [[_hash(copy) for copy in _copies(image)] for image in images]
        pairs = zip(hashes, copies, strict=True)
        equal = np.mean([[copy == own for copy in held] for own, held in pairs], 0)
        shares = f"{equal[0]:8.2f} {equal[1]:8.2f} {equal[2]:6.2f}"
        print(f"{folder[-40:]:40} {shares} {shared:4}/{len(images)}")


def _opened(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _hash(image: Image.Image) -> str:
    return perceptual_hash(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))


def _copies(image: Image.Image) -> list[Image.Image]:
    copies = []
    for quality in (90, 70):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality)
        copies.append(Image.open(data).convert("RGB"))
    width, height = image.size
    half = (max(1, width // 2), max(1, height // 2))
    return [*copies, image.resize(half, Image.Resampling.LANCZOS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    main(parser.parse_args().folders)
