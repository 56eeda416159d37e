"""`clipsearch feed`: write captioned images into an index."""

import gc
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.completion import complete_encoders, complete_languages
from clipsearch.cli.image_addresses import private_addresses_option
from clipsearch.cli.messages import note
from clipsearch.cli.options import (
    UTF8,
    NamedPath,
    added_columns_options,
    column_options,
    device_option,
    exclude_option,
    images_option,
    index_option,
    json_option,
    ledger_option,
    yes_option,
)
from clipsearch.cli.settings_file import is_typed
from finetune.errors import ClipsearchError, UsageError
from finetune.text.strict_json import dumps
from finetune.towers import ENCODING_PRECISIONS, FP32

if TYPE_CHECKING:
    from clipsearch.feed.options import FeedOptions
    from clipsearch.feed.report import FeedReport
    from clipsearch.modes import WordShare


ALLOCATIONS_BETWEEN_COLLECTIONS = 100_000


@click.command()
@click.argument("manifest", type=NamedPath(path_type=Path))
@index_option
@click.option(
    "--encoder",
    metavar="FOLDER|ID",
    shell_complete=complete_encoders,
    type=NamedPath(),
    help="The encoder folder, or the id of a model on the Hugging Face hub, fetched once. Left out:"
    " the one that the index knows, or, for a new index, the manifest's own vectors (a column named"
    " embedding), else the default encoder of: clipsearch encoder list.",
)
@click.option(
    "--vectors-of",
    metavar="FOLDER|ID",
    type=NamedPath(),
    help="The encoder that made the manifest's own vectors, as rclip's or clip-retrieval's: the"
    " index takes these, encodes nothing, and its queries use that encoder. The first are compared"
    " with what it makes of their images.",
)
@images_option
@column_options
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(["train", "val", "test"]),
    help="Feed only this part; may be repeated. All parts unless given.",
)
@click.option(
    "--tag",
    "tags",
    type=UTF8,
    metavar="COLUMN",
    multiple=True,
    help="Keep this column as a tag, as text.",
)
@click.option(
    "--number",
    "numbers",
    type=UTF8,
    metavar="COLUMN",
    multiple=True,
    help="Keep this column as numbers.",
)
@click.option(
    "--date",
    "dates",
    type=UTF8,
    metavar="COLUMN",
    multiple=True,
    help="Keep this column as dates, as 2019, 2019-06 or 2019-06-01T12:30.",
)
@added_columns_options(remembered=True)
@exclude_option(remembered=True)
@click.option(
    "--prune",
    is_flag=True,
    help="Remove documents of this data set that the manifest no longer has, at the end.",
)
@yes_option("Do not ask before --prune removes.")
@click.option(
    "--id-prefix",
    metavar="TEXT",
    help="What the ids of this data set begin with, where another one of the index has the same:"
    " 'birds/'. Remembered.",
)
@click.option(
    "--data-set",
    metavar="NAME",
    help="Which data set of the index this manifest is, where it cannot be told from where it"
    " lies; see clipsearch status.",
)
@click.option(
    "--language",
    metavar="CODE",
    shell_complete=complete_languages,
    help="Of the captions, for a new index: en (default), fr, es, …",
)
@click.option(
    "--workers",
    metavar="N",
    type=int,
    help="Processes that decode; one a core, with a GPU two fewer, or none for a few images.",
)
@click.option("--batch-size", metavar="N", type=int, help="Images at once; 32, or 256 on a GPU.")
@device_option
@click.option(
    "--precision",
    type=click.Choice(ENCODING_PRECISIONS),
    default=FP32,
    show_default=True,
    help="Of the encoder on a GPU. bf16 is several times faster; the first images are encoded both"
    " ways, and it is taken only where each has a cosine of .9999 to fp32, which the feed says.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where rejected records are listed; feed-report.csv in the index unless given.",
)
@ledger_option
@click.option("--strict", is_flag=True, help="Feed nothing if the manifest has any problem.")
@click.option(
    "--watch",
    is_flag=True,
    help="Go on: feed again whenever the manifest or a file in the folder of its images changes,"
    " until Ctrl-C. With --json, an object a line.",
)
@private_addresses_option
@json_option
def feed(as_json: bool, yes: bool, watch: bool, **values: Any) -> int:
    """Write the captioned images of MANIFEST into an index.

    Only work that is left is done: images that have not changed are not encoded again, and a
    changed caption costs no image work. Stopped or killed at any moment, the same command goes
    on from there. An index may be fed from several manifests: each is a data set, and replaces and
    removes documents of its own alone.

    \b
    Examples:
      clipsearch feed ~/Pictures --index pictures.index
      clipsearch feed photos.csv --encoder encoder --index photos.index
      clipsearch feed photos.csv --index photos.index --prune --yes
      clipsearch feed ~/Pictures --index pictures.index --watch
      clipsearch feed ~/Pictures --index pictures.index --exclude "*.svg" --exclude drafts/
      clipsearch feed birds.csv --index photos.index --id-prefix birds/
      clipsearch feed photos/ --encoder encoder --index photos.index --language fr
      clipsearch feed vectors.parquet --index vectors.index
      clipsearch feed photos.parquet --vectors-of encoder --index photos.index
      clipsearch feed photos.csv --encoder encoder --index http://localhost:8080

    Exit code 3: done, but some records were rejected; the report file says which and why.
    """
    # light path: onnxruntime
    from clipsearch.feed.feed import feed
    from clipsearch.feed.options import FeedOptions
    from finetune.manifest.formats.columns import ColumnNames

    # All that a feed makes is freed by its counts: looking for circles takes a seventh of its time.
    gc.set_threshold(ALLOCATIONS_BETWEEN_COLLECTIONS)
    index = values["index"]
    if values["vectors_of"] is not None and not is_typed("encoder"):
        values["encoder"] = None

    def consent(count: int, data_set: str) -> bool:
        question = f"Remove {count:,} documents of {data_set} from {index}?"
        return click.confirm(question, err=True)

    if values["prune"] and not yes and (watch or not sys.stdin.isatty()):
        raise UsageError("nobody can be asked here: add --yes to prune without a question")
    names = [values.pop(name) for name in ("image_column", "caption_columns", "id_column")]
    columns = ColumnNames(*names) if any(names) else None
    limits = values.pop("limits")
    if values.pop("no_exclude"):
        values["exclude"] = ()
    elif not values["exclude"]:
        values["exclude"] = None
    options = FeedOptions(columns=columns, addresses=limits, **values)

    said: set[str] = set()

    def once() -> int:
        nonlocal said
        report = feed(options, consent=None if yes else consent)
        share = _measured(values) if report.fed or report.updated else None
        said = _print(report, share, said, as_json=as_json, indent=None if watch else 2)
        return 0 if report.complete else EXIT_SOME_REJECTED

    return _follow(values["manifest"], options, once) if watch else once()


def _follow(manifest: Path, options: "FeedOptions", once: Callable[[], int]) -> NoReturn:
    """Feed, and again after each change, until Ctrl-C; only the first may fail."""
    from clipsearch.engines import is_remote  # light path: with the others
    from clipsearch.feed.ledger.file import ledger_path
    from clipsearch.feed.report import report_path
    from clipsearch.feed.watching import changes, places

    own = [
        options.ledger or ledger_path(options.index),
        options.report or report_path(options.index),
        *([] if is_remote(options.index) else [Path(options.index)]),
    ]
    steps = changes(places(manifest, options.images), own)
    next(steps)
    once()
    click.echo(f"Watching {manifest}; Ctrl-C ends it.", err=True)
    for changed in steps:
        if not changed:
            continue
        try:
            once()
        except ClipsearchError as error:
            click.echo(f"Error: {error}; watching goes on", err=True)
    raise AssertionError("a watch has no end")


def _print(
    report: "FeedReport",
    share: "WordShare | None",
    said: set[str],
    *,
    as_json: bool,
    indent: int | None,
) -> set[str]:
    """Print what the feed did, and what it says beside that, but for what it `said` before.

    Returns what the next feed need not say again.
    """
    if as_json:
        found = {"word_share": None if share is None else asdict(share)}
        click.echo(dumps(_as_dict(report) | found, indent=indent, ensure_ascii=True))
        return set()
    problems = _problems(report)
    notes = [f"{told}." for told in report.notes]
    for line in [*_done(report), *(line for line in problems if line not in said)]:
        click.echo(line)
    for told in notes:
        if told not in said:
            note(told)
    if share is not None:
        from clipsearch.weighing import order_told, share_sum_told  # light path: NumPy

        click.echo(
            f"Queries: {order_told(share)} ({share_sum_told(share.weight)}, measured on the"
            f" captions of {share.images:,} images; clipsearch calibrate learns more, and says"
            f" what it gains).",
            err=True,
        )
    return {*problems, *notes}


def _measured(values: dict[str, Any]) -> "WordShare | None":
    """Measure how the index joins words and vector; what was fed stays where that fails."""
    from clipsearch.relevance.word_share import learn_word_share  # light path: the engines

    try:
        return learn_word_share(values["index"], device=values["device"])
    except ClipsearchError as error:
        note(f"how words and vector join was not measured: {error}")
        return None


def summary(report: "FeedReport") -> str:
    """Return what the feed did, in a line, and a line for each thing that did not go well."""
    return "\n".join([*_done(report), *_problems(report)])


def _done(report: "FeedReport") -> list[str]:
    words = (
        f"fed {report.fed:,}, updated {report.updated:,}, unchanged {report.unchanged:,},"
        f" removed {report.removed:,}, rejected {report.rejected:,}"
        f" in {report.seconds:.1f} s"
    )
    if report.images_per_second:
        words += f" (while writing: {report.images_per_second:,.1f} images/s)"
    reused = f"Of these, {report.reused:,} equal what was encoded already."
    return [words, reused] if report.reused else [words]


def _problems(report: "FeedReport") -> list[str]:
    lines = []
    if report.problems:
        counts = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(report.problems.items()))
        lines.append(f"Problems of the manifest: {counts}.")
    lines += [f"  {reason}" for reason in report.first_reasons]
    if report.report_path is not None:
        leave = "; --exclude leaves out what is not wanted" if not report.complete else ""
        lines.append(
            f"Each rejection, problem and note, with its reason: {report.report_path}{leave}"
        )
    return lines


def _as_dict(report: "FeedReport") -> dict[str, object]:
    values = asdict(report)
    values["report_path"] = None if report.report_path is None else str(report.report_path)
    return values
