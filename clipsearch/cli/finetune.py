"""`clipsearch finetune`: train an encoder on one's own captions."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.options import json_option
from finetune.config import PRECISIONS, SCHEDULES, TrainConfig

if TYPE_CHECKING:
    from finetune.trainer import Result

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULTS = {item.name: item.default for item in fields(TrainConfig)}


def setting(name: str, help: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option that is the field `name` of TrainConfig, with the field's default."""
    default = DEFAULTS[name]
    if default is False:
        attributes["is_flag"] = True
    elif default is not None:
        attributes.setdefault("show_default", True)
    flag = "--" + name.replace("_", "-")
    return click.option(flag, name, default=default, help=help, **attributes)


@click.command(short_help="Train an encoder on your own captions.")
@click.argument("manifest")
@click.option(
    "--model",
    required=True,
    metavar="ID_OR_FOLDER|tiny",
    help="A Hugging Face id or folder of a CLIP checkpoint; tiny is a small CLIP from scratch.",
)
@click.option("--out", required=True, metavar="FOLDER", help="The encoder folder to write.")
@setting("images", "Look for relative image paths here too.", metavar="DIR")
@setting("epochs", "Times that every training image is seen.", type=int)
@setting("batch_size", "Images in a batch, at most.", type=int)
@setting(
    "learning_rate",
    "After warm-up.  [default: 1e-5, or 1e-3 for a model from scratch]",
    type=float,
)
@setting("weight_decay", "Of AdamW, on matrices only.", type=float)
@setting("beta1", "Of AdamW.", type=float)
@setting("beta2", "Of AdamW.", type=float)
@setting("eps", "Of AdamW.", type=float)
@setting("warmup", "Steps over which the learning rate rises; below 1, their share.", type=float)
@setting("schedule", "The learning rate after warm-up.", type=click.Choice(SCHEDULES))
@setting(
    "precision",
    "auto is bf16 where CUDA has it, else fp32; fp16 needs CUDA.",
    type=click.Choice(PRECISIONS),
)
@setting("max_grad_norm", "Clip gradients to this norm; 0 clips nothing.", type=float)
@setting("eval_every", "Rank the validation pool after each epoch, every N steps, or never.",
         metavar="epoch|N|never")  # fmt: skip
@setting(
    "patience",
    "Stop after so many evaluations without a better MRR@10; 0 never stops early."
    "  [default: 5, or 0 where nothing is evaluated]",
    type=int,
)
@setting("min_delta", "What MRR@10 must gain to count as better for --patience.", type=float)
@setting("max_tokens", "Cut longer captions.  [default: the model's limit]", type=int)
@setting("seed", "Of weights, batches and sampled captions.", type=int)
@setting("device", "Where to train.", metavar="auto|cpu|cuda|cuda:N")
@setting("threads", "Of torch on the CPU.  [default: 1 for tiny, else torch's own]", type=int)
@setting(
    "workers",
    "Processes that decode pictures; 0 uses none.  [default: as many as the job is worth]",
    type=int,
)
@setting(
    "cache_images",
    "Keep decoded pictures in memory: auto (up to half of what is free), so many megabytes,"
    " or off (decode again every epoch). What does not fit goes to a file beside --out.",
    metavar="auto|off|MB",
)
@setting("checkpoint_minutes", "Between two checkpoints; 0 writes one each step.", type=float)
@setting("keep_checkpoints", "Keep the folder FOLDER.training when all is done.")
@setting("overwrite", "Replace a finished encoder in --out.")
@setting("restart", "Throw an interrupted run's checkpoint away and start anew.")
@json_option
@setting("strict", "Treat any problem of the manifest or its pictures as an error.")
def finetune(as_json: bool, **options: Any) -> int:
    """Train a CLIP on the images and captions of MANIFEST and write an encoder folder.

    Images of the split train are learned from. After every epoch all images of the split val
    are ranked for each of their captions (MRR@10 over the whole pool); training stops when that
    no longer improves, and the best weights are written.

    Checkpoints lie in FOLDER.training until the encoder is finished: after a crash, a kill or
    Ctrl-C the same command goes on where it was, to the same numbers.

    \b
    Examples:
      clipsearch finetune photos.csv --model openai/clip-vit-base-patch32 --out encoder
      clipsearch finetune photos.csv --model encoder --out better --learning-rate 5e-6
      clipsearch finetune photos.csv --model tiny --out encoder --epochs 20 --batch-size 128

    \b
    Exit codes: 0 done, 3 done but some rows or pictures could not be used (FOLDER/rejected.csv
    names them), 130 stopped by Ctrl-C.
    """
    config = TrainConfig(**options)
    config.check()
    # Takes seconds to import: --help and a wrong option must not wait for it.
    from finetune.trainer import train

    result = train(config)
    if as_json:
        click.echo(json.dumps(asdict(result), default=str, indent=2))
    else:
        _print(result)
    return EXIT_SOME_REJECTED if result.rejected else 0


def _print(result: "Result") -> None:
    for when, metrics in (("before", result.baseline), ("after", result.metrics)):
        for direction, figures in metrics.items():
            click.echo(
                f"{when:<8}{direction}  MRR@10 {figures['mrr@10']:.3f}"
                f"  recall@1 {figures['recall@1']:.3f}  recall@10 {figures['recall@10']:.3f}"
                f"  ({figures['scope']}, pool of {figures['pool']:,},"
                f" {figures['queries']:,} queries)"
            )
    if result.stopped_early:
        click.echo(
            f"Stopped early after step {result.steps:,}; step {result.best_step:,} was best."
        )
    if result.metrics and result.best_step == 0:
        click.echo("No step was better than the model that training started from; that is kept.")
    click.echo(f"Encoder: {result.out}")
    if result.rejected:
        click.echo(
            f"{result.rejected:,} rows or pictures could not be used:"
            f" see {result.out / 'rejected.csv'}"
        )
