"""Every setting of a training run, checked before the first picture is read.

Imports without torch.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from finetune.encoder_folder import DESCRIPTION_FILE
from finetune.errors import UsageError

TINY = "tiny"
DEFAULT_PATIENCE = 5
DEFAULT_LEARNING_RATE = 1e-5
# A model that starts from random weights has further to go.
DEFAULT_LEARNING_RATE_TINY = 1e-3

# Fields that a resumed run may change: they change no weight but by rounding.
OPERATIONAL = frozenset(
    {
        "out", "threads", "workers", "cache_images", "checkpoint_minutes", "keep_checkpoints",
        "overwrite", "restart", "strict",
    }
)  # fmt: skip

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What one training run does; every field is an option of `clipsearch finetune`.

    Attributes:
        manifest: Captioned images, in any format of `finetune.manifest`.
        model: Hugging Face id or folder of a CLIP checkpoint, or "tiny" for a small CLIP from
            scratch with a tokenizer built from the captions.
        out: The encoder folder to write.
        images: Where relative image paths are looked for too.
        epochs: Times that every training image is seen.
        batch_size: Largest number of images in a batch; batches differ in size by one at most.
        learning_rate: At the end of warm-up; None is 1e-5, or 1e-3 for a model from scratch.
        weight_decay: Of AdamW; on matrices only, not on biases, norms and the logit scale.
        beta1, beta2, eps: Of AdamW.
        warmup: Steps of linear warm-up; below 1, their share of all steps.
        schedule: "cosine" to zero, or "constant", after warm-up.
        precision: "fp32", "bf16" (autocast), "fp16" (autocast and loss scaling, CUDA only), or
            "auto": bf16 where CUDA has it, else fp32.
        max_grad_norm: Gradients are clipped to this norm; 0 clips nothing.
        eval_every: "epoch", "never", or a number of steps, as an int or in digits.
        patience: Evaluations without a better MRR@10 before training stops; 0 never stops early;
            None is 5, or 0 where nothing is evaluated.
        min_delta: What MRR@10 must gain to count as better for `patience`.
        max_tokens: Longer captions are cut; None is the model's own limit.
        seed: Of weights, batches and sampled captions.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: Of torch on the CPU; None is 1 for "tiny", else torch's default.
        workers: Processes that decode pictures; 0 decodes in this one; None decides by itself.
        cache_images: Decoded pictures in memory: "auto" (up to half of what is free), "off"
            (decode again every epoch), or a number of megabytes, as an int or in digits; what
            does not fit goes to a file beside `out`.
        checkpoint_minutes: Between checkpoints; 0 writes one after each step.
        keep_checkpoints: Leave the working folder beside `out` when all is done.
        overwrite: Replace a finished encoder in `out`.
        restart: Throw an interrupted run's checkpoint away and start anew.
        strict: Treat any problem of the manifest or its pictures as an error.
    """

    manifest: str | Path
    model: str
    out: str | Path = "encoder"
    images: str | Path | None = None
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup: float = 0.1
    schedule: str = "cosine"
    precision: str = "auto"
    max_grad_norm: float = 1.0
    eval_every: int | str = "epoch"
    patience: int | None = None
    min_delta: float = 0.0
    max_tokens: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    cache_images: int | str = "auto"
    checkpoint_minutes: float = 5.0
    keep_checkpoints: bool = False
    overwrite: bool = False
    restart: bool = False
    strict: bool = False

    @property
    def work_folder(self) -> Path:
        """Where checkpoints lie while training goes on: `out` with ".training" added."""
        out = Path(self.out).absolute()
        return out.with_name(out.name + ".training")

    @property
    def evaluates(self) -> bool:
        """Whether the validation pool is ranked at all."""
        return self.eval_every != "never"

    @property
    def effective_patience(self) -> int:
        """`patience`, or its default."""
        if self.patience is None:
            return DEFAULT_PATIENCE if self.evaluates else 0
        return self.patience

    @property
    def effective_learning_rate(self) -> float:
        """`learning_rate`, or the default of the model."""
        if self.learning_rate is not None:
            return self.learning_rate
        return DEFAULT_LEARNING_RATE_TINY if self.model == TINY else DEFAULT_LEARNING_RATE

    def eval_steps(self, steps_per_epoch: int) -> int | None:
        """Steps between two evaluations, None where there are none."""
        if not self.evaluates:
            return None
        return steps_per_epoch if self.eval_every == "epoch" else int(self.eval_every)

    def warmup_steps(self, total_steps: int) -> int:
        """Steps over which the learning rate rises."""
        if self.warmup < 1:
            return round(self.warmup * total_steps)
        return int(self.warmup)

    def check(self) -> None:
        """Raise UsageError for a wrong value, or for options that cannot work together."""
        self._check_numbers()
        self._check_words()
        if not self.evaluates and self.patience:
            raise UsageError(
                f"--patience {self.patience} needs evaluations, but --eval-every is never;"
                f" give --eval-every epoch, or --patience 0"
            )
        self._check_folders()
        self.resolve_device()

    def _check_numbers(self) -> None:
        at_least: dict[str, float] = {
            "epochs": 1, "batch_size": 2, "weight_decay": 0, "warmup": 0, "max_grad_norm": 0,
            "patience": 0, "min_delta": 0, "max_tokens": 3, "seed": 0, "threads": 1, "workers": 0,
            "checkpoint_minutes": 0,
        }  # fmt: skip
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise UsageError(f"{option(name)} must be at least {least:g}, not {value}")
        for name in ("learning_rate", "eps"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{option(name)} must be above 0, not {value}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    f"{option(name)} must be at least 0 and below 1, not {getattr(self, name)}"
                )
        if self.warmup >= 1 and self.warmup != int(self.warmup):
            raise UsageError(
                f"--warmup must be a whole number of steps, or a share below 1, not {self.warmup}"
            )

    def _check_words(self) -> None:
        if not self.model:
            raise UsageError("--model is empty; give a Hugging Face id, a folder, or tiny")
        for name, allowed in (("precision", PRECISIONS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{option(name)} must be one of {', '.join(allowed)}, not {getattr(self, name)}"
                )
        if self.eval_every not in ("epoch", "never") and not _is_count(self.eval_every, least=1):
            raise UsageError(
                f"--eval-every must be epoch, never or a number of steps, not {self.eval_every}"
            )
        if self.cache_images not in ("auto", "off") and not _is_count(self.cache_images, least=0):
            raise UsageError(
                f"--cache-images must be auto, off or a number of megabytes,"
                f" not {self.cache_images}"
            )

    def _check_folders(self) -> None:
        if self.images is not None and not Path(self.images).is_dir():
            raise UsageError(f"--images {self.images}: no such folder")
        out = Path(self.out)
        if out.is_dir():
            if (out / DESCRIPTION_FILE).is_file():
                if not self.overwrite:
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

    def resolve_device(self) -> str:
        """The device that "auto" means here; raises UsageError where it is absent or unfit."""
        import torch  # heavy, and needed for this question alone

        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, not {self.device}")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        device = self.device
        if device == "auto":
            device = "cuda" if count else "cpu"
        if device.startswith("cuda"):
            wanted = int(device.partition(":")[2] or 0)
            if wanted >= count:
                raise UsageError(
                    f"--device {device} is not there: this torch ({torch.__version__}) sees"
                    f" {count} CUDA devices; use --device cpu, or install torch for CUDA"
                )
        elif self.precision == "fp16":
            raise UsageError("--precision fp16 needs CUDA, but the device is cpu; use fp32 or bf16")
        return device

    def resolve_precision(self, device: str) -> Literal["fp32", "bf16", "fp16"]:
        """The precision that "auto" means on the device."""
        if self.precision == "auto":
            import torch  # heavy, and needed for this question alone

            has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
            return "bf16" if has_bf16 else "fp32"
        assert self.precision in ("fp32", "bf16", "fp16")
        return self.precision  # type: ignore[return-value]  # narrowed by the line above

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON and YAML hold them: paths as text."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value for name, value in values.items()
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What a resumed run may not change but does: "--epochs 3 (was 10)".

        `other` is `as_dict()` of the interrupted run. Options that change no weight (but by
        rounding), such as --workers, do not count.
        """
        mine: dict[str, Any] = json.loads(json.dumps(self.as_dict()))
        return [
            f"{option(item.name)} {mine[item.name]} (was {other.get(item.name)})"
            for item in fields(self)
            if item.name not in OPERATIONAL and mine[item.name] != other.get(item.name)
        ]

    def with_absolute_paths(self) -> "TrainConfig":
        """The same run, wherever it is called from."""
        images = None if self.images is None else Path(self.images).absolute()
        return replace(
            self,
            manifest=Path(self.manifest).absolute(),
            out=Path(self.out).absolute(),
            images=images,
        )


def option(name: str) -> str:
    """A field's name on the command line."""
    if name == "manifest":
        return "the manifest"
    return "--" + name.replace("_", "-")


def _is_count(value: int | str, least: int) -> bool:
    return str(value).isdecimal() and int(value) >= least
