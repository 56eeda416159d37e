"""`clipsearch manifest check`: what a manifest holds and what is wrong with it."""

import textwrap
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.options import (
    NamedPath,
    added_columns_options,
    column_options,
    exclude_option,
    images_option,
    json_option,
)
from clipsearch.cli.settings_file import is_typed
from clipsearch.encoder.caption_tokens import tokenizer_of_encoder, tokenizer_of_model
from finetune.errors import ManifestError, UsageError
from finetune.files.outputs import is_report
from finetune.manifest.added_columns import FOLDER_TAG, AddedColumns, FolderTags
from finetune.manifest.check import MOST_CAPTIONS_COUNTED, ManifestSummary, Spread, check_manifest
from finetune.manifest.cut_captions import CutCaptions
from finetune.manifest.formats.columns import ColumnNames
from finetune.manifest.formats.known import IN_FILES
from finetune.manifest.inputs import check_output
from finetune.manifest.manifest import Manifest
from finetune.manifest.problems import HEADER, Problems
from finetune.text.strict_json import dumps


def formats_shown(width: int = 78) -> str:
    """Return the formats of a manifest as `--help` shows them: a title, and what it looks like."""
    lines = ["\b", "Formats, recognised by content:"]
    for each in IN_FILES:
        lines += [f"  {each.title}", *_wrapped(each.looks.replace("`", ""), width)]
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")


@click.group(help=f"Look into a manifest: the list of images and captions.\n\n{formats_shown()}")
def manifest() -> None:
    """Group the commands about manifests."""


@manifest.command()
@click.argument("path", type=NamedPath())
@images_option
@click.option("--decode", is_flag=True, help="Decode every image in full, not its header alone.")
@click.option("--strict", is_flag=True, help="Treat any problem as an error: exit code 1.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write every problem and note to a CSV file: kind, where, reason.",
)
@click.option(
    "--encoder",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Count the captions that this encoder folder's text tower cuts, and at how many tokens.",
)
@click.option(
    "--model",
    metavar="ID|FOLDER",
    help="The same for a model before fine-tuning, as finetune --model takes it.",
)
@column_options
@added_columns_options(remembered=False)
@exclude_option(remembered=False)
@json_option
def check(
    path: str,
    images: Path | None,
    decode: bool,
    strict: bool,
    report: Path | None,
    encoder: Path | None,
    model: str | None,
    image_column: str | None,
    caption_columns: tuple[str, ...],
    id_column: str | None,
    folder_tags: FolderTags | None,
    exif: bool | None,
    exclude: tuple[str, ...],
    no_exclude: bool,
    as_json: bool,
) -> int:
    """Read the manifest PATH and its images, and tell what is wrong.

    Counts, captions an image, image sizes, rows that are not UTF-8, images of equal content, and
    the first offenders of each kind, and the columns that a feed with the same options makes. Exit
    code 3 where there are problems.

    \b
    Examples:
      clipsearch manifest check photos.csv
      clipsearch manifest check ~/Pictures --exif --exclude "*.svg"
      clipsearch manifest check dataset_rsicd.json --images RSICD_images --report problems.csv
      clipsearch manifest check "shards/{000..012}.tar" --decode --json
      clipsearch manifest check photos.csv --model openai/clip-vit-base-patch32
    """
    if report is not None:
        check_output(report, f"--report {report}", is_report(",".join(HEADER)), [path])
    if model is not None and not is_typed("encoder"):
        encoder = None
    if encoder is not None and model is not None:
        raise UsageError("--encoder and --model both name a text tower: give one of them")
    names = ColumnNames(image_column, caption_columns, id_column)
    added = AddedColumns(folder_tags or FOLDER_TAG.folders, exif=bool(exif))
    left_out = () if no_exclude else exclude
    with Manifest.open(path, images=images, columns=names, added=added, exclude=left_out) as opened:
        tokenizer = None
        if encoder is not None:
            tokenizer = tokenizer_of_encoder(encoder)
        elif model is not None:
            texts = [text for record in opened.records("train") for text in record.captions]
            tokenizer = tokenizer_of_model(model, texts)
        summary = check_manifest(opened, decode=decode, tokenizer=tokenizer)
        if report is not None:
            _write_report(opened.problems, report)
        if as_json:
            examples = [
                {"kind": each.kind, "where": each.where, "reason": each.reason}
                for each in opened.problems.examples
            ]
            answer = {**summary.as_dict(), "examples": examples}
            click.echo(dumps(answer, indent=2))
        else:
            _print(summary, opened.problems)
        if strict and len(opened.problems):
            raise ManifestError(f"{path}: {opened.problems.summary()} (strict)")
        return EXIT_SOME_REJECTED if len(opened.problems) else 0


def _write_report(problems: Problems, report: Path) -> None:
    try:
        problems.write(report)
    except OSError as error:
        raise ManifestError(f"{report}: the report cannot be written: {error.strerror}") from error


def _print(summary: ManifestSummary, problems: Problems) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in _lines(summary):
        table.add_row(name, escape(value))
    console.print(table)
    if problems.examples:
        console.print()
        offenders = Table("kind", "where", "reason", box=None, pad_edge=False)
        for each in problems.examples:
            offenders.add_row(each.kind, escape(each.where), escape(each.reason))
        console.print(offenders)
    console.print()
    console.print(escape(problems.summary()))


def _lines(summary: ManifestSummary) -> list[tuple[str, str]]:
    counts = summary.images_with_captions
    captions = ", ".join(
        f"{count:,} with {number}{'+' if number == MOST_CAPTIONS_COUNTED else ''}"
        for number, count in counts.items()
    )
    lines = [
        ("manifest", f"{summary.manifest} ({summary.format})"),
        ("images lie in", summary.root or "nowhere"),
        ("rows", f"{summary.rows:,}"),
        ("images", f"{summary.images:,}"),
        ("captions", f"{summary.captions:,}"),
        ("captions an image", captions),
        *([] if summary.tokens is None else [("captions cut", _cut(summary.tokens))]),
        ("splits", ", ".join(f"{name} {count:,}" for name, count in summary.splits.items())),
        ("columns", ", ".join(f"{name} ({kind})" for name, kind in summary.columns.items()) or "-"),
    ]
    if summary.dimension is not None:
        lines.append(("vectors", f"ready-made, of {summary.dimension} values"))
    method = "decoded in full" if summary.decoded else "headers read; --decode reads all"
    lines += [
        ("width", _spread(summary.width)),
        ("height", _spread(summary.height)),
        ("unreadable", f"{summary.unreadable:,} ({method})"),
        ("rows not UTF-8", f"{summary.problems.get('not utf-8', 0):,}"),
        ("same content", _same_content(summary)),
        ("problems", _counts(summary.problems)),
        ("notes", _counts(summary.notes)),
    ]
    return lines


def _cut(tokens: CutCaptions) -> str:
    return (
        f"{tokens.cut:,} of {tokens.captions:,} at the {tokens.max_tokens} tokens that"
        f" {tokens.name} takes; the longest has {tokens.longest:,}"
    )


def _same_content(summary: ManifestSummary) -> str:
    text = f"{summary.same_content:,} repeat an earlier image's bytes"
    if summary.same_content_in_two_splits:
        text += f", {summary.same_content_in_two_splits:,} of them one of another split"
    return text


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.minimum:,} to {spread.maximum:,} pixels, median {spread.median:,}"


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "none"
