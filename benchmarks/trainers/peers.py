"""What others do: transformers' Trainer, and the bare model on batches that are there already."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from trainers.measured import (
    BETAS,
    EPS,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Clock,
    Measured,
    Options,
    read_pairs,
)
from transformers import CLIPModel, CLIPProcessor, Trainer, TrainerCallback, TrainingArguments


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


def trainer(options: Options, workers: int) -> Measured:
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


def bare(options: Options) -> Measured:
    """Forward, backward and optimizer on up to eight batches that the Trainer's collator made."""
    device = torch.device(options.device)
    processor = CLIPProcessor.from_pretrained(options.model, trust_remote_code=False)
    pairs, size = read_pairs(options.manifest), options.batch_size
    dataset, collator = PairDataset(pairs, processor), Collator(processor)
    count = min(8 if device.type == "cpu" else 3, len(pairs) // size)
    # One process alone would take a minute for what a GPU takes in at once.
    loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(
        Subset(dataset, range(count * size)),
        size,
        collate_fn=collator,
        num_workers=0 if device.type == "cpu" else count,
    )
    batches = [
        {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }
        for batch in loader
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
