"""Every setting of a training run; `finetune.config_check` says which values can work.

Imports without torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from finetune.augment_config import AugmentConfig
from finetune.batch_plan import BatchPlan
from finetune.caption_augment import CaptionAugmentConfig

TINY = "tiny"
DEFAULT_PATIENCE = 5
DEFAULT_LEARNING_RATE = 1e-5
# A model that starts from random weights has further to go.
DEFAULT_LEARNING_RATE_TINY = 1e-3

# Fields that a resumed run may change: they change no weight but by rounding.
OPERATIONAL = frozenset(
    {
        "out", "threads", "workers", "cache_images", "checkpoint_minutes", "keep_checkpoints",
        "overwrite", "yes", "restart", "strict", "back_translation_cache", "trackers", "project",
        "run_name", "batches_of", "wise_ft", "recipe",
    }
)  # fmt: skip

PathLike = str | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What one training run does; every field is an option of `clipsearch finetune`.

    Attributes:
        manifest: Captioned images, in any format of `finetune.manifest`.
        model: Hugging Face id or folder of a CLIP or SigLIP, an OpenCLIP checkpoint, an encoder
            folder, or "tiny" for a small CLIP from scratch with a tokenizer built from the
            captions.
        out: The encoder folder to write.
        more_manifests: Trained on together with the first.
        text_model: Id or folder of a text model; `model` is then the image tower's, and the
            projections start from scratch.
        recipe: Name of the recipe that these settings came from, for the model card.
        images: Where relative image paths are looked for too.

        epochs: Times that every training image is seen.
        batch_size: Largest number of images in a batch; batches differ in size by one at most.
        samples_per_epoch: Pairs of an epoch, a fresh random choice each time; None is all.
        captions: "sampled" shows one caption of each image an epoch, "all" shows every one.
        dataset_weights: Share of each manifest's images in an epoch; None takes them as they are.
        hard_negatives: Images in a group of near neighbours, of which batches are made; 0 makes
            batches at random.

        loss: "contrastive" (InfoNCE with several positives) or "sigmoid" (SigLIP).
        label_smoothing, hard_negative_beta: Of the contrastive loss.
        chunk_size: Pairs whose activations are held at a time (GradCache): the gradients are
            those of the whole batch; None holds all.
        accumulate_separate_batches: Batches of `batch_size` whose gradients make a step; they do
            not see each other's negatives.
        gradient_checkpointing: Make activations again in the backward pass instead of keeping
            them.
        compile: torch.compile the towers' layers.

        optimizer: "adamw", "adam" (decay is added to the gradient) or "adafactor".
        learning_rate: At the end of warm-up; None is 1e-5, or 1e-3 for a model from scratch.
        vision_learning_rate, text_learning_rate: Of one tower; None is `learning_rate`.
        layer_decay: Each layer learns at so many times the rate of the one above it.
        weight_decay: On matrices only, not on biases, norms and the logit scale.
        beta1, beta2, eps: Of AdamW and Adam; Adafactor takes none of them.
        warmup: Steps of linear warm-up; below 1, their share of all steps.
        schedule: After warm-up: "cosine" or "linear" to zero, "cosine-restarts", "constant", or
            "inverse-sqrt" (of the step).
        cycles: Of "cosine-restarts".
        precision: "fp32", "bf16" (autocast), "fp16" (autocast and loss scaling, CUDA only), or
            "auto": bf16 where CUDA has it, else fp32.
        max_grad_norm: Gradients are clipped to this norm; 0 clips nothing.
        ema: Decay of an average of the weights, which is then evaluated and exported; None is
            without.
        wise_ft: Weights are exported at this share of the way from the base model to the
            fine-tuned one; None is 1.

        freeze: Towers that do not learn: "image", "text".
        train_last_image_layers, train_last_text_layers: How many of a tower's last layers learn;
            None is all.
        lora: Rank of adapters on the attention, which are merged on export; None trains the
            weights themselves.
        lora_alpha: Adapters count alpha / rank times; None is twice the rank.
        lora_dropout: On the adapters' input.
        lora_towers: Which towers have adapters.

        augment: How training pictures are varied.
        caption_augment: How training captions are varied.
        back_translate: Languages through which captions are translated and back, as "fr,de,es"
            or "fr=MODEL_EN_FR:MODEL_FR_EN"; None adds no captions.
        back_translation_cache: The file of translations; None is the user's own.

        eval_every: "epoch", "never", or a number of steps, as an int or in digits.
        metric: What is best, a column of evaluations in history.csv: "t2i_mrr@10", "val_loss",
            "i2t_recall@1", "hits@1" …
        patience: Evaluations without a better metric before training stops; 0 never stops early;
            None is 5, or 0 where nothing is evaluated.
        min_delta: What the metric must gain to count as better for `patience`.
        keep_best: Weights that are kept: the best go to `out`, others to `out`.step-N.
        zero_shot_classes: A column or file that says each image's class (see
            `finetune.class_labels`); None evaluates no classes.
        zero_shot_template: Prompts of a class, with {category}.
        batches_of: The final figures also within batches of so many images, to compare with
            papers; None is without.

        trackers: "tensorboard", "wandb", "mlflow", "carbon".
        project, run_name: For the trackers; None is "clipsearch", and the name of `out`.

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
        yes: Take an encoder of an earlier version, which has no list of its files, for ours by
            their names; for `overwrite`.
        restart: Throw an interrupted run's checkpoint away and start anew.
        strict: Treat any problem of the manifest or its pictures as an error.
    """

    manifest: PathLike
    model: str
    out: PathLike = "encoder"
    more_manifests: tuple[PathLike, ...] = ()
    text_model: str | None = None
    recipe: str | None = None
    images: PathLike | None = None

    epochs: int = 10
    batch_size: int = 64
    samples_per_epoch: int | None = None
    captions: str = "sampled"
    dataset_weights: tuple[float, ...] | None = None
    hard_negatives: int = 0

    loss: str = "contrastive"
    label_smoothing: float = 0.0
    hard_negative_beta: float = 0.0
    chunk_size: int | None = None
    accumulate_separate_batches: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False

    optimizer: str = "adamw"
    learning_rate: float | None = None
    vision_learning_rate: float | None = None
    text_learning_rate: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    warmup: float = 0.1
    schedule: str = "cosine"
    cycles: int = 1
    precision: str = "auto"
    max_grad_norm: float = 1.0
    ema: float | None = None
    wise_ft: float | None = None

    freeze: tuple[str, ...] = ()
    train_last_image_layers: int | None = None
    train_last_text_layers: int | None = None
    lora: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_towers: tuple[str, ...] = ("image", "text")

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    caption_augment: CaptionAugmentConfig = field(default_factory=CaptionAugmentConfig)
    back_translate: str | None = None
    back_translation_cache: PathLike | None = None

    eval_every: int | str = "epoch"
    metric: str = "t2i_mrr@10"
    patience: int | None = None
    min_delta: float = 0.0
    keep_best: int = 1
    zero_shot_classes: str | None = None
    zero_shot_template: tuple[str, ...] = ("a photo of a {category}",)
    batches_of: int | None = None

    trackers: tuple[str, ...] = ()
    project: str | None = None
    run_name: str | None = None

    max_tokens: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    cache_images: int | str = "auto"
    checkpoint_minutes: float = 5.0
    keep_checkpoints: bool = False
    overwrite: bool = False
    yes: bool = False
    restart: bool = False
    strict: bool = False

    @property
    def manifests(self) -> tuple[PathLike, ...]:
        """All of them."""
        return (self.manifest, *self.more_manifests)

    @property
    def work_folder(self) -> Path:
        """Where checkpoints lie while training goes on: `out` with ".training" added."""
        out = Path(self.out).absolute()
        return out.with_name(out.name + ".training")

    @property
    def trackers_folder(self) -> Path:
        """Where trackers write, kept after the run: `out` with ".runs" added."""
        out = Path(self.out).absolute()
        return out.with_name(out.name + ".runs")

    @property
    def evaluates(self) -> bool:
        """Whether the validation pool is ranked at all."""
        return self.eval_every != "never"

    @property
    def pairs_per_step(self) -> int:
        """Images of a step, at most."""
        return self.batch_size * self.accumulate_separate_batches

    @property
    def batch_plan(self) -> BatchPlan:
        """How the run's epochs are cut into steps."""
        return BatchPlan(
            self.pairs_per_step,
            self.seed,
            samples_per_epoch=self.samples_per_epoch,
            captions=self.captions,
            dataset_weights=self.dataset_weights,
            hard_negatives=self.hard_negatives,
        )

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

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON and YAML hold them: paths as text, tuples as lists."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

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
            more_manifests=tuple(Path(path).absolute() for path in self.more_manifests),
            out=Path(self.out).absolute(),
            images=images,
        )


def option(name: str) -> str:
    """A field's name on the command line."""
    if name in ("manifest", "more_manifests"):
        return "the manifest"
    return "--" + name.replace("_", "-")


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, AugmentConfig | CaptionAugmentConfig):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return value
