"""Pairs a second of a training run, against transformers' Trainer and the bare model.

    python benchmarks/training.py                                # a ViT of mid size, on all cores
    python benchmarks/training.py --threads 1                    # steadier where others compute
    python benchmarks/training.py --model vit-b-32 --images 128 --batch-size 32 --rounds 2
    python benchmarks/training.py --device cuda                  # ViT-B/32, within two minutes
    python benchmarks/training.py --device cuda --model small --ways ours "ours, compiled" bare
    python benchmarks/training.py --manifest captions.csv --model openai/clip-vit-base-patch32

The images are made up, at 640x480: three JPEGs to one PNG; or those of --manifest, one caption of
each. They are made once, and kept with the models in --keep. Every way runs in a process of its
own, round by round, every other round in reverse; the table so far is printed after each:

    ours            `finetune.training.train.train` as it is, without evaluation and export
    ours, varied    the same with flips, crops and colour jitter
    ours, compiled  the same with --compile; its first epoch compiles
    ours, graphs    the same with --compile-mode reduce-overhead: CUDA graphs
    Trainer         transformers' own over CLIPModel with return_loss: the dataset opens an image
                    with Pillow and calls CLIPProcessor, the collator fills captions to the batch's
                    longest. With one worker a core; on the CPU also with none in the first round,
                    and the faster afterwards.
    bare            CLIPModel with return_loss, backward, optimizer, on batches on the device

All have the same weights, batch size, precision and optimizer (fused AdamW); all but bare clip
gradients. "first" is the first epoch: ours decodes every image before it, so that equal images
are known when batches are made, and keeps the pixels. "later" are the epochs after it, which the
goals are about: their rate is what a run of many epochs comes to. "10 epochs" is one first and nine
later ones. "ms/step" is of the later epochs. "cpu ms" is processor time a pair of the later epochs,
all processes, which a shared machine disturbs less. Ratios are medians of the rounds' own; of a
single round they are those of all later epochs, with the slowest and the fastest epoch beside.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from trainers import made_up
from trainers.measured import Measured, Options, read_pairs
from trainers.ours import VARIED, ours
from trainers.peers import bare, trainer

from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import CUDA_GRAPHS
from finetune.cores import available_cores

WANTED = {
    "cpu": {"Trainer": 1.2, "bare": 0.9},
    "cuda": {"Trainer": 1.3, "bare": 0.9},
}
WAYS: Mapping[str, Callable[[Options], Measured]] = {
    "ours": lambda options: ours(options, AugmentConfig()),
    "bare": bare,
    "Trainer": lambda options: trainer(options, available_cores()),
    "ours, varied": lambda options: ours(options, VARIED),
    "Trainer, 0 workers": lambda options: trainer(options, 0),
    "ours, compiled": lambda options: ours(options, AugmentConfig(), compiled=True),
    "ours, graphs": lambda options: ours(options, AugmentConfig(), compiled=True, mode=CUDA_GRAPHS),
}
OURS = [way for way in WAYS if way.startswith("ours")]
TRAINERS = [way for way in WAYS if way.startswith("Trainer")]
# On a GPU images that are decoded by one process alone would take all of the time.
DEFAULT_WAYS = {
    "cpu": ["ours", "ours, varied", "Trainer, 0 workers", "Trainer", "bare"],
    "cuda": ["ours", "bare", "Trainer", "ours, varied"],
}
DEFAULTS = {
    "cpu": {"model": "mid", "images": 384, "batch_size": 64, "rounds": 3, "seconds": 0},
    "cuda": {"model": "vit-b-32", "images": 4096, "batch_size": 256, "rounds": 1, "seconds": 120},
}
KINDS: Mapping[str, Callable[[Measured], float]] = {
    "later epochs": lambda measured: measured.later,
    "cpu time": lambda measured: 1 / measured.cpu,
    "first epoch": lambda measured: measured.first or measured.later,
    "10 epochs": lambda measured: measured.ten_epochs,
}
Found = Mapping[str, Sequence[Measured]]


def in_a_process(options: Options, way: str, seconds: float | None) -> Measured | None:
    """One way, alone; None where it takes longer than `seconds`."""
    command = [
        sys.executable, __file__, "--child", way, "--manifest", str(options.manifest),
        "--model", options.model, "--batch-size", str(options.batch_size),
        "--later", str(options.later), "--device", options.device,
        "--threads", str(options.threads), "--precision", options.precision,
    ]  # fmt: skip
    if options.trainer_fills_to_77:
        command.append("--trainer-fills-to-77")
    quiet = os.environ | {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(done.stderr)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def compare(options: Options, until: float | None) -> None:
    """All ways, round by round; the table after each, and the ratios at the end."""
    ways = list(options.ways)
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            left = None if until is None else until - time.monotonic()
            measured = None if left is not None and left <= 0 else in_a_process(options, way, left)
            if measured is None:
                print(f"{way}: left out, {options.seconds} seconds are over", flush=True)
                continue
            found[way].append(measured)
            print(f"\nround {number + 1}, after {way}:", flush=True)
            print_rates(found, options.batch_size)
        slower = [way for way in TRAINERS if way in ways and found[way]]
        if number == 0 and len(slower) > 1:
            ways.remove(min(slower, key=lambda way: found[way][0].later))
    print_ratios(found, WANTED[torch.device(options.device).type])


def print_rates(found: Found, batch_size: int) -> None:
    """Medians of the rounds so far."""
    print(f"{'pairs/s':22}{'first':>9}{'later':>9}{'10 epochs':>11}{'ms/step':>9}{'cpu ms':>9}")
    for way, rounds in found.items():
        if rounds:
            columns = [(m.first or m.later, m.later, m.ten_epochs, m.cpu) for m in rounds]
            first, later, ten, cpu = map(statistics.median, zip(*columns, strict=True))
            step = 1000 * batch_size / later
            print(f"{way:22}{first:9.1f}{later:9.1f}{ten:11.1f}{step:9.1f}{cpu:9.1f}", flush=True)


def print_ratios(found: Found, wanted: Mapping[str, float]) -> None:
    """Ours against the others."""
    measured = {way: rounds for way, rounds in found.items() if rounds}
    trainers = [way for way in TRAINERS if way in measured]
    others = {"bare": "bare"} if "bare" in measured else {}
    if trainers:
        fastest = max(trainers, key=lambda way: (len(measured[way]), measured[way][0].later))
        others = {fastest: "Trainer"} | others
    print(f"\n{'ratios':25}{'':14}median of the rounds' own, least to greatest")
    for way in (way for way in OURS if way in measured):
        for other, name in others.items():
            goal = f"   wanted: {wanted[name]}" if way == "ours" else ""
            label = f"{way} / {name}"
            for what, value in KINDS.items():
                if name == "bare" and what in ("first epoch", "10 epochs"):
                    continue
                pairs = list(zip(measured[way], measured[other], strict=False))
                ratios = [value(mine) / value(theirs) for mine, theirs in pairs]
                least, most = min(ratios), max(ratios)
                if len(pairs) == 1 and what == "later epochs":
                    mine, theirs = pairs[0]
                    least, most = mine.least / theirs.most, mine.most / theirs.least
                print(
                    f"{label:25}{what:14}{statistics.median(ratios):.2f}"
                    f"  {least:.2f} to {most:.2f}{goal}",
                    flush=True,
                )
                label = goal = ""


def parsed() -> Options:
    """The options, with what is best left to the device."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="mid, vit-b-32, small, tiny, or a CLIP's folder or id")
    parser.add_argument("--manifest", type=Path, help="captioned images; else they are made up")
    parser.add_argument("--images", type=int, help="made up")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--later", type=int, default=2, help="epochs after the first")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="no way begins or goes on after; 0: no limit")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="in this order")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir()) / "clipsearch-benchmarks",
        help="where images and models are kept from one run to the next",
    )
    parser.add_argument(
        "--trainer-fills-to-77", action="store_true", help="as transformers' example does"
    )
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kind = torch.device(options.device).type
    for name, value in DEFAULTS[kind].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.ways = options.ways or DEFAULT_WAYS[kind]
    if options.precision == "auto":
        options.precision = "bf16" if kind == "cuda" else "fp32"
    return options


def main() -> None:
    options = parsed()
    if options.child:
        torch.set_num_threads(options.threads)
        print(json.dumps(vars(WAYS[options.child](options))))
        return
    until = time.monotonic() + options.seconds if options.seconds else None
    if options.manifest is None:
        options.manifest = made_up.images(options.keep, options.images)
    pairs = read_pairs(options.manifest)
    name = options.model
    if name in made_up.MODELS:
        captions = [caption for _, caption in pairs]
        options.model = str(made_up.model(options.keep, name, captions))
    device = options.device
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    print(
        f"{name}, {len(pairs):,} pairs, batches of {options.batch_size}, {options.precision},"
        f" {device}, {options.threads} threads, torch {torch.__version__};"
        f" load at the start {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    compare(options, until)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
