"""Images a second of a whole feed, against the bare ONNX image tower on the same cores.

    python benchmarks/feed.py                              # 320 JPEGs, three pairs
    python benchmarks/feed.py --images 96 --pairs 1 --cache kept/

The encoder is a ViT-B/32 of random weights at 224 pixels; the pictures are JPEGs of 640x480,
smooth gradients with noise, of about 80 KB each. The tower alone gets pixel values that are in
memory already, in batches of the same size, on all cores. The feed reads, decodes, resizes,
normalises, encodes and writes into a new embedded index. Half of the tower's images run before
the feed and half after it, pair by pair, so that a machine that is shared shows less.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from clipsearch.feed import FeedOptions, feed
from finetune.encoder_folder import IMAGE_TOWER, read_description
from finetune.images import normalize

WIDTH, HEIGHT = 640, 480
JPEG_QUALITY = 87
NOISE = 10.0


def write_encoder(folder: Path) -> None:
    """A CLIP with the image tower of ViT-B/32 and a small text tower."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from finetune.encoder_folder import Preprocessing
    from finetune.export import export_encoder
    from finetune.model import DualEncoder
    from finetune.tiny import tiny_clip

    tiny = tiny_clip(["a made-up picture"])
    text = tiny.model.config.text_config.to_dict() | {"projection_dim": 512}
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 32,
        "image_size": 224,
        "hidden_act": "quick_gelu",
        "projection_dim": 512,
    }
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)
    preprocessing = Preprocessing(
        height=224,
        width=224,
        resize="shortest-edge",
        resize_to=224,
        resample="bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    dual = DualEncoder(
        CLIPModel(config).eval(), tiny.tokenizer, preprocessing, max_tokens=77, base_model="random"
    )
    export_encoder(dual, folder)


def write_pictures(folder: Path, count: int) -> Path:
    """A manifest with `count` JPEGs beside it; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["image,caption"]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        rows.append(f"{path.name},made-up picture {number}")
        if path.exists():
            continue
        chance = np.random.default_rng(number)
        slopes = chance.normal(size=(3, 2)) * 0.2
        waves = chance.uniform(0.01, 0.05, size=(3, 2))
        channels = [
            128 + a * x / 2 + b * y / 2 + 40 * np.sin(u * x + v * y)
            for (a, b), (u, v) in zip(slopes, waves, strict=True)
        ]
        pixels = np.stack(channels, axis=-1)
        pixels += chance.normal(scale=NOISE, size=pixels.shape)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(path, quality=JPEG_QUALITY)
    manifest = folder / f"pictures-{count}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def tower_rate(session: onnxruntime.InferenceSession, batch: np.ndarray, images: int) -> float:
    """Images a second of the tower alone."""
    session.run(None, {"pixel_values": batch})
    started = time.perf_counter()
    for _ in range(images // len(batch)):
        session.run(None, {"pixel_values": batch})
    return images // len(batch) * len(batch) / (time.perf_counter() - started)


def feed_rate(manifest: Path, encoder: Path, batch_size: int, workers: int | None) -> tuple:
    """Images a second: of the pipeline, and of the whole command from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        options = FeedOptions(
            manifest=manifest,
            index=f"{folder}/photos.index",
            encoder=encoder,
            batch_size=batch_size,
            workers=workers,
        )
        report = feed(options, io.StringIO())
    assert report.complete and report.fed, report
    return report.images_per_second, report.fed / report.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "clipsearch-feed-benchmark",
        help="keeps encoder and pictures",
    )
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    encoder = options.cache / "vit-b-32"
    if not encoder.is_dir():
        write_encoder(encoder)
    manifest = write_pictures(options.cache / "pictures", options.images)
    sizes = [path.stat().st_size for path in manifest.parent.glob("*.jpg")]
    print(
        f"{options.images} JPEGs of {statistics.mean(sizes) / 1000:.0f} KB, {os.cpu_count()} cores"
    )

    description = read_description(encoder)
    session = onnxruntime.InferenceSession(
        str(encoder / IMAGE_TOWER), providers=["CPUExecutionProvider"]
    )
    shape = (options.batch_size, 224, 224, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    batch = normalize(pixels, description.preprocessing)

    print(
        f"{'':8}{'tower':>12}{'pipeline':>12}{'ratio':>8}{'command':>12}{'ratio':>8}   (images/s)"
    )
    ratios = []
    for pair in range(options.pairs):
        before = tower_rate(session, batch, options.images // 2)
        pipeline, command = feed_rate(manifest, encoder, options.batch_size, options.workers)
        tower = statistics.mean((before, tower_rate(session, batch, options.images // 2)))
        ratios.append((pipeline / tower, command / tower))
        print(
            f"pair {pair + 1:<3}{tower:12.1f}{pipeline:12.1f}{pipeline / tower:8.2f}"
            f"{command:12.1f}{command / tower:8.2f}",
            flush=True,
        )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"{'median':8}{'':24}{medians[0]:8.2f}{'':12}{medians[1]:8.2f}   wanted: 0.90")


if __name__ == "__main__":
    main()
