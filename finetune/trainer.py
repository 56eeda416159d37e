"""Fine-tune a dual encoder on captioned images: data, step, evaluate, save, export.

`train` is the whole road; `fit` is the loop. Everything random follows from the seed and the
step, so that a run which was killed goes on to the weights that it would have reached.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from finetune.checkpoint import WorkFolder
from finetune.config import TINY, Precision, TrainConfig
from finetune.decoding import Decoder
from finetune.evaluate import evaluate, pool_of
from finetune.export import export_encoder
from finetune.history import History, Row
from finetune.interruption import Interrupted, Interruption
from finetune.losses import Loss
from finetune.losses.contrastive import contrastive_loss
from finetune.manifest import Manifest
from finetune.metrics import RetrievalMetrics
from finetune.model import load_dual_encoder
from finetune.optim import clamp_logit_scale, rate_factor, set_learning_rate
from finetune.plots import plot_history
from finetune.progress import Progress
from finetune.step_log import StepLog
from finetune.train_state import Figures, TrainState, record_evaluation, start_or_resume
from finetune.training_data import TensorBatch, TrainingData, load_training_data, read_splits

CHECKED_TEXTS = 64
CHECKED_PICTURES = 16
AUTOCAST: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave.

    Attributes:
        out: The encoder folder.
        metrics, baseline: Of the best weights and before training, on the validation pool, by
            direction ("text-to-image", "image-to-text") as `RetrievalMetrics.as_dict`; empty
            where nothing was evaluated.
        history: The rows of history.csv.
        steps: That were run, in all.
        best_step: Of the weights in `out`; 0 is the base model itself.
        stopped_early: Whether patience ran out.
        rejected: Rows and pictures that could not be used; `out`/rejected.csv names them.
    """

    out: Path
    metrics: Figures
    baseline: Figures
    history: list[Row]
    steps: int
    best_step: int
    stopped_early: bool
    rejected: int


def train(config: TrainConfig, *, stream: TextIO | None = None, quiet: bool = False) -> Result:
    """Fine-tune, and write the encoder folder `config.out`.

    The same call after a kill goes on at the last checkpoint. Progress goes to `stream`
    (standard error unless given), or nowhere with `quiet`.

    Raises:
        UsageError: a wrong value, an impossible combination, or other options than the
            interrupted run's; before anything is written.
        ManifestError: the manifest cannot be read.
        TrainingError: the loss is not finite, or a checkpoint cannot be written or read.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
    """
    config.check()

    def progress(task: str, total: int, unit: str = "", done: int = 0) -> Progress:
        return Progress(task, total, unit=unit, done_before=done, stream=stream, quiet=quiet)

    device = torch.device(config.resolve_device())
    images = None if config.images is None else Path(config.images)
    # what can be refused is refused before the first slow thing
    with (
        cpu_threads(config),
        WorkFolder.open(config) as work,
        Manifest.open(config.manifest, images=images, strict=config.strict) as manifest,
    ):
        splits = read_splits(config, manifest)
        seed_everything(config.seed)
        dual = load_dual_encoder(
            config.model, splits.train.captions, max_tokens=config.max_tokens, seed=config.seed
        ).to(device)

        with Decoder(dual.preprocessing, config.workers) as decoder:
            data = load_training_data(config, manifest, splits, dual, decoder, device, progress)
            manifest.problems.write(work.report)
            rejected = len(manifest.problems)
            state, history = start_or_resume(config, work, data, dual)
            total = config.epochs * data.steps_per_epoch
            with progress("Training", total, "steps", state.step) as shown:
                if rejected:
                    shown.message(f"{manifest.problems.summary()}; see {work.report}")
                if state.step:
                    shown.message(f"Continuing after step {state.step:,} of {total:,}.")
                fit(config, data, state, history, work, shown)

            # the best weights, not the last ones
            if state.best_weights is not None:
                dual.load_state_dict(state.best_weights)
            export(config, data, state, history, work, rejected)
        if not config.keep_checkpoints:
            work.remove()

    return Result(
        out=Path(config.out),
        metrics=state.metrics,
        baseline=state.baseline,
        history=history.rows,
        steps=state.step,
        best_step=state.stopping.best_step if config.evaluates else state.step,
        stopped_early=state.step < total,
        rejected=rejected,
    )


def fit(
    config: TrainConfig,
    data: TrainingData,
    state: TrainState,
    history: History,
    work: WorkFolder,
    progress: Progress,
    loss_of: Loss = contrastive_loss,
) -> None:
    """Train from `state` on until the last step or until patience runs out.

    Writes a checkpoint every few minutes, when interrupted, and at the end.
    """
    dual, optimizer, scaler = state.dual, state.optimizer, state.scaler
    device = dual.logit_scale.device
    precision = config.resolve_precision(device.type)
    total = config.epochs * data.steps_per_epoch
    warmup = config.warmup_steps(total)
    eval_steps = config.eval_steps(data.steps_per_epoch)
    pool = pool_of(data.splits.val) if eval_steps else None
    batches = data.tensors(state.step, total)
    log = StepLog(data, history, work, norm_may_overflow=scaler.is_enabled())
    saved_at = time.monotonic()

    def save() -> None:
        log.read(progress)
        history.flush(sync=True)
        work.save(state.state_dict(data), state.stopping.best_step, state.best_weights)

    with Interruption() as interruption:
        try:
            while True:
                # before the first step this measures the base model
                is_due = eval_steps and (state.step % eval_steps == 0 or state.step == total)
                if pool is not None and is_due and state.evaluated < state.step:
                    log.read(progress)
                    figures = evaluate(
                        dual,
                        pool,
                        data.pixels,
                        len(data.splits.train),
                        data.val_tokens,
                        batch_size=max(config.batch_size, 64),
                        to_pixel_values=data.normalizer,
                        check=interruption.check,
                    )
                    record_evaluation(state, figures, history, data.steps_per_epoch)
                    progress.message(evaluation_line(state, total, figures))

                if state.stopping.stop or state.step == total:
                    break
                interruption.check()
                if time.monotonic() - saved_at >= 60 * config.checkpoint_minutes:
                    save()
                    saved_at = time.monotonic()

                dual.train()
                factor = rate_factor(
                    state.step, total=total, warmup=warmup, schedule=config.schedule
                )
                rate = set_learning_rate(optimizer, factor)
                batch = next(batches)
                loss, norm = training_step(state, batch, loss_of, precision, config.max_grad_norm)

                log.add(state.step, rate, loss, dual.logit_scale, norm)
                state.step += 1
                if log.is_full:
                    log.read(progress)
                progress.advance()
            save()
        except Interrupted:
            save()
            progress.message(
                f"Stopped after step {state.step:,} of {total:,};"
                f" run the same command again to continue."
            )
            raise KeyboardInterrupt from None
        finally:
            batches.close()


def training_step(
    state: TrainState, batch: TensorBatch, loss_of: Loss, precision: Precision, max_norm: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of the optimizer; the loss and the norm of the gradient, still on the device."""
    dual, optimizer, scaler = state.dual, state.optimizer, state.scaler
    device = batch.pixel_values.device.type
    with torch.autocast(device, AUTOCAST[precision], enabled=precision != "fp32"):
        loss = loss_of(
            dual.embed_images(batch.pixel_values),
            dual.embed_texts(batch.input_ids, batch.attention_mask),
            dual.logit_scale,
            batch.positives,
        )
    torch.autograd.backward(scaler.scale(loss))
    scaler.unscale_(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, max_norm or float("inf"))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    clamp_logit_scale(dual.logit_scale)
    return loss.detach(), norm


def evaluation_line(
    state: TrainState, total: int, figures: tuple[RetrievalMetrics, RetrievalMetrics]
) -> str:
    """One line for people."""
    parts = [f"step {state.step:,}/{total:,}"]
    parts += [
        f"{each.direction} MRR@10 {each.mrr[10]:.3f}, recall@1 {each.recall[1]:.3f}"
        f" (global, pool of {each.pool:,})"
        for each in figures
    ]
    if state.step == 0:
        parts.append("before training")
    elif state.stopping.best_step == state.step:
        parts.append("best so far")
    return "  ".join(parts)


def export(
    config: TrainConfig,
    data: TrainingData,
    state: TrainState,
    history: History,
    work: WorkFolder,
    rejected: int,
) -> None:
    """Write the encoder folder with the run's figures, recipe, history, plots and report."""
    train_set, val = data.splits.train, data.splits.val
    plots = plot_history(history.rows, work.path, pool=len(val) or None)
    # a report of nothing would only make people look
    report = [work.report] if rejected else []
    sample = np.arange(min(CHECKED_PICTURES, len(train_set)))
    export_encoder(
        state.dual.eval(),
        Path(config.out),
        check_texts=train_set.captions[:CHECKED_TEXTS],
        check_pixels=next(data.pixels.batches([sample])),
        metrics={
            "split": "val",
            "before": list(state.baseline.values()),
            "after": list(state.metrics.values()),
            "data": {
                name: {"images": len(split), "captions": len(split.captions)}
                for name, split in (("train", train_set), ("val", val))
                if len(split)
            },
            "training": {
                "steps": state.step,
                "best step": state.stopping.best_step if config.evaluates else state.step,
                "device": str(state.dual.logit_scale.device),
            },
        },
        recipe=config.as_dict(),
        files=[history.path, *plots, *report],
    )


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def cpu_threads(config: TrainConfig) -> Iterator[None]:
    """Torch's threads on the CPU during training; as before afterwards."""
    before = torch.get_num_threads()
    # a small model spends more time handing work to a second thread than the thread saves
    torch.set_num_threads(config.threads or (1 if config.model == TINY else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
