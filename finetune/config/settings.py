"""Every setting of a training run; `finetune.training.checks` says which values can work together.

Imports without torch.
"""
# ruff: noqa: RUF009  # what these calls give is a field

from dataclasses import MISSING, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from finetune.config.batch_plan import BatchPlan
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.card_settings import CardSettings
from finetune.config.evaluation_settings import EvaluationSettings
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.setting import Group, describe, option_of, plain, setting, settings_of
from finetune.frames import DataFrame, FrameManifest, ManifestPath, as_manifest
from finetune.images.preprocessing import Transparency
from finetune.losses import LOSSES, MAX_LOGIT_SCALE, OPTIONS, losses_with
from finetune.optimization.optimizers import OPTIMIZERS
from finetune.optimization.precisions import PRECISIONS
from finetune.optimization.schedules import SCHEDULE_OPTIONS, SCHEDULES, schedules_with
from finetune.ranges import Range
from finetune.several import is_one_text
from finetune.towers import AUTO_DEVICE, DEVICE_FORMS, TOWERS
from finetune.trackers import TRACKERS

TINY = "tiny"
DEFAULT_LEARNING_RATE = 1e-5
# A model that starts from random weights has further to go.
DEFAULT_LEARNING_RATE_TINY = 1e-3

# Of torch.compile.
CUDA_GRAPHS = "reduce-overhead"
COMPILE_MODES = ("default", CUDA_GRAPHS)

PathLike = str | Path

in_model = partial(setting, Group.MODEL)
in_batches = partial(setting, Group.BATCHES)
in_optimization = partial(setting, Group.OPTIMIZATION)
in_freezing = partial(setting, Group.FREEZING)
in_augmentation = partial(setting, Group.AUGMENTATION)
in_trackers = partial(setting, Group.TRACKERS)
in_run = partial(setting, Group.RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(EvaluationSettings, CardSettings):
    """What one training run does; every field is an option of `clipsearch finetune`.

    None takes what the help says, or leaves the thing out.
    """

    manifest: PathLike | DataFrame | FrameManifest = in_model(
        MISSING,
        "Captioned images, in any format of `finetune.manifest`, or a pandas DataFrame of them. An"
        " equal DataFrame goes on with an interrupted run; its relative image paths are meant from"
        " the current folder.",
        flag="",
    )
    model: str = in_model(
        MISSING,
        "A Hugging Face id, a folder (also an OpenCLIP checkpoint or an encoder), or tiny, a small"
        " CLIP from scratch.",
        metavar="ID|FOLDER|tiny",
    )
    out: PathLike = in_model(
        "encoder", "The encoder folder to write.", metavar="FOLDER", operational=True
    )
    more_manifests: tuple[PathLike | DataFrame | FrameManifest, ...] = in_model(
        (), "Trained on together with the first.", flag=""
    )
    text_model: str | None = in_model(
        None,
        "Take only the image tower of --model, and this text model, such as roberta-base; the"
        " projections start from scratch.",
        metavar="ID|FOLDER",
    )
    recipe: str | None = in_model(
        None,
        "Name of the recipe that these settings came from, for the model card.",
        flag="",
        operational=True,
    )
    images: PathLike | None = in_model(
        None, "Look for relative image paths here too.", metavar="FOLDER"
    )
    image_column: str | None = in_model(
        None,
        "The table's column of image paths.",
        otherwise="by its name: image, file_name, filename, path …",
        metavar="COLUMN",
    )
    caption_column: tuple[str, ...] = in_model(
        (),
        "A column of captions; give it several times.  [default: by its name: caption, text, title,"
        " description …]",
        metavar="COLUMN",
        repeated=True,
    )
    id_column: str | None = in_model(None, "The column of ids.", otherwise="id", metavar="COLUMN")

    epochs: int = in_batches(10, "Times that every training image is seen.", least=1)
    # batches differ in size by one at most
    batch_size: int = in_batches(64, "Images in a batch, at most.", least=2)
    samples_per_epoch: int | None = in_batches(
        None, "A fresh random choice of so many images each epoch.", otherwise="all"
    )
    last_batch: str = in_batches(
        "even",
        "Where the batch size does not divide an epoch: make all batches a little smaller (even),"
        " or only the last one (short), or leave that out (dropped).",
        choices=BatchPlan.LAST_BATCHES,
    )
    captions: str = in_batches(
        "sampled",
        "Of an image's captions show one an epoch (sampled), or every one (all).",
        choices=BatchPlan.CAPTIONS,
    )
    dataset_weights: tuple[float, ...] | None = in_batches(
        None,
        "Share of each MANIFEST in an epoch, such as 2,1,1.",
        otherwise="as large as they are",
        metavar="W,W,…",
    )
    hard_negatives: int = in_batches(
        0, "Make batches of groups of so many near neighbours, by the epoch before; 0 is at random."
    )

    loss: str = in_optimization(
        "contrastive",
        "; ".join(f"{name} is {kind.whose}" for name, kind in LOSSES.items()) + ".",
        choices=LOSSES,
    )
    max_logit_scale: float = in_optimization(
        MAX_LOGIT_SCALE,
        "Keep the factor on cosines between 1 and this after each step, of the"
        f" {losses_with('max_logit_scale')} loss; 0 keeps it in no bounds.",
        range=OPTIONS["max_logit_scale"].range,
    )
    label_smoothing: float = in_optimization(
        0.0,
        f"Of the {losses_with('label_smoothing')} loss.",
        range=OPTIONS["label_smoothing"].range,
    )
    hard_negative_beta: float = in_optimization(
        0.0,
        f"Weight on hard negatives, of the {losses_with('hard_negative_beta')} loss.",
        range=OPTIONS["hard_negative_beta"].range,
    )
    chunk_size: int | None = in_batches(
        None,
        "Hold the activations of so many pairs at a time (GradCache): the whole batch's gradients"
        " in little memory, for a third more time.",
        least=1,
    )
    accumulate_separate_batches: int = in_batches(
        1,
        "Add up the gradients of so many batches for a step. They do not see each other's"
        " negatives; for that take a larger --batch-size with --chunk-size.",
        least=1,
    )
    gradient_checkpointing: bool = in_batches(
        False, "Recompute activations instead of keeping them."
    )
    compile: bool = in_batches(False, "torch.compile the layers of the towers.", operational=True)
    compile_mode: str = in_batches(
        "default",
        f"With --compile: {CUDA_GRAPHS} replays a layer's kernels as CUDA graphs, for small models"
        " on a GPU; it takes more memory.",
        choices=COMPILE_MODES,
        operational=True,
    )

    optimizer: str = in_optimization("adamw", "What takes the steps.", choices=OPTIMIZERS)
    learning_rate: float | None = in_optimization(
        None, "After warm-up.", otherwise="1e-5, or 1e-3 for a model from scratch", above=0
    )
    vision_learning_rate: float | None = in_optimization(
        None, "Of the image tower, where it is another.", above=0
    )
    text_learning_rate: float | None = in_optimization(
        None, "Of the text tower, where it is another.", above=0
    )
    layer_decay: float = in_optimization(
        1.0, "Each layer learns at so many times the rate above it.", above=0, most=1
    )
    weight_decay: float = in_optimization(0.1, "On matrices only.", least=0)
    beta1: float = in_optimization(0.9, "Of AdamW and Adam.", least=0, below=1)
    beta2: float = in_optimization(0.98, "Of AdamW and Adam.", least=0, below=1)
    eps: float = in_optimization(1e-6, "Of AdamW and Adam.", above=0)
    warmup: float = in_optimization(
        0.1, "Steps over which the rate rises; below 1, their share.", least=0
    )
    schedule: str = in_optimization("cosine", "The learning rate after warm-up.", choices=SCHEDULES)
    cycles: int = in_optimization(
        SCHEDULE_OPTIONS["cycles"], f"Of {schedules_with('cycles')}.", least=1
    )
    precision: str = in_optimization(
        "auto", "auto is bf16 where CUDA has it, else fp32; fp16 needs CUDA.", choices=PRECISIONS
    )
    max_grad_norm: float = in_optimization(
        1.0, "Clip gradients to this norm; 0 clips nothing.", least=0
    )
    ema: float | None = in_optimization(
        None, "Evaluate and export an average of the weights, of this decay.", above=0, below=1
    )
    wise_ft: float | None = in_optimization(
        None,
        "Export weights between the base model's (0) and the fine-tuned ones (1).",
        range=Range(least=0, most=1, words="0 (the base model) to 1 (the fine-tuned one)"),
        operational=True,
    )

    freeze: tuple[str, ...] = in_freezing(
        (), "A tower that does not learn.", metavar="image|text", choices=TOWERS
    )
    train_last_image_layers: int | None = in_freezing(
        None, "So many layers of the image tower learn.", least=0
    )
    train_last_text_layers: int | None = in_freezing(
        None, "So many layers of the text tower learn.", least=0
    )
    lora: int | None = in_freezing(None, "Train adapters of this rank, merged on export.", least=1)
    lora_alpha: float | None = in_freezing(
        None, "Scale of the adapters.", otherwise="twice the rank", above=0
    )
    lora_dropout: float = in_freezing(0.0, "On the adapters' input.", least=0, below=1)
    lora_towers: tuple[str, ...] = in_freezing(
        TOWERS, "Towers with adapters.", metavar="image,text", choices=TOWERS
    )

    augment: AugmentConfig = in_augmentation(
        AugmentConfig(),
        "Vary training pictures; give it several times: horizontal_flip=0.5, vertical_flip=0.5,"
        " random_crop=0.8, resized_crop_scale=0.8,1, resized_crop_ratio=0.75,1.33, rotation=15,"
        " crop_before_resizing=true (crop originals, decoded anew each epoch),"
        " random_crop_pixels=179 (of originals), interpolation=bicubic,"
        " color_jitter=0.2,0.2,0.1,0 (brightness, contrast, saturation, hue), color_jitter_p=0.7,"
        " grayscale=0.2. Flips contradict captions that say left or right.",
        metavar="NAME=VALUE",
        repeated=True,
    )
    caption_augment: CaptionAugmentConfig = in_augmentation(
        CaptionAugmentConfig(), "How training captions are varied.", flag=""
    )
    back_translate: str | None = in_augmentation(
        None,
        "Add captions by translating each into these languages and back, with MarianMT models of"
        " the Hugging Face hub; fr=MODEL_EN_FR:MODEL_FR_EN names other models or folders, also of"
        " many languages.",
        metavar="fr,de,es",
    )
    back_translate_duplicates: bool = in_augmentation(
        False,
        "Translate only captions that an image has more than once: one stays, and by the first"
        " languages the others become translations.",
    )
    back_translation_cache: PathLike | None = in_augmentation(
        None,
        "Where translations are kept.",
        otherwise="in the user's cache folder",
        metavar="FILE",
        operational=True,
    )

    trackers: tuple[str, ...] = in_trackers(
        (), f"Also report to {', '.join(TRACKERS)}.", metavar="NAME,NAME,…", operational=True
    )
    project: str | None = in_trackers(
        None, "For the trackers.", otherwise="clipsearch", operational=True
    )
    run_name: str | None = in_trackers(
        None, "For the trackers.", otherwise="the name of --out", operational=True
    )

    transparency: str | None = in_model(
        None,
        "What an image's transparent pixels show: white behind them, as in transformers, or with"
        " alpha dropped, as in OpenCLIP, the colour that the file has there.",
        otherwise="the model's, else white",
        choices=get_args(Transparency),
    )
    max_tokens: int | None = in_model(
        None, "Cut longer captions.", otherwise="the model's limit", least=3
    )
    seed: int = in_run(0, "Of weights, batches and sampled captions.", least=0)
    device: str = in_run(AUTO_DEVICE, "Where to train.", metavar=DEVICE_FORMS)
    threads: int | None = in_run(
        None,
        "Of torch on the CPU.",
        otherwise="1 for tiny, else torch's own",
        least=1,
        operational=True,
    )
    workers: int | None = in_run(
        None,
        "Processes that decode pictures; 0 uses none.",
        otherwise="as many as the job is worth",
        least=0,
        operational=True,
    )
    cache_images: int | str = in_run(
        "auto",
        "Keep decoded pictures in memory: auto (up to half of what is free), so many megabytes,"
        " or off (decode again every epoch). What does not fit goes to a file beside --out.",
        metavar="auto|off|MB",
        choices=("auto", "off"),
        number="a number of megabytes",
        least=0,
        operational=True,
    )
    checkpoint_minutes: float = in_run(
        5.0, "Between two checkpoints; 0 writes one each step.", least=0, operational=True
    )
    keep_checkpoints: bool = in_run(
        False, "Keep the folder FOLDER.training when all is done.", operational=True
    )
    overwrite: bool = in_run(False, "Replace a finished encoder in --out.", operational=True)
    yes: bool = in_run(
        False,
        "With --overwrite: also an encoder of an earlier version, which has no list of its files.",
        operational=True,
    )
    restart: bool = in_run(
        False, "Throw an interrupted run's checkpoint away and start anew.", operational=True
    )
    strict: bool = in_run(
        False, "Treat any problem of the manifest or its pictures as an error.", operational=True
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", as_manifest(self.manifest))
        if not is_one_text(self.more_manifests):
            more = tuple(map(as_manifest, self.more_manifests))
            object.__setattr__(self, "more_manifests", more)

    @property
    def manifests(self) -> tuple[ManifestPath, ...]:
        """All of them."""
        return tuple(map(as_manifest, (self.manifest, *self.more_manifests)))

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
            last_batch=self.last_batch,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by group as JSON and YAML hold them: paths as text, tuples as lists."""
        return {name: plain(getattr(self, name)) for name in SETTINGS}

    def with_absolute_paths(self) -> "TrainConfig":
        """Return the same run, wherever it is called from."""
        images = None if self.images is None else Path(self.images).absolute()
        absolute = tuple(
            each if isinstance(each, FrameManifest) else Path(each).absolute()
            for each in self.manifests
        )
        return replace(
            self,
            manifest=absolute[0],
            more_manifests=absolute[1:],
            out=Path(self.out).absolute(),
            images=images,
        )


describe(TrainConfig)

SETTINGS = settings_of(TrainConfig)


def option(name: str) -> str:
    """Return a field's name on the command line."""
    return "the manifest" if "manifest" in name else option_of(name, SETTINGS[name])
