"""Which settings of a run can work, found out before the first picture is read.

Imports without torch, but for the question which devices there are.
"""

import importlib.util
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from finetune.backtranslate import parse_routes
from finetune.batch_plan import BatchPlan
from finetune.config import TINY, TrainConfig, option
from finetune.encoder_folder import DESCRIPTION_FILE
from finetune.errors import UsageError
from finetune.losses import LOSSES, OPTIONS, check_loss
from finetune.optimization.optimizers import OPTIMIZERS
from finetune.optimization.precisions import PRECISIONS, resolve_device
from finetune.optimization.schedules import SCHEDULES, WITH_CYCLES
from finetune.outputs import check_no_input
from finetune.selection import Selection
from finetune.several import check_several
from finetune.trackers import check_trackers
from finetune.zeroshot import check_templates

AT_LEAST: dict[str, float] = {
    "epochs": 1, "batch_size": 2, "chunk_size": 1,
    "accumulate_separate_batches": 1, "weight_decay": 0, "warmup": 0, "cycles": 1,
    "max_grad_norm": 0, "train_last_image_layers": 0, "train_last_text_layers": 0, "lora": 1,
    "patience": 0, "min_delta": 0, "keep_best": 1, "batches_of": 2, "max_tokens": 3, "seed": 0,
    "threads": 1, "workers": 0, "checkpoint_minutes": 0,
}  # fmt: skip
ABOVE_ZERO = ("learning_rate", "vision_learning_rate", "text_learning_rate", "eps", "lora_alpha")
# Closed at 0, open at 1.
BELOW_ONE = ("beta1", "beta2", "lora_dropout")
ONE_OF: dict[str, Collection[str]] = {
    "precision": PRECISIONS, "schedule": SCHEDULES, "optimizer": OPTIMIZERS, "loss": LOSSES,
    "captions": BatchPlan.CAPTIONS,
}  # fmt: skip
SOME_OF: dict[str, Sequence[str]] = {
    "freeze": ("image", "text"), "lora_towers": ("image", "text")
}  # fmt: skip


def check_config(config: TrainConfig, *, with_device: bool = True, writes: bool = True) -> None:
    """Raise UsageError for a wrong value, or for options that cannot work together.

    `with_device` False leaves out whether this machine has the device and can do the precision,
    `writes` False whether an encoder may be written to `out`.
    """
    for name in ("more_manifests", "freeze", "lora_towers", "zero_shot_template", "trackers"):
        check_several(getattr(config, name), name)
    _check_numbers(config)
    _check_words(config)
    config.augment.check()
    config.caption_augment.check()
    if config.back_translate is not None:
        parse_routes(config.back_translate)
    check_templates(config.zero_shot_template)
    check_trackers(config.trackers)
    _check_evaluation(config)
    _check_model(config)
    _check_memory(config)
    config.batch_plan.check()
    _check_images(config)
    if writes:
        _check_out(config)
    if with_device:
        resolve_device(config.device, config.precision)


def _check_numbers(config: TrainConfig) -> None:
    for name, least in AT_LEAST.items():
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UsageError(f"{option(name)} must be at least {least:g}, not {value}")
    for name in ABOVE_ZERO:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option(name)} must be above 0, not {value}")
    for name in BELOW_ONE:
        if not 0 <= getattr(config, name) < 1:
            raise UsageError(
                f"{option(name)} must be at least 0 and below 1, not {getattr(config, name)}"
            )
    if not 0 < config.layer_decay <= 1:
        raise UsageError(f"--layer-decay must be above 0 and at most 1, not {config.layer_decay}")
    if config.ema is not None and not 0 < config.ema < 1:
        raise UsageError(f"--ema must be above 0 and below 1, not {config.ema:g}")
    if config.wise_ft is not None and not 0 <= config.wise_ft <= 1:
        raise UsageError(
            f"--wise-ft must be 0 (the base model) to 1 (the fine-tuned one), not {config.wise_ft}"
        )
    if config.warmup >= 1 and config.warmup != int(config.warmup):
        raise UsageError(
            f"--warmup must be a whole number of steps, or a share below 1, not {config.warmup}"
        )


def _check_words(config: TrainConfig) -> None:
    if not config.model:
        raise UsageError("--model is empty; give a Hugging Face id, a folder, or tiny")
    for name, allowed in ONE_OF.items():
        if getattr(config, name) not in allowed:
            raise UsageError(
                f"{option(name)} must be one of {', '.join(allowed)}, not {getattr(config, name)}"
            )
    for name, allowed in SOME_OF.items():
        for value in getattr(config, name):
            if value not in allowed:
                raise UsageError(f"{option(name)} must be of {', '.join(allowed)}, not {value}")
    if config.eval_every not in ("epoch", "never") and not _is_count(config.eval_every, least=1):
        raise UsageError(
            f"--eval-every must be epoch, never or a number of steps, not {config.eval_every}"
        )
    if config.cache_images not in ("auto", "off") and not _is_count(config.cache_images, least=0):
        raise UsageError(
            f"--cache-images must be auto, off or a number of megabytes, not {config.cache_images}"
        )


def _check_evaluation(config: TrainConfig) -> None:
    selection = Selection.parse(config.metric)
    if not config.evaluates and config.patience:
        raise UsageError(
            f"--patience {config.patience} needs evaluations, but --eval-every is never;"
            f" give --eval-every epoch, or --patience 0"
        )
    if selection.is_zero_shot and config.zero_shot_classes is None:
        raise UsageError(
            f"--metric {config.metric} needs the images' classes;"
            f" name their column or file with --zero-shot-classes"
        )


def _check_model(config: TrainConfig) -> None:
    if config.text_model is not None and config.model == TINY:
        raise UsageError("--text-model needs an image model; give its id or folder as --model")
    if config.wise_ft is not None and TINY in (config.model, config.text_model):
        raise UsageError("--wise-ft goes back towards the base model, but tiny has no base model")
    if config.wise_ft is not None and config.text_model is not None:
        raise UsageError(
            "--wise-ft goes back towards the base model, but the projections of --text-model"
            " start from scratch; leave it out"
        )
    if set(config.freeze) == {"image", "text"}:
        raise UsageError("--freeze of both towers leaves nothing to train; freeze one of them")
    if config.lora is not None:
        if not config.lora_towers:
            raise UsageError("--lora-towers names no tower; give image, text or both")
        if importlib.util.find_spec("peft") is None:
            raise UsageError(
                "--lora needs peft; install it with: pip install 'clipsearch[finetune]'"
            )
    if config.schedule not in WITH_CYCLES and config.cycles != 1:
        raise UsageError(
            f"--cycles {config.cycles} is for --schedule {' and '.join(sorted(WITH_CYCLES))}"
        )
    check_loss(config.loss, {name: getattr(config, name) for name in OPTIONS})


def _check_memory(config: TrainConfig) -> None:
    if config.chunk_size is not None and config.accumulate_separate_batches > 1:
        raise UsageError(
            "--chunk-size takes the whole batch's gradients in parts, and"
            " --accumulate-separate-batches takes those of separate batches; give one of them"
        )


def _check_images(config: TrainConfig) -> None:
    if config.images is not None and not Path(config.images).is_dir():
        raise UsageError(f"--images {config.images}: no such folder")


def _check_out(config: TrainConfig) -> None:
    out = Path(config.out)
    check_no_input(out, f"--out {out}", (*config.manifests, config.model, config.text_model))
    if out.is_dir():
        if (out / DESCRIPTION_FILE).is_file():
            if not config.overwrite:
                raise UsageError(
                    f"--out {out} already holds a finished encoder;"
                    f" replace it with --overwrite, or give another folder"
                )
        elif any(out.iterdir()):
            raise UsageError(
                f"--out {out} has files in it but is no encoder folder"
                f" (no {DESCRIPTION_FILE}); give a new or empty folder"
            )
    elif out.exists():
        raise UsageError(f"--out {out} is a file; give a folder")


def _is_count(value: int | str, least: int) -> bool:
    return str(value).isdecimal() and int(value) >= least
