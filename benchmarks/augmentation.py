"""Milliseconds an image that augmentation costs, against the training step of a ViT-B/32.

    python benchmarks/augmentation.py                       # on all cores, batches of 32
    python benchmarks/augmentation.py --threads 1 --batch 16 --repeats 3
    python benchmarks/augmentation.py --device cuda --batch 256

Images are random bytes of 64 and of 224 pixels, as they come from the cache. The baseline of
the ratio is forward and backward of a CLIP ViT-B/32 with random weights (both towers, captions of
16 tokens, no optimizer), at 224 pixels and, for images of 64, with a tower of 64 pixels; on a
GPU under bf16 autocast. Each figure is the median; tower and augmentation are timed in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from transformers import CLIPConfig, CLIPModel

from finetune.config.image_augmentation import AugmentConfig
from finetune.data.image_augmentation import ImageAugmentation

CAPTION_TOKENS = 16
JITTER = (0.2, 0.2, 0.1, 0.0)
SETTINGS = {
    "none (bytes to floats)": AugmentConfig(),
    "flips": AugmentConfig(horizontal_flip=0.5, vertical_flip=0.5),
    "resized crop": AugmentConfig(resized_crop_scale=(0.5, 1.0)),
    "crops and rotation": AugmentConfig(
        random_crop=0.8, resized_crop_scale=(0.5, 1.0), rotation=15
    ),
    "jitter without hue": AugmentConfig(color_jitter=JITTER, color_jitter_p=0.7),
    "jitter with hue": AugmentConfig(color_jitter=(0.2, 0.2, 0.1, 0.1), color_jitter_p=0.7),
    "grayscale": AugmentConfig(grayscale=0.2),
    "recipe rsicd (flips, crops)": AugmentConfig(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        random_crop=0.8,
        resized_crop_scale=(0.8, 1.0),
        resized_crop_ratio=(1.0, 1.0),
    ),
    "recipe icons (jitter, grey)": AugmentConfig(
        color_jitter=JITTER, color_jitter_p=0.7, grayscale=0.2
    ),
    "everything": AugmentConfig(
        horizontal_flip=0.5,
        vertical_flip=0.5,
        random_crop=0.8,
        resized_crop_scale=(0.5, 1.0),
        rotation=15,
        color_jitter=(0.2, 0.2, 0.1, 0.1),
        color_jitter_p=0.7,
        grayscale=0.2,
    ),
}


def training_step(pixels: int, batch: int, device: torch.device) -> Callable[[], object]:
    """Forward and backward of a ViT-B/32, with a loss that needs both towers."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={"image_size": pixels})).to(device).train()
    images = torch.rand(batch, 3, pixels, pixels, device=device)
    tokens = torch.randint(1, 49_000, (batch, CAPTION_TOKENS), device=device)
    tokens[:, -1] = 49_407

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            given = model(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), pixel_values=images,
                return_loss=True,
            )  # fmt: skip
        given.loss.backward()

    return step


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1000


def measure(pixels: int, batch: int, repeats: int, device: torch.device) -> None:
    tower = training_step(pixels, batch, device)
    images = torch.randint(0, 256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=device)
    works = {
        name: partial(ImageAugmentation(config, 0), images, step=1)
        for name, config in SETTINGS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    tower_times: list[float] = []
    for repeat in range(repeats + 1):
        spent = milliseconds(tower, device)
        taken = {name: milliseconds(work, device) for name, work in works.items()}
        if repeat:  # the first warms up
            tower_times.append(spent)
            for name, value in taken.items():
                times[name].append(value)
    bare = statistics.median(tower_times) / batch
    print(f"\n{pixels} pixels: ViT-B/32 forward and backward {bare:.2f} ms an image")
    print(f"{'augmentation':<30}{'ms an image':>12}{'of the tower':>14}")
    for name, values in times.items():
        cost = statistics.median(values) / batch
        print(f"{name:<30}{cost:>12.3f}{cost / bare:>13.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads,"
        f" batches of {options.batch}, medians of {options.repeats}"
    )
    for pixels in options.sizes:
        measure(pixels, options.batch, options.repeats, device)


if __name__ == "__main__":
    main()
