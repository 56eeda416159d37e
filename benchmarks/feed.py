"""Images a second of a whole feed, against the bare ONNX image tower on the same cores.

    python benchmarks/feed.py                              # 640 JPEGs, three pairs
    python benchmarks/feed.py --images 96 --pairs 1 --cache kept/

The encoder is a ViT-B/32 of random weights at 224 pixels; the images are JPEGs of 640x480,
smooth gradients with noise, of about 80 KB each. The tower alone gets pixel values that are in
memory already, in two ways: "shared", a batch at a time, computed by all cores together (ONNX
Runtime's own default), and "apart", every core with a batch of its own. The feed reads, decodes,
resizes, normalises, encodes and writes into a new embedded index; its ratio is to the faster way.
Half of the tower's images run before the feed and half after it, pair by pair, so that a
machine that is shared shows less. "cpu" is processor time an image, which shows still less of it.
"""

import argparse
import io
import resource
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from finetune.cores import available_cores
from finetune.encoder_folder import IMAGE_TOWER, read_description
from finetune.images.pixels import normalize

WIDTH, HEIGHT = 640, 480
JPEG_QUALITY = 87
NOISE = 10.0


def write_encoder(folder: Path) -> None:
    """A CLIP with the image tower of ViT-B/32 and a small text tower."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from finetune.export.encoder import export_encoder
    from finetune.images.preprocessing import Preprocessing
    from finetune.models.dual_encoder import DualEncoder
    from finetune.models.tiny import tiny_clip

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


def write_images(folder: Path, count: int) -> Path:
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
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(path, quality=JPEG_QUALITY)
    manifest = folder / f"pictures-{count}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


@dataclass(frozen=True)
class Rate:
    """Images a second, and processor milliseconds an image (of child processes too)."""

    images: float
    cpu: float


def processor_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Tower:
    """The bare image tower."""

    def __init__(self, encoder: Path, callers: int, batch_size: int) -> None:
        options = onnxruntime.SessionOptions()
        if callers > 1:
            options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(encoder / IMAGE_TOWER), options, providers=["CPUExecutionProvider"]
        )
        self.callers = callers
        shape = (max(1, batch_size // callers), 224, 224, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.batch = normalize(pixels, read_description(encoder).preprocessing)

    def rate(self, images: int) -> Rate:
        """Of as many whole batches as `images` fill."""
        self._run()
        batches = max(1, images // len(self.batch))
        left = iter(range(batches))
        lock = threading.Lock()

        def call() -> None:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                self._run()

        processor, started = processor_seconds(), time.perf_counter()
        threads = [threading.Thread(target=call) for _ in range(self.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        encoded = batches * len(self.batch)
        seconds = time.perf_counter() - started
        return Rate(encoded / seconds, 1000 * (processor_seconds() - processor) / encoded)

    def _run(self) -> npt.NDArray[np.float32]:
        embeddings: npt.NDArray[np.float32] = self.session.run(None, {"pixel_values": self.batch})
        return embeddings


def mean_rate(rates: list[Rate]) -> Rate:
    """Of equal numbers of images."""
    images = 1 / statistics.mean(1 / rate.images for rate in rates)
    return Rate(images, statistics.mean(rate.cpu for rate in rates))


def feed_rate(
    manifest: Path, encoder: Path, batch_size: int, workers: int | None
) -> tuple[Rate, float]:
    """Of the pipeline; and images a second of the whole command from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        options = FeedOptions(
            manifest=manifest,
            index=f"{folder}/photos.index",
            encoder=encoder,
            batch_size=batch_size,
            workers=workers,
        )
        processor = processor_seconds()
        report = feed(options, io.StringIO())
    assert report.complete and report.fed, report
    cpu = 1000 * (processor_seconds() - processor) / report.fed
    return Rate(report.images_per_second, cpu), report.fed / report.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "clipsearch-feed-benchmark",
        help="keeps encoder and pictures",
    )
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    encoder = options.cache / "vit-b-32"
    if not encoder.is_dir():
        write_encoder(encoder)
    manifest = write_images(options.cache / "pictures", options.images)
    sizes = [path.stat().st_size for path in manifest.parent.glob("*.jpg")]
    cores = available_cores()
    print(f"{options.images} JPEGs of {statistics.mean(sizes) / 1000:.0f} KB, {cores} cores")

    shared = Tower(encoder, 1, options.batch_size)
    apart = Tower(encoder, cores, options.batch_size)
    print(f"{'':8}{'tower (images/s)':>24}{'pipeline':>20}{'ratio to faster':>24}")
    columns = ("shared", "apart", "cpu ms", "images/s", "cpu ms", "pipeline", "command", "cpu")
    print(f"{'':8}" + "".join(f"{column:>10}" for column in columns))
    ratios = []
    for pair in range(options.pairs):
        rates = [(shared.rate(options.images // 4), apart.rate(options.images // 4))]
        pipeline, command = feed_rate(manifest, encoder, options.batch_size, options.workers)
        rates.append((shared.rate(options.images // 4), apart.rate(options.images // 4)))
        ways = [mean_rate(list(way)) for way in zip(*rates, strict=True)]
        best = max(ways, key=lambda rate: rate.images)
        least = min(way.cpu for way in ways)
        ratio = (pipeline.images / best.images, command / best.images, least / pipeline.cpu)
        ratios.append(ratio)
        print(
            f"pair {pair + 1:<3}{ways[0].images:10.1f}{ways[1].images:10.1f}{least:10.1f}"
            f"{pipeline.images:10.1f}{pipeline.cpu:10.1f}"
            + "".join(f"{value:10.2f}" for value in ratio),
            flush=True,
        )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(f"{'median':58}" + "".join(f"{value:10.2f}" for value in medians) + "   wanted: 0.90")


if __name__ == "__main__":
    main()
