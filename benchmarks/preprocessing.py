"""JPEG draft decoding against full decoding: speed, and how far it moves the embedding.

    python benchmarks/preprocessing.py                         # made-up photographs, 224 px
    python benchmarks/preprocessing.py --images DIR --side 28  # the JPEGs of a folder

A JPEG that is much larger than needed can be decoded at 1/2, 1/4 or 1/8 of its size. The
fraction is sharper than what bicubic resampling makes of the full image, so the embedding
moves. Each row is a margin: how many times the size needed must be left after decoding; the last
is the one that finetune.images uses. Times are CPU milliseconds an image, on one core, of
read, decode, resize and crop; cosines are between the embeddings of a ViT of large random
weights, which are more sensitive than those of a trained one.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune.arrays import Pixels
from finetune.images.open import open_image
from finetune.images.pixels import DRAFT_MARGIN, load_pixels, normalize, resize_and_crop
from finetune.images.preprocessing import Preprocessing
from finetune.images.processor_config import preprocessing_from_config

SIZES = ((640, 480), (1024, 768), (1600, 1200), (4000, 3000))
MARGINS = (1.0, 1.5, 2.0, DRAFT_MARGIN)
REPEATS = 3


def made_up_photograph(size: tuple[int, int], seed: int) -> bytes:
    """A JPEG whose power falls with the frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    width, height = size
    values = np.zeros((height, width, 3), np.float32)
    step = 128
    while step >= 2:
        small = rng.normal(size=(height // step + 2, width // step + 2, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(small[..., channel] * step).resize(size, 3)
            values[..., channel] += np.asarray(plane)
        step //= 2
    values = np.clip(127 + values * (50 / values.std()), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def embed(pixels: list[Pixels], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """float32[n, d], unit length, of a seeded random ViT with 7 x 7 patches."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=preprocessing.height,
        patch_size=preprocessing.height // 7,
        projection_dim=64,
        initializer_factor=3.0,
    )
    model = CLIPVisionModelWithProjection(config).eval()
    with torch.inference_mode():
        values = torch.from_numpy(normalize(np.stack(pixels), preprocessing))
        found = model(pixel_values=values).image_embeds
    return torch.nn.functional.normalize(found, dim=-1).numpy()


def measure(files: list[bytes], preprocessing: Preprocessing, label: str) -> None:
    ways = {"full": lambda data: resize_and_crop(open_image(data), preprocessing)}
    for margin in MARGINS:
        ways[f"margin {margin}"] = lambda data, margin=margin: load_pixels(
            data, preprocessing, draft_margin=margin
        )
    pixels = {name: [way(data) for data in files] for name, way in ways.items()}
    seconds = {name: float("inf") for name in ways}
    # Way after way within a repeat, so that a busy machine slows all of them.
    for _ in range(REPEATS):
        for name, way in ways.items():
            start = time.process_time()
            for data in files:
                way(data)
            seconds[name] = min(seconds[name], time.process_time() - start)
    full = embed(pixels["full"], preprocessing)
    for name in ways:
        cosines = (embed(pixels[name], preprocessing) * full).sum(axis=1)
        print(
            f"{label:12} {name:11} {1000 * seconds[name] / len(files):8.2f}"
            f" {seconds['full'] / seconds[name]:8.2f}x {cosines.min():10.5f}"
            f" {np.median(cosines):10.5f} {np.mean(cosines < 0.999):8.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEGs, instead of made-up ones")
    parser.add_argument("--side", type=int, default=224, help="pixels of the tower's input")
    parser.add_argument("--count", type=int, default=20, help="pictures of each size")
    options = parser.parse_args()
    side = options.side
    preprocessing = preprocessing_from_config(
        {"image_processor_type": "CLIPImageProcessor", "size": side, "crop_size": side}
    )
    print(f"{'pictures':12} {'decoding':11} {'ms':>8} {'speed':>9}", end="")
    print(f" {'least cos':>10} {'median':>10} {'<0.999':>8}")
    if options.images is not None:
        paths = sorted(options.images.rglob("*.jpg"))
        chosen = paths[:: max(1, len(paths) // options.count)][: options.count]
        measure([path.read_bytes() for path in chosen], preprocessing, options.images.name[:12])
        return
    for size in SIZES:
        files = [made_up_photograph(size, seed) for seed in range(options.count)]
        measure(files, preprocessing, f"{size[0]}x{size[1]}")


if __name__ == "__main__":
    main()
