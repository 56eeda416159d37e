"""`clipsearch evaluate`: how good an encoder is, and whether it is better than another."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from clipsearch.cli.evaluate_encoder import run_encoder_evaluation
from clipsearch.cli.evaluate_index import run_index_evaluation
from clipsearch.cli.measuring_options import qrels_option, resamples_option
from clipsearch.cli.options import (
    NamedPath,
    column_options,
    device_option,
    images_option,
    json_option,
    optional_index_option,
    templates_option,
)
from finetune.errors import UsageError
from finetune.split_shares import DEFAULT_HOLD_OUT, DEFAULT_SHARES, shares_of

# Of `EvaluateOptions` alone, its arguments first; of both; and of an index alone.
ENCODER_OPTIONS = (
    "encoder", "manifest", "against", "in_batches", "in_file_order", "ks", "zero_shot",
    "templates", "workers", "batch_size", "strict", "split_shares", "hold_out",
    "image_column", "caption_columns", "id_column",
)  # fmt: skip
OF_BOTH = ("split", "images", "device")
OF_INDEX = ("captions_of", "queries", "qrels", "encoder_folder", "table", "page")


@click.command()
@click.argument("encoder", type=NamedPath(path_type=Path), required=False)
@click.argument("manifest", type=NamedPath(path_type=Path), required=False)
@optional_index_option
@click.option(
    "--manifest",
    "captions_of",
    metavar="MANIFEST",
    type=NamedPath(path_type=Path),
    help="With --index: ask the captions of this manifest, not those that the index holds.",
)
@click.option(
    "--queries",
    metavar="FILE",
    type=NamedPath(path_type=Path),
    help="With --index: ask these, with judgments: a CSV of query, id and grade; a folder like"
    " BEIR's; or topics with their --qrels.",
)
@qrels_option
@click.option(
    "--encoder",
    "encoder_folder",
    metavar="FOLDER",
    type=NamedPath(path_type=Path),
    help="With --index: the encoder's folder, if it has moved since the feed.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="test",
    show_default=True,
    help="Which part of the manifest, of the index's captions, or of BEIR's qrels.",
)
@click.option(
    "--against",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Another encoder folder (the one before fine-tuning, say): differences are ENCODER minus"
    " this, with interval and p value.",
)
@click.option(
    "--in-batches",
    metavar="N",
    type=click.IntRange(2),
    help="Also measure within batches of N pairs, as some papers do; much easier than globally.",
)
@click.option(
    "--in-file-order",
    is_flag=True,
    help="Make those batches as the pairs follow in MANIFEST, and count a last, smaller one; else"
    " they are drawn, and it is left out.",
)
@click.option(
    "--ks",
    metavar="N,N,…",
    callback=lambda _context, _parameter, text: _cutoffs(text),
    help="Figures at these cutoffs too, such as 3,20; those at 1, 5 and 10 are always there.",
)
@click.option(
    "--zero-shot",
    metavar="COLUMN|FILE|FOLDER",
    help="Also classify by prompts. Classes from a metadata column; from a CSV file with the"
    " columns image and class; from a list of classes, where folder or file names tell an image's"
    " class; or from a folder of lists of images, CLASS.txt.",
)
@templates_option
@click.option(
    "--predictions",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --zero-shot: write a row a picture, with the probability of every class (CSV).",
)
@images_option
@column_options
@resamples_option
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of resamples and batches.",
)
@click.option("--workers", metavar="N", type=int, help="Processes that decode; one a core.")
@click.option(
    "--batch-size", metavar="N", type=int, default=32, show_default=True, help="Images at once."
)
@device_option
@click.option(
    "--split-shares",
    metavar="TRAIN,VAL[,TEST]",
    default=",".join(map(str, DEFAULT_SHARES)),
    show_default=True,
    callback=lambda _context, _parameter, text: _shares(text),
    help="Where MANIFEST names no splits, as given to finetune.",
)
@click.option(
    "--hold-out",
    metavar="SHARE",
    type=float,
    default=DEFAULT_HOLD_OUT,
    show_default=True,
    help="Share of train that is the split val where MANIFEST has none, as given to finetune.",
)
@click.option("--strict", is_flag=True, help="Measure nothing if the manifest has any problem.")
@click.option(
    "--plots",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write plots of ranks and recall@k there; needs matplotlib.",
)
@click.option(
    "--sheet",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --against: write a contact sheet, .html or .png, of the captions that improved and"
    " got worse most, with the first results before and after.",
)
@click.option(
    "--csv",
    "table",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --index: write a row a query, with its rank in each mode.",
)
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --index: write a report, with the queries that each mode wins and loses.",
)
@json_option
@click.pass_context
def evaluate(context: click.Context, /, resamples: int, seed: int, **values: Any) -> int:
    """Measure how well ENCODER finds the pictures of MANIFEST by their captions.

    And captions by pictures: MRR, recall and nDCG, mean and median rank over the whole pool, with
    95 % bootstrap intervals. Images are resampled, each with all its captions. A caption that
    several images share is one query that any of them answers.

    With --index instead of ENCODER and MANIFEST: measure every mode of the index side by side, by
    judgments (--queries) or by its captions, each of which looks for its image without itself.

    \b
    Examples:
      clipsearch evaluate encoder photos.csv
      clipsearch evaluate encoder photos.csv --against encoder-before --sheet changes.html
      clipsearch evaluate encoder photos.csv --in-batches 64 --json
      clipsearch evaluate --index photos.index --html relevance.html
      clipsearch evaluate --index photos.index --queries judged.csv --csv queries.csv
      clipsearch evaluate encoder rsicd.json --zero-shot classes.txt \\
          --template "An aerial photograph of {category}"

    Exit code 3: done, but without some pictures or rows that cannot be used.
    """
    explicit = context.get_parameter_source("index") is not ParameterSource.ENVIRONMENT
    if values["index"] is not None and (explicit or values["encoder"] is None):
        return _of_index(context, resamples, seed, values)
    return _of_encoder(context, resamples, seed, values)


def _of_encoder(context: click.Context, resamples: int, seed: int, values: dict[str, Any]) -> int:
    from clipsearch.evaluation.evaluate import EvaluateOptions  # light path: NumPy, Pillow
    from finetune.evaluation.intervals import Sampling  # light path: NumPy

    if values["encoder"] is None or values["manifest"] is None:
        raise UsageError(
            "nothing to measure: give ENCODER and MANIFEST, or an index with --index TARGET"
        )
    _refuse(context, OF_INDEX, "measures an index: name one with --index, without ENCODER")
    if Path(values["encoder"]).is_file() and Path(values["manifest"]).is_dir():
        raise UsageError(
            f"{values['encoder']}: is a file; the encoder comes first: clipsearch evaluate"
            f" {values['manifest']} {values['encoder']}"
        )
    # light path: onnxruntime
    from clipsearch.hub.fetching import encoder_folder

    for name in ("encoder", "against"):
        values[name] = None if values[name] is None else encoder_folder(values[name])
    names = [*ENCODER_OPTIONS, *OF_BOTH]
    options = EvaluateOptions(
        sampling=Sampling(resamples=resamples, seed=seed), **{name: values[name] for name in names}
    )
    return run_encoder_evaluation(
        options,
        as_json=values["as_json"],
        plots=values["plots"],
        sheet=values["sheet"],
        predictions=values["predictions"],
    )


def _of_index(context: click.Context, resamples: int, seed: int, values: dict[str, Any]) -> int:
    # Light path: NumPy, Pillow and the engines.
    from clipsearch.relevance.evaluation import IndexEvaluateOptions
    from clipsearch.relevance.sources import QuerySource
    from finetune.evaluation.intervals import Sampling

    if values["encoder"] is not None:
        raise UsageError(
            f"{values['encoder']} and --index {values['index']}: an encoder is measured on a"
            f" manifest, or an index by itself; give one of them (an index's encoder that has"
            f" moved: --encoder FOLDER)"
        )
    _refuse(
        context,
        (*ENCODER_OPTIONS[2:], "sheet", "predictions"),
        "measures an encoder: leave it out, or give ENCODER and MANIFEST instead of --index",
    )
    options = IndexEvaluateOptions(
        index=values["index"],
        source=QuerySource(
            queries=values["queries"],
            qrels=values["qrels"],
            manifest=values["captions_of"],
            images=values["images"],
            split=values["split"],
        ),
        encoder=values["encoder_folder"],
        device=values["device"],
        sampling=Sampling(resamples=resamples, seed=seed),
    )
    return run_index_evaluation(
        options,
        as_json=values["as_json"],
        table=values["table"],
        plots=values["plots"],
        page=values["page"],
        images=values["images"],
    )


def _refuse(context: click.Context, names: Iterable[str], why: str) -> None:
    """Raise UsageError where one of these options was given."""
    for parameter in context.command.params:
        if (
            parameter.name in names
            and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
        ):
            raise UsageError(f"{parameter.opts[0]} {why}")


def _shares(text: str) -> tuple[float, ...]:
    """Return the numbers of "0.9,0.1". Raises UsageError for what is none."""
    try:
        return shares_of([float(part) for part in text.split(",")])
    except ValueError:
        raise UsageError(f"--split-shares {text}: write numbers, such as 0.9,0.1") from None


def _cutoffs(text: str | None) -> tuple[int, ...]:
    """Return the numbers of "1,3,20". Raises UsageError for what is none."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal() or not 1 <= len(part) <= 6 or int(part) < 1:
            raise UsageError(f"--ks {text}: {part or 'an empty part'} is no cutoff; write 1,3,20")
    return tuple(int(part) for part in parts)
