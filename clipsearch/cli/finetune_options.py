"""The options of `clipsearch finetune`: one for each field of TrainConfig."""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import click

from finetune.batch_plan import BatchPlan
from finetune.config import TrainConfig
from finetune.config_mapping import NONE
from finetune.losses import LOSSES
from finetune.optimization.optimizers import OPTIMIZERS
from finetune.optimization.precisions import PRECISIONS
from finetune.optimization.schedules import SCHEDULES
from finetune.trackers import TRACKERS

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULTS = {
    item.name: None if item.default is MISSING else item.default for item in fields(TrainConfig)
}
HINTS = get_type_hints(TrainConfig)


class OrNone(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """What the type takes, or "none"."""

    def __init__(self, type: type[int] | type[float]) -> None:
        self._type = click.types.convert_type(type)
        self.name = self._type.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text "none" stays."""
        return value if value == NONE else self._type.convert(value, param, ctx)


def setting(name: str, help: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option that is the field `name` of TrainConfig.

    Where it is not given it is None, so that a recipe's value can stand; the help tells the
    field's own default. "none" takes a recipe's value away where the field may be None.
    """
    default = DEFAULTS[name]
    flag = "--" + name.replace("_", "-")
    if default is False:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help, **attributes)
    if NoneType in get_args(HINTS[name]) and attributes.get("type") in (int, float):
        attributes["type"] = OrNone(attributes["type"])
    if default is not None and default != () and "[default:" not in help:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help}  [default: {shown}]"
    return click.option(flag, name, default=None, help=help, **attributes)


def settings(groups: Iterable[Callable[[Any], Any]]) -> Callable[[Command], Command]:
    """All these options, in this order in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(list(groups)):
            command = option(command)
        return command

    return decorate


MODEL = (
    setting(
        "model",
        "A Hugging Face id, a folder (also an OpenCLIP checkpoint or an encoder), or tiny, a small"
        " CLIP from scratch.",
        metavar="ID|FOLDER|tiny",
    ),
    setting(
        "text_model",
        "Take only the image tower of --model, and this text model, such as roberta-base; the"
        " projections start from scratch.",
        metavar="ID|FOLDER",
    ),
    setting("out", "The encoder folder to write.", metavar="FOLDER"),
    setting("images", "Look for relative image paths here too.", metavar="DIR"),
    setting("max_tokens", "Cut longer captions.  [default: the model's limit]", type=int),
)

BATCHES = (
    setting("epochs", "Times that every training image is seen.", type=int),
    setting("batch_size", "Images in a batch, at most.", type=int),
    setting(
        "samples_per_epoch",
        "A fresh random choice of so many images each epoch.  [default: all]",
        type=int,
    ),
    setting(
        "captions",
        "Of an image's captions show one an epoch (sampled), or every one (all).",
        type=click.Choice(BatchPlan.CAPTIONS),
    ),
    setting(
        "dataset_weights",
        "Share of each MANIFEST in an epoch, such as 2,1,1.  [default: as large as they are]",
        metavar="W,W,…",
    ),
    setting(
        "hard_negatives",
        "Make batches of groups of so many near neighbours, by the epoch before; 0 is at random.",
        type=int,
    ),
    setting(
        "chunk_size",
        "Hold the activations of so many pairs at a time (GradCache): the whole batch's gradients"
        " in little memory, for a third more time.",
        type=int,
    ),
    setting(
        "accumulate_separate_batches",
        "Add up the gradients of so many batches for a step. They do not see each other's"
        " negatives; for that take a larger --batch-size with --chunk-size.",
        type=int,
    ),
    setting("gradient_checkpointing", "Recompute activations instead of keeping them."),
    setting("compile", "torch.compile the layers of the towers."),
)

OPTIMIZATION = (
    setting("loss", "contrastive is CLIP's, sigmoid SigLIP's.", type=click.Choice(tuple(LOSSES))),
    setting("label_smoothing", "Of the contrastive loss.", type=float),
    setting("hard_negative_beta", "Weight on hard negatives, of the contrastive loss.", type=float),
    setting("optimizer", "What takes the steps.", type=click.Choice(tuple(OPTIMIZERS))),
    setting(
        "learning_rate",
        "After warm-up.  [default: 1e-5, or 1e-3 for a model from scratch]",
        type=float,
    ),
    setting("vision_learning_rate", "Of the image tower, where it is another.", type=float),
    setting("text_learning_rate", "Of the text tower, where it is another.", type=float),
    setting("layer_decay", "Each layer learns at so many times the rate above it.", type=float),
    setting("weight_decay", "On matrices only.", type=float),
    setting("beta1", "Of AdamW and Adam.", type=float),
    setting("beta2", "Of AdamW and Adam.", type=float),
    setting("eps", "Of AdamW and Adam.", type=float),
    setting("warmup", "Steps over which the rate rises; below 1, their share.", type=float),
    setting("schedule", "The learning rate after warm-up.", type=click.Choice(tuple(SCHEDULES))),
    setting("cycles", "Of cosine-restarts.", type=int),
    setting(
        "precision",
        "auto is bf16 where CUDA has it, else fp32; fp16 needs CUDA.",
        type=click.Choice(PRECISIONS),
    ),
    setting("max_grad_norm", "Clip gradients to this norm; 0 clips nothing.", type=float),
    setting("ema", "Evaluate and export an average of the weights, of this decay.", type=float),
    setting(
        "wise_ft",
        "Export weights between the base model's (0) and the fine-tuned ones (1).",
        type=float,
    ),
)

FREEZING = (
    setting("freeze", "A tower that does not learn.", metavar="image|text"),
    setting("train_last_image_layers", "So many layers of the image tower learn.", type=int),
    setting("train_last_text_layers", "So many layers of the text tower learn.", type=int),
    setting("lora", "Train adapters of this rank, merged on export.", type=int),
    setting("lora_alpha", "Scale of the adapters.  [default: twice the rank]", type=float),
    setting("lora_dropout", "On the adapters' input.", type=float),
    setting("lora_towers", "Towers with adapters.", metavar="image,text"),
)

AUGMENTATION = (
    click.option(
        "--augment",
        multiple=True,
        metavar="NAME=VALUE",
        help="Vary training pictures; give it several times: horizontal_flip=0.5,"
        " vertical_flip=0.5, random_crop=0.8, resized_crop_scale=0.8,1,"
        " resized_crop_ratio=0.75,1.33, rotation=15, color_jitter=0.2,0.2,0.1,0 (brightness,"
        " contrast, saturation, hue), color_jitter_p=0.7, grayscale=0.2. Flips contradict captions"
        " that say left or right.",
    ),
    click.option("--word-drop", type=float, help="Chance that a training caption loses each word."),
    click.option(
        "--caption-case",
        type=float,
        help="Chance that a training caption is shown in another case; CLIP's tokenizer ignores"
        " it.",
    ),
    click.option(
        "--caption-punctuation",
        type=float,
        help="Chance that a training caption is shown with other punctuation.",
    ),
    setting(
        "back_translate",
        "Add captions by translating each into these languages and back, with MarianMT models of"
        " the Hugging Face hub; fr=MODEL_EN_FR:MODEL_FR_EN names other models or folders.",
        metavar="fr,de,es",
    ),
    setting(
        "back_translation_cache",
        "Where translations are kept.  [default: in the user's cache folder]",
        metavar="FILE",
    ),
)

EVALUATION = (
    setting(
        "eval_every",
        "Rank the validation pool after each epoch, every N steps, or never.",
        metavar="epoch|N|never",
    ),
    setting(
        "metric",
        "What is best: t2i_ or i2t_ with mrr@1, mrr@5, mrr@10, recall@1, recall@5, recall@10,"
        " ndcg@10, mean_rank or median_rank; val_loss; hits@1, hits@3, hits@5 or hits@10 of"
        " classes.",
    ),
    setting(
        "patience",
        "Stop after so many evaluations without a better metric; 0 never stops early."
        "  [default: 5, or 0 where nothing is evaluated]",
        type=int,
    ),
    setting("min_delta", "What the metric must gain to count for --patience.", type=float),
    setting("keep_best", "Keep the best so many; all but the best go to FOLDER.step-N.", type=int),
    setting(
        "zero_shot_classes",
        "Evaluate the choice among classes too: the column or file that names each image's.",
        metavar="COLUMN|FILE",
    ),
    setting(
        "zero_shot_template",
        "A prompt for a class; give it several times.  [default: a photo of a {category}]",
        multiple=True,
    ),
    setting("batches_of", "Report figures within batches of N too, as papers do.", type=int),
)

RUN = (
    setting("trackers", f"Also report to {', '.join(TRACKERS)}.", metavar="NAME,NAME,…"),
    setting("project", "For the trackers.  [default: clipsearch]"),
    setting("run_name", "For the trackers.  [default: the name of --out]"),
    setting("seed", "Of weights, batches and sampled captions.", type=int),
    setting("device", "Where to train.", metavar="auto|cpu|cuda|cuda:N"),
    setting("threads", "Of torch on the CPU.  [default: 1 for tiny, else torch's own]", type=int),
    setting(
        "workers",
        "Processes that decode pictures; 0 uses none.  [default: as many as the job is worth]",
        type=int,
    ),
    setting(
        "cache_images",
        "Keep decoded pictures in memory: auto (up to half of what is free), so many megabytes,"
        " or off (decode again every epoch). What does not fit goes to a file beside --out.",
        metavar="auto|off|MB",
    ),
    setting("checkpoint_minutes", "Between two checkpoints; 0 writes one each step.", type=float),
    setting("keep_checkpoints", "Keep the folder FOLDER.training when all is done."),
    setting("overwrite", "Replace a finished encoder in --out."),
    setting(
        "yes",
        "With --overwrite: also an encoder of an earlier version, which has no list of its files.",
    ),
    setting("restart", "Throw an interrupted run's checkpoint away and start anew."),
    setting("strict", "Treat any problem of the manifest or its pictures as an error."),
)

ALL = (*MODEL, *BATCHES, *OPTIMIZATION, *FREEZING, *AUGMENTATION, *EVALUATION, *RUN)
