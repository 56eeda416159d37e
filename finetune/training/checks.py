"""Which settings of a run can work, found out before the first image is read.

Imports without torch, but for the question which devices there are.
"""

import importlib.util
from pathlib import Path

from finetune.config.settings import CUDA_GRAPHS, SETTINGS, TINY, TrainConfig, option
from finetune.data.back_translation import parse_routes
from finetune.encoder_folder import DESCRIPTION_FILE, is_missing_folder
from finetune.errors import UsageError
from finetune.evaluation.zero_shot import check_templates
from finetune.figures import Metric
from finetune.installing import install_command
from finetune.losses import OPTIONS, check_loss
from finetune.manifest.inputs import check_exists, check_no_input
from finetune.near_names import did_you_mean
from finetune.optimization.precisions import resolve_device
from finetune.optimization.schedules import SCHEDULE_OPTIONS, Schedule, check_schedule
from finetune.several import check_several
from finetune.split_shares import shares_of
from finetune.towers import TOWERS
from finetune.trackers import check_trackers


def check_config(config: TrainConfig, *, with_device: bool = True, writes: bool = True) -> None:
    """Raise UsageError for a wrong value, or for options that cannot work together.

    `with_device` False leaves out whether this machine has the device and can do the precision,
    `writes` False whether an encoder may be written to `out`.
    """
    for name in (
        "more_manifests",
        "caption_column",
        "freeze",
        "lora_towers",
        "zero_shot_template",
        "trackers",
    ):
        check_several(getattr(config, name), name)
    _check_values(config)
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


def check_paths(config: TrainConfig) -> None:
    """Raise ManifestError or UsageError where a manifest or a model's folder is missing.

    Said before anything slow is imported. What a folder holds is found out when it is read.
    """
    for manifest in config.manifests:
        check_exists(manifest)
    for name, model in (("--model", config.model), ("--text-model", config.text_model)):
        if model is not None and is_missing_folder(model):
            meant = did_you_mean(model, folders=True)
            raise UsageError(f"{name} {model}: no such folder{meant}, and not a Hugging Face id")


def unfinished_warmup(schedule: Schedule, learning_rate: float) -> str | None:
    """Say in one sentence where a run ends before the learning rate is at its top, `learning_rate`.

    None where it gets there.
    """
    if schedule.warmup <= schedule.total:
        return None
    share = schedule.total / schedule.warmup
    return (
        f"--warmup {schedule.warmup:,} is longer than the run of {schedule.total:,} steps: the"
        f" learning rate ends at {share * learning_rate:.2g}, {share:.0%} of {learning_rate:g};"
        f" --warmup 0.1 is a tenth of the run"
    )


def _check_values(config: TrainConfig) -> None:
    if not config.model:
        raise UsageError("--model is empty; give a Hugging Face id, a folder, or tiny")
    for name, declared in SETTINGS.items():
        declared.check(option(name), getattr(config, name))
    if config.warmup >= 1 and config.warmup != int(config.warmup):
        raise UsageError(
            f"--warmup must be a whole number of steps, or a share below 1, not {config.warmup}"
        )


def _check_evaluation(config: TrainConfig) -> None:
    metric = Metric.parse(config.metric)
    shares_of(config.split_shares)
    if not config.evaluates and config.patience:
        raise UsageError(
            f"--patience {config.patience} needs evaluations, but --eval-every is never;"
            f" give --eval-every epoch, or --patience 0"
        )
    if metric.is_zero_shot and config.zero_shot_classes is None:
        raise UsageError(
            f"--metric {config.metric} needs the images' classes;"
            f" name their column or file with --zero-shot"
        )


def _check_model(config: TrainConfig) -> None:
    if config.text_model == TINY:
        raise UsageError(
            "--text-model tiny: there is no such text model; give an id or a folder, such as"
            " roberta-base, or leave it out with --model tiny"
        )
    if config.wise_ft is not None and TINY in (config.model, config.text_model):
        raise UsageError("--wise-ft goes back towards the base model, but tiny has no base model")
    if config.wise_ft is not None and config.text_model is not None:
        raise UsageError(
            "--wise-ft goes back towards the base model, but the projections of --text-model"
            " start from scratch; leave it out"
        )
    if set(config.freeze) == set(TOWERS):
        raise UsageError("--freeze of both towers leaves nothing to train; freeze one of them")
    if config.lora is not None:
        if not config.lora_towers:
            raise UsageError("--lora-towers names no tower; give image, text or both")
        if importlib.util.find_spec("peft") is None:
            raise UsageError(f"--lora needs peft; install it with: {install_command('finetune')}")
    check_schedule(config.schedule, {name: getattr(config, name) for name in SCHEDULE_OPTIONS})
    check_loss(config.loss, {name: getattr(config, name) for name in OPTIONS})


def _check_memory(config: TrainConfig) -> None:
    if config.chunk_size is not None and config.accumulate_separate_batches > 1:
        raise UsageError(
            "--chunk-size takes the whole batch's gradients in parts, and"
            " --accumulate-separate-batches takes those of separate batches; give one of them"
        )
    if config.compile_mode != CUDA_GRAPHS:
        return
    if not config.compile:
        raise UsageError(f"--compile-mode {CUDA_GRAPHS} is of --compile; give that too")
    in_parts = {
        "--chunk-size": config.chunk_size is not None,
        "--accumulate-separate-batches": config.accumulate_separate_batches > 1,
        "--gradient-checkpointing": config.gradient_checkpointing,
    }
    for name, is_given in in_parts.items():
        if is_given:
            raise UsageError(
                f"--compile-mode {CUDA_GRAPHS} takes a step in one pass, whose memory the next one"
                f" uses again, and {name} takes it in several; give one of them"
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
