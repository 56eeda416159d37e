"""What each part of a training run is told of its settings: made here of `TrainConfig`, and nowhere
else, so that no part depends on all of them. Imports without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config.batch_plan import BatchPlan
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.evaluation_settings import DEFAULT_PATIENCE
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import (
    DEFAULT_LEARNING_RATE,
    DEFAULT_LEARNING_RATE_TINY,
    TINY,
    PathLike,
    TrainConfig,
)
from finetune.figures import Metric
from finetune.frames import ManifestPath
from finetune.losses import OPTIONS
from finetune.optimization.optimizers import Moments
from finetune.optimization.schedules import SCHEDULE_OPTIONS, Schedule


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that training starts from.

    Attributes:
        name: A Hugging Face id, a folder, or "tiny".
        text_model: Of the text tower, where it is another.
        max_tokens: Longer captions are cut; None takes the model's limit.
        seed: Of the weights that start from scratch.
        transparency: What an image's transparent pixels show; None takes the model's.
    """

    name: str
    text_model: str | None
    max_tokens: int | None
    seed: int
    transparency: str | None = None

    @classmethod
    def of(cls, config: TrainConfig) -> "BaseModel":
        """Make it from a run's settings."""
        return cls(
            config.model, config.text_model, config.max_tokens, config.seed, config.transparency
        )


@dataclass(frozen=True, slots=True)
class Adapters:
    """The low-rank adapters that are trained in place of weights; see `add_lora`."""

    rank: int
    alpha: float | None
    dropout: float
    towers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the loaded model is made the one that is trained.

    Attributes:
        loss: Its name in LOSSES.
        loss_options: Of OPTIONS in `finetune.losses`.
        frozen: Towers that do not learn.
        last_layers: Of "image" and "text" tower, how many layers learn; None is all.
        adapters: None trains the weights themselves.
        gradient_checkpointing: Whether activations are recomputed.
        compile_mode: How the towers' layers are compiled, one of COMPILE_MODES; None does not.
    """

    loss: str
    loss_options: Mapping[str, float]
    frozen: tuple[str, ...]
    last_layers: Mapping[Literal["image", "text"], int | None]
    adapters: Adapters | None
    gradient_checkpointing: bool
    compile_mode: str | None

    @classmethod
    def of(cls, config: TrainConfig) -> "Preparation":
        """Make it from a run's settings."""
        adapters = None
        if config.lora is not None:
            adapters = Adapters(
                config.lora, config.lora_alpha, config.lora_dropout, config.lora_towers
            )
        return cls(
            loss=config.loss,
            loss_options={name: getattr(config, name) for name in OPTIONS},
            frozen=config.freeze,
            last_layers={
                "image": config.train_last_image_layers,
                "text": config.train_last_text_layers,
            },
            adapters=adapters,
            gradient_checkpointing=config.gradient_checkpointing,
            compile_mode=config.compile_mode if config.compile else None,
        )


@dataclass(frozen=True, slots=True)
class Translation:
    """How new captions are made by translating there and back.

    Attributes:
        languages: As `--back-translate` names them; None makes none.
        duplicates_only: Whether only captions that an image has more than once are translated.
        cache: The file of translations; None is the user's own.
    """

    languages: str | None
    duplicates_only: bool
    cache: PathLike | None

    @classmethod
    def of(cls, config: TrainConfig) -> "Translation":
        """Make it from a run's settings."""
        return cls(
            config.back_translate, config.back_translate_duplicates, config.back_translation_cache
        )


@dataclass(frozen=True, slots=True)
class Loading:
    """How the images and captions of a run are loaded, and shown in batches.

    Attributes:
        plan: How an epoch's batches are made.
        parts: Separate batches of a step.
        is_whole: Whether a step takes all its images at once.
        manifests: How many are trained on.
        evaluates: Whether the split val is needed.
        strict: Whether an unreadable image is an error.
        cache: "auto", "off" or megabytes of memory for decoded images.
        spill: The file for those that do not fit.
        augment, caption_augment: How images and captions are varied.
    """

    plan: BatchPlan
    parts: int
    is_whole: bool
    manifests: int
    evaluates: bool
    strict: bool
    cache: int | str
    spill: Path
    augment: AugmentConfig
    caption_augment: CaptionAugmentConfig

    @classmethod
    def of(cls, config: TrainConfig, spill: Path) -> "Loading":
        """Make it from a run's settings."""
        return cls(
            plan=config.batch_plan,
            parts=config.accumulate_separate_batches,
            is_whole=config.chunk_size is None and config.accumulate_separate_batches == 1,
            manifests=len(config.manifests),
            evaluates=config.evaluates,
            strict=config.strict,
            cache=config.cache_images,
            spill=spill,
            augment=config.augment,
            caption_augment=config.caption_augment,
        )


@dataclass(frozen=True, slots=True)
class Gradients:
    """How a batch's gradients are taken.

    Attributes:
        precision: Its name in PRECISIONS.
        chunk_size: Pairs whose activations are held at a time; None holds all.
        parts: Separate batches of a step.
    """

    precision: str
    chunk_size: int | None
    parts: int

    @classmethod
    def of(cls, config: TrainConfig) -> "Gradients":
        """Make it from a run's settings."""
        return cls(config.precision, config.chunk_size, config.accumulate_separate_batches)


@dataclass(frozen=True, slots=True)
class Optimization:
    """What takes the steps.

    Attributes:
        optimizer: Its name in OPTIMIZERS.
        learning_rate: After warm-up.
        vision_learning_rate, text_learning_rate: Of a tower, where it is another.
        layer_decay: Each layer learns at so many times the rate above it.
        weight_decay: On matrices.
        moments: Of AdamW and Adam.
    """

    optimizer: str
    learning_rate: float
    vision_learning_rate: float | None
    text_learning_rate: float | None
    layer_decay: float
    weight_decay: float
    moments: Moments

    @classmethod
    def of(cls, config: TrainConfig) -> "Optimization":
        """Make it from a run's settings; the rate's default is the model's."""
        rate = config.learning_rate
        if rate is None:
            is_new = config.model == TINY
            rate = DEFAULT_LEARNING_RATE_TINY if is_new else DEFAULT_LEARNING_RATE
        return cls(
            optimizer=config.optimizer,
            learning_rate=rate,
            vision_learning_rate=config.vision_learning_rate,
            text_learning_rate=config.text_learning_rate,
            layer_decay=config.layer_decay,
            weight_decay=config.weight_decay,
            moments=Moments(beta1=config.beta1, beta2=config.beta2, eps=config.eps),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What the state before the first step is made of.

    Attributes:
        optimization: What takes the steps.
        precision: Its name in PRECISIONS.
        patience: Evaluations without a better metric after which training stops; 0 never does.
        min_delta: What the metric must gain.
        ema: Decay of the averaged weights; None averages nothing.
        measured: By column of history.csv, what an evaluation measures.
    """

    optimization: Optimization
    precision: str
    patience: int
    min_delta: float
    ema: float | None
    measured: Mapping[str, Metric]

    @classmethod
    def of(cls, config: TrainConfig) -> "Start":
        """Make it from a run's settings; the patience's default is none without evaluations."""
        patience = config.patience
        if patience is None:
            patience = DEFAULT_PATIENCE if config.evaluates else 0
        return cls(
            Optimization.of(config),
            config.precision,
            patience,
            config.min_delta,
            config.ema,
            config.measured,
        )


@dataclass(frozen=True, slots=True)
class Course:
    """When what happens from step to step.

    Attributes:
        steps: Of the whole run.
        schedule: Of the learning rate.
        max_grad_norm: Gradients are clipped to this norm; 0 clips nothing.
        evaluate_every: Steps between two evaluations; None where there are none.
        metric: What is best.
        keep_best: Weights that are kept at most.
        checkpoint_seconds: Between checkpoints; 0 writes one after each step.
    """

    steps: int
    schedule: Schedule
    max_grad_norm: float
    evaluate_every: int | None
    metric: Metric
    keep_best: int
    checkpoint_seconds: float

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> "Course":
        """Make it from the settings of a run with so many steps in an epoch."""
        steps = config.epochs * steps_per_epoch
        every: int | None = None
        if config.evaluates:
            every = steps_per_epoch if config.eval_every == "epoch" else int(config.eval_every)
        return cls(
            steps,
            Schedule(
                config.schedule,
                steps,
                warmup_steps(config.warmup, steps),
                **{name: getattr(config, name) for name in SCHEDULE_OPTIONS},
            ),
            config.max_grad_norm,
            every,
            Metric.parse(config.metric),
            config.keep_best,
            60 * config.checkpoint_minutes,
        )


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Return the steps over which the learning rate rises; below 1, `warmup` is their share."""
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


@dataclass(frozen=True, slots=True)
class Tracking:
    """What trackers are started with.

    Attributes:
        names: Of TRACKERS.
        folder: Where they write.
        settings: Of the run, as JSON holds them.
        project, run_name: As the trackers show them.
    """

    names: tuple[str, ...]
    folder: Path
    settings: Mapping[str, Any]
    project: str | None
    run_name: str

    @classmethod
    def of(cls, config: TrainConfig) -> "Tracking":
        """Make it from a run's settings; the name's default is that of the encoder folder."""
        return cls(
            config.trackers,
            config.trackers_folder,
            config.as_dict(),
            config.project,
            config.run_name or Path(config.out).name,
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of the trained weights.

    Attributes:
        out: The encoder folder to write.
        yes: Whether an encoder without a list of its files is replaced.
        wise_ft: Weights between the base model's (0) and the fine-tuned ones (1); None takes these.
        base: The model that training started from.
        recipe: Name of the recipe of the settings; None where they came from none.
        settings: As JSON holds them, for recipe.yaml and the card.
        power, carbon_intensity, carbon_region: Of the machine; see `CardSettings`.
        manifests: That were trained on.
        dataset_weights: Of the manifests; None is by their size.
    """

    out: Path
    yes: bool
    wise_ft: float | None
    base: BaseModel
    recipe: str | None
    settings: Mapping[str, Any]
    power: float | None
    carbon_intensity: float | None
    carbon_region: str | None
    manifests: Sequence[ManifestPath]
    dataset_weights: tuple[float, ...] | None

    @classmethod
    def of(cls, config: TrainConfig) -> "Finish":
        """Make it from a run's settings."""
        return cls(
            out=Path(config.out),
            yes=config.yes,
            wise_ft=config.wise_ft,
            base=BaseModel.of(config),
            recipe=config.recipe,
            settings=config.as_dict(),
            power=config.power,
            carbon_intensity=config.carbon_intensity,
            carbon_region=config.carbon_region,
            manifests=config.manifests,
            dataset_weights=config.dataset_weights,
        )
