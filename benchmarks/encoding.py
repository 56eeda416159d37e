"""Images a second from files to embeddings on a GPU, against decoding alone and the tower alone.

    python benchmarks/encoding.py                                  # ViT-B/32, fp32 and bf16
    python benchmarks/encoding.py --device torch-cpu --model tiny --images 256

The images are made up, at 640x480, three JPEGs to one PNG, and kept with the model in --keep:

    decoding   `decode_ahead` by as many workers as a feed takes: read, decoded, resized, cropped
    tower      the image tower on batches that are on the device already
    pixels     `Encoder.encode_pixels` in two threads: from bytes in memory to embeddings in memory
    files      `clipsearch.feed.pipeline.encode`, as a feed does: decoding, then pixels

Wanted of files: 0.9 of the smaller of decoding and tower; of decoding: 200 images/s a core. The
cosine is the least between an embedding in bf16 and the same in fp32.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from trainers import made_up
from trainers.measured import read_pairs

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.ledger.entry import Entry
from clipsearch.feed.pipeline import PlannedImage, Step, encode
from clipsearch.feed.writing import Encoding
from finetune.cores import available_cores, decoding_cores
from finetune.data.tensors import Normalizer
from finetune.export.encoder import export_encoder
from finetune.images.decode_workers import decode_ahead
from finetune.images.source import ImageSource
from finetune.models.dual_encoder import load_dual_encoder
from finetune.models.speed import cast_layers

# Until workers have started and kernels are chosen.
WARM_UP = 0.2
SECONDS = 3.0
PRECISIONS = ("fp32", "bf16")

Pixels = npt.NDArray[np.uint8]


def rate(counts: Iterator[int], total: int) -> float:
    """Images a second of what is left after WARM_UP of `total`."""
    done, began, before = 0, 0.0, 0
    for count in counts:
        done += count
        if not began and done >= WARM_UP * total:
            began, before = time.perf_counter(), done
    return (done - before) / (time.perf_counter() - began)


def repeated(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Images a second of `work` on `count` of them, over SECONDS."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        work()
    wait()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        for _ in range(4):
            work()
        wait()
        done += 4 * count
    return done / (time.perf_counter() - began)


def tower_rate(folder: Path, batch: Pixels, device: torch.device, precision: str) -> float:
    """Of the tower alone, as `TorchTowers` runs it."""
    dual = load_dual_encoder(folder).to(device).eval()
    values = Normalizer(dual.preprocessing, device)(batch)
    half = precision == "bf16"
    if half:
        cast_layers(dual.model.vision_model, torch.bfloat16)

    def work() -> None:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast(device.type, torch.bfloat16, enabled=half),
        ):
            dual.embed_images(values)

    return repeated(work, len(batch), device)


def pixels_rate(encoder: Encoder, batch: Pixels, device: torch.device) -> float:
    """Of bytes in memory, two threads at once."""
    with ThreadPoolExecutor(2) as pool:

        def work() -> None:
            list(pool.map(encoder.encode_pixels, [batch, batch]))

        return repeated(work, 2 * len(batch), device)


def files_rate(
    encoder: Encoder, sources: list[ImageSource], encoding: Encoding
) -> tuple[float, npt.NDArray[np.float32]]:
    """As a feed does, and the embeddings, float32[n, d]."""
    found: list[npt.NDArray[np.float32]] = []

    def planned() -> Iterator[tuple[PlannedImage, ImageSource]]:
        for number, source in enumerate(sources):
            document = Document(str(number), (), str(number), {}, {}, None)
            yield PlannedImage(document, Entry(str(number), "", "", "", "")), source

    def counts() -> Iterator[int]:
        steps = encode(
            planned(),
            encoder,
            workers=encoding.workers,
            batch_size=encoding.batch_size,
            threads=encoding.threads,
            device=encoding.device,
        )
        for step in steps:
            assert isinstance(step, Step)
            found.append(step.operation.document.embedding)  # type: ignore[union-attr]
            yield 1

    return rate(counts(), len(sources)), np.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    has_gpu = torch.cuda.is_available()
    parser.add_argument(
        "--device", default="cuda" if has_gpu else "torch-cpu", help="cuda, or torch-cpu"
    )
    parser.add_argument("--model", choices=made_up.MODELS, default="vit-b-32" if has_gpu else "mid")
    parser.add_argument("--images", type=int, default=4096 if has_gpu else 256)
    parser.add_argument("--batch-size", type=int, default=256 if has_gpu else 32)
    parser.add_argument("--workers", type=int, help="as a feed chooses unless given")
    parser.add_argument(
        "--keep", type=Path, default=Path(tempfile.gettempdir()) / "clipsearch-benchmarks"
    )
    options = parser.parse_args()
    device = torch.device("cpu" if options.device == "torch-cpu" else options.device)
    if device.type == "cpu":
        # Each of the encoding threads has one, as the ONNX towers of a feed have.
        torch.set_num_threads(1)
    pairs = read_pairs(made_up.images(options.keep, options.images))
    checkpoint = made_up.model(options.keep, options.model, [caption for _, caption in pairs])
    folder = made_up.made_once(
        options.keep / f"encoder-{options.model}-{len(pairs)}",
        lambda partial: export_encoder(load_dual_encoder(checkpoint), partial),
    )
    sources = [ImageSource(path) for path, _ in pairs]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else options.device
    workers = decoding_cores(options.device) if options.workers is None else options.workers
    print(
        f"{options.model}, {len(pairs):,} images, batches of {options.batch_size}, {name},"
        f" {available_cores()} cores, {workers} workers, torch {torch.__version__};"
        f" load {os.getloadavg()[0]:.1f}\n",
        flush=True,
    )
    encoding = Encoding.of(options.workers, options.batch_size, options.device)
    first = Encoder.load(folder, device=options.device)
    decoded = decode_ahead(
        enumerate(sources),
        first.preprocessing,
        workers=options.workers,
        ahead=4 * encoding.batch_size,
        device=options.device,
    )
    kept: list[Pixels] = []

    def counts() -> Iterator[int]:
        for _, image in decoded:
            assert image.pixels is not None
            if len(kept) < options.batch_size:
                kept.append(image.pixels)
            yield 1

    decoding = rate(counts(), len(sources))
    print(f"{'images/s':12}{'fp32':>10}{'bf16':>10}", flush=True)
    print(f"{'decoding':12}{decoding:10.0f}{decoding:10.0f}", flush=True)
    batch = np.stack(kept)
    towers = [tower_rate(folder, batch, device, precision) for precision in PRECISIONS]
    print(f"{'tower':12}" + "".join(f"{each:10.0f}" for each in towers), flush=True)
    encoders = [
        Encoder.load(folder, device=options.device, precision=precision) for precision in PRECISIONS
    ]
    pixels = [pixels_rate(encoder, batch, device) for encoder in encoders]
    print(f"{'pixels':12}" + "".join(f"{each:10.0f}" for each in pixels), flush=True)
    rates, embeddings = zip(
        *(files_rate(encoder, sources, encoding) for encoder in encoders), strict=True
    )
    print(f"{'files':12}" + "".join(f"{each:10.0f}" for each in rates), flush=True)
    shares = [each / min(decoding, tower) for each, tower in zip(rates, towers, strict=True)]
    print("files / min " + "".join(f"{each:10.2f}" for each in shares) + "   wanted: 0.9")
    print(f"decoding a core: {decoding / workers:.0f} images/s   wanted: 200")
    cosine = (embeddings[0].astype(np.float64) * embeddings[1]).sum(axis=1).min()
    print(f"least cosine of bf16 to fp32: {cosine:.6f}   wanted: 0.9999; {encoders[1].note}")


if __name__ == "__main__":
    main()
