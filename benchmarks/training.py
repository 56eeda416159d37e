"""Pairs a second of a training run, against transformers' Trainer and the bare model.

    python benchmarks/training.py                                # a ViT of mid size, on all cores
    python benchmarks/training.py --threads 1                    # steadier where others compute
    python benchmarks/training.py --model vit-b-32 --images 128 --batch-size 32 --rounds 2
    python benchmarks/training.py --device cuda --model vit-b-32 --images 8192 --batch-size 256
    python benchmarks/training.py --manifest captions.csv --model openai/clip-vit-base-patch32

The images are made up, at 640x480: three JPEGs to one PNG; or those of --manifest, one caption of
each. Every way runs in a process of its own, round by round, every other round in reverse:

    ours          `finetune.training.train.train` as it is, without evaluation and export
    ours, varied  the same with flips, crops and colour jitter
    Trainer       transformers' own over CLIPModel with return_loss: the dataset opens a image
                  with Pillow and calls CLIPProcessor, the collator fills captions to the batch's
                  longest. With 0 workers and with one a core in the first round, the faster
                  afterwards.
    bare          CLIPModel with return_loss, backward, optimizer, on batches on the device

All have the same weights, batch size, precision and optimizer (fused AdamW); all but bare clip
gradients. "first" is the first epoch: ours decodes every image before it, so that equal images
are known when batches are made, and keeps the pixels. "later" are the epochs after it, which the
goals are about: their rate is what a run of many epochs comes to. "10 epochs" is one first and nine
later ones. "cpu ms" is processor time a pair of the later epochs, all processes, which a shared
machine disturbs less. Ratios are medians of the rounds' own.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from PIL import Image
from preprocessing import made_up_photograph
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from finetune.config.batch_plan import BatchPlan
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import TrainConfig
from finetune.data.splits import TrainingManifests
from finetune.models.tiny import caption_tokenizer
from finetune.training.train import train

CORES = len(os.sched_getaffinity(0))
SIZE = (640, 480)
WORDS = (
    "red blue small old wooden bright two three dog cat horse boat street house tree river table"
    " man woman child plane bridge field snow sits stands runs near under beside with and the a of"
)
# CLIPConfig's defaults are the sizes of CLIP ViT-B/32.
MODELS = {
    "mid": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    | {"num_attention_heads": 4},
    "vit-b-32": {},
}
LEARNING_RATE, WEIGHT_DECAY, BETAS, EPS = 1e-5, 0.1, (0.9, 0.98), 1e-6
VARIED = AugmentConfig(
    horizontal_flip=0.5,
    vertical_flip=0.5,
    random_crop=0.8,
    resized_crop_scale=(0.8, 1.0),
    color_jitter=(0.2, 0.2, 0.1, 0.0),
    color_jitter_p=0.7,
)
WANTED = {
    "cpu": {"Trainer": 1.2, "bare": 0.9},
    "cuda": {"Trainer": 1.3, "bare": 0.9},
}


@dataclass(frozen=True)
class Measured:
    """Of one way in one round.

    Attributes:
        first, later: Pairs a second; `first` is None where there is no such epoch.
        cpu: Processor milliseconds a pair of the later epochs.
    """

    first: float | None
    later: float
    cpu: float

    @property
    def ten_epochs(self) -> float:
        """Pairs a second of one first and nine later epochs."""
        return self.later if self.first is None else 10 / (1 / self.first + 9 / self.later)


@dataclass
class Clock:
    """The moments at which epochs begin and end."""

    device: torch.device
    moments: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """Now, when all that was queued is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.moments.append(time.perf_counter())
        self.processor.append(processor_seconds())

    def measured(self, pairs: int, first: bool = True) -> Measured:
        """`pairs` of an epoch; a first epoch is between the first two marks."""
        spans = [end - start for start, end in pairwise(self.moments)]
        later = spans[1:] if first else spans
        start = self.processor[1 if first else 0]
        seen = pairs * len(later)
        return Measured(
            pairs / spans[0] if first else None,
            seen / sum(later),
            1000 * (self.processor[-1] - start) / seen,
        )


def processor_seconds() -> float:
    """Of this process and its children, those that ended too."""
    own = psutil.Process()
    times = own.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in own.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


class Enough(Exception):  # noqa: N818  (no error: a way out of the loop)
    """The last step is done; what comes after is not measured."""


def ours(options: argparse.Namespace, augment: AugmentConfig) -> Measured:
    """The whole of `train`, with marks before the first image and after each epoch."""
    import finetune.training.loop
    import finetune.training.train

    clock, epochs = Clock(torch.device(options.device)), 1 + options.later
    load, step = finetune.training.train.load_training_data, finetune.training.loop.training_step
    steps_per_epoch = done = 0

    def timed_load(*arguments: Any, **options: Any) -> Any:
        nonlocal steps_per_epoch
        clock.mark()
        data = load(*arguments, **options)
        steps_per_epoch = data.steps_per_epoch
        return data

    def timed_step(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        result = step(*arguments, **options)
        done += 1
        if done % steps_per_epoch == 0:
            clock.mark()
        if done == epochs * steps_per_epoch:
            raise Enough
        return result

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            manifest=options.manifest,
            model=options.model,
            out=Path(folder) / "encoder",
            epochs=epochs,
            batch_size=options.batch_size,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPS,
            precision=options.precision,
            eval_every="never",
            checkpoint_minutes=1000,
            device=options.device,
            threads=options.threads,
            augment=augment,
        )
        try:
            with (
                mock.patch("finetune.training.train.load_training_data", timed_load),
                mock.patch("finetune.training.loop.training_step", timed_step),
            ):
                train(config, quiet=True)
        except Enough:
            pass
    return clock.measured(len(read_pairs(options.manifest)))


class PairDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Image and caption to the model's inputs, one at a time."""

    def __init__(self, pairs: Sequence[tuple[Path, str]], processor: CLIPProcessor) -> None:
        self.pairs, self.processor = pairs, processor

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path, caption = self.pairs[index]
        image = Image.open(path).convert("RGB")
        inputs = self.processor(
            text=caption, images=image, return_tensors="pt", truncation=True, max_length=77
        )
        return {name: values[0] for name, values in inputs.items()}


@dataclass(frozen=True)
class Collator:
    """Captions filled to the longest; with `longest` None to the batch's own."""

    processor: CLIPProcessor
    length: int | None = None

    def __call__(self, rows: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Rows of the dataset to a batch."""
        texts = self.processor.tokenizer.pad(
            [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows],
            padding="longest" if self.length is None else "max_length",
            max_length=self.length,
            return_tensors="pt",
        )
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {**texts, "pixel_values": pixels, "return_loss": True}


class EpochClock(TrainerCallback):
    """Marks the start of training and the end of each epoch."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Before the first batch."""
        self.clock.mark()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """After the epoch's last step."""
        self.clock.mark()


def trainer(options: argparse.Namespace, workers: int) -> Measured:
    """transformers' Trainer."""
    torch.manual_seed(0)
    processor = CLIPProcessor.from_pretrained(options.model, trust_remote_code=False)
    dataset = PairDataset(read_pairs(options.manifest), processor)
    clock = Clock(torch.device(options.device))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1 + options.later,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_epsilon=EPS,
            optim="adamw_torch_fused",
            lr_scheduler_type="cosine",
            bf16=options.precision == "bf16",
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
            remove_unused_columns=False,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
        )
        Trainer(
            CLIPModel.from_pretrained(options.model, trust_remote_code=False),
            arguments,
            data_collator=Collator(processor, 77 if options.trainer_fills_to_77 else None),
            train_dataset=dataset,
            callbacks=[EpochClock(clock)],
        ).train()
    return clock.measured(len(dataset))


def bare(options: argparse.Namespace) -> Measured:
    """Forward, backward and optimizer on up to eight batches that the Trainer's collator made."""
    device = torch.device(options.device)
    processor = CLIPProcessor.from_pretrained(options.model, trust_remote_code=False)
    pairs, size = read_pairs(options.manifest), options.batch_size
    dataset, collator = PairDataset(pairs, processor), Collator(processor)
    count = min(8, len(pairs) // size)
    batches = [
        {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in collator(
                [dataset[i] for i in range(k * size, k * size + size)]
            ).items()
        }
        for k in range(count)
    ]
    model = CLIPModel.from_pretrained(options.model, trust_remote_code=False).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY, fused=True
    )
    clock = Clock(device)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32

    def epoch(steps: int) -> None:
        for number in range(steps):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(**batches[number % count]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    steps = len(pairs) // size
    epoch(min(steps, 3))
    clock.mark()
    for _ in range(options.later):
        epoch(steps)
        clock.mark()
    return clock.measured(steps * size, first=False)


def write_images(folder: Path, count: int) -> Path:
    """A manifest with `count` images beside it."""
    chance = random.Random(0)
    folder.mkdir(parents=True)
    rows = ["image,caption,split"]
    for number in range(count):
        photograph = made_up_photograph(SIZE, number % 64)
        name = f"{number:05}.{'png' if number % 4 == 3 else 'jpg'}"
        if name.endswith("jpg"):
            (folder / name).write_bytes(photograph)
        else:
            jpeg = folder / "one.jpg"
            jpeg.write_bytes(photograph)
            with Image.open(jpeg) as image:
                image.save(folder / name)
        caption = " ".join(chance.choices(WORDS.split(), k=chance.randint(6, 14)))
        rows.append(f"{name},{caption} {number},train")
    manifest = folder / "captions.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return manifest


def write_model(folder: Path, name: str, captions: Sequence[str]) -> None:
    """A CLIP of random weights with tokenizer and image processor, as the hub has them."""
    tokenizer = caption_tokenizer(captions)
    text = MODELS[name] | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=MODELS[name])).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(), tokenizer).save_pretrained(folder)


def read_pairs(manifest: Path) -> list[tuple[Path, str]]:
    """The training images with the first caption of each."""
    with TrainingManifests.open([manifest]) as manifests:
        plan = BatchPlan(batch_size=2, seed=0)
        train_split = manifests.splits(plan, batch_size=2, evaluates=False).train
    starts = train_split.starts[:-1].tolist()
    return [
        (source.path, train_split.captions[start])
        for source, start in zip(train_split.sources, starts, strict=True)
    ]


WAYS: dict[str, Callable[[argparse.Namespace], Measured]] = {
    "ours": lambda options: ours(options, AugmentConfig()),
    "ours, varied": lambda options: ours(options, VARIED),
    "Trainer, 0 workers": lambda options: trainer(options, 0),
    f"Trainer, {CORES} workers": lambda options: trainer(options, CORES),
    "bare": bare,
}
TRAINERS = [way for way in WAYS if way.startswith("Trainer")]
KINDS: dict[str, Callable[[Measured], float]] = {
    "later epochs": lambda measured: measured.later,
    "cpu time": lambda measured: 1 / measured.cpu,
    "first epoch": lambda measured: measured.first or measured.later,
    "10 epochs": lambda measured: measured.ten_epochs,
}


def in_a_process(options: argparse.Namespace, way: str) -> Measured:
    """One way, alone."""
    command = [
        sys.executable, __file__, "--child", way, "--manifest", str(options.manifest),
        "--model", options.model, "--batch-size", str(options.batch_size),
        "--later", str(options.later), "--device", options.device,
        "--threads", str(options.threads), "--precision", options.precision,
    ]  # fmt: skip
    if options.trainer_fills_to_77:
        command.append("--trainer-fills-to-77")
    quiet = os.environ | {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(done.stderr)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def compare(options: argparse.Namespace) -> None:
    """All ways, round by round, and the tables."""
    ways = list(WAYS)
    found: dict[str, list[Measured]] = {way: [] for way in ways}
    for number in range(options.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            found[way].append(in_a_process(options, way))
            print(f"round {number + 1}: {way}: {found[way][-1]}", file=sys.stderr, flush=True)
        if number == 0:
            ways.remove(min(TRAINERS, key=lambda way: found[way][0].later))
    print(f"\n{'pairs/s':22}{'first':>8}{'later':>8}{'10 epochs':>11}{'cpu ms':>9}")
    for way, rounds in found.items():
        columns = [(m.first or m.later, m.later, m.ten_epochs, m.cpu) for m in rounds]
        first, later, ten, cpu = map(statistics.median, zip(*columns, strict=True))
        print(f"{way:22}{first:8.1f}{later:8.1f}{ten:11.1f}{cpu:9.1f}")

    fastest = next(way for way in TRAINERS if way in ways)
    wanted = WANTED[torch.device(options.device).type]
    print(f"\n{'ratios':25}{'':14}median of the rounds' own, least to greatest")
    for way in ("ours", "ours, varied"):
        for other, name in ((fastest, "Trainer"), ("bare", "bare")):
            goal = f"   wanted: {wanted[name]}" if way == "ours" else ""
            label = f"{way} / {name}"
            for what, value in KINDS.items():
                if name == "bare" and what in ("first epoch", "10 epochs"):
                    continue
                ratios = [
                    value(mine) / value(theirs)
                    for mine, theirs in zip(found[way], found[other], strict=True)
                ]
                print(
                    f"{label:25}{what:14}{statistics.median(ratios):.2f}"
                    f"  {min(ratios):.2f} to {max(ratios):.2f}{goal}"
                )
                label = goal = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="mid", help="mid, vit-b-32, or a CLIP's folder or id")
    parser.add_argument("--manifest", type=Path, help="captioned pictures; else they are made up")
    parser.add_argument("--images", type=int, default=384, help="made up")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--later", type=int, default=2, help="epochs after the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument(
        "--trainer-fills-to-77", action="store_true", help="as transformers' example does"
    )
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.precision == "auto":
        options.precision = "bf16" if options.device.startswith("cuda") else "fp32"
    if options.child:
        torch.set_num_threads(options.threads)
        print(json.dumps(vars(WAYS[options.child](options))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.manifest is None:
            options.manifest = write_images(Path(folder) / "pictures", options.images)
        pairs = read_pairs(options.manifest)
        name = options.model
        if name in MODELS:
            options.model = str(Path(folder) / name)
            write_model(Path(options.model), name, [caption for _, caption in pairs])
        print(
            f"{name}, {len(pairs):,} pairs, batches of {options.batch_size}, {options.precision},"
            f" {options.device}, {options.threads} threads, torch {torch.__version__};"
            f" load at the start {os.getloadavg()[0]:.1f}"
        )
        compare(options)
        print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
