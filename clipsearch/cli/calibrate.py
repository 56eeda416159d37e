"""`clipsearch calibrate`: how an index joins words and vector, learned from judged queries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli.measuring_options import qrels_option, resamples_option
from clipsearch.cli.messages import note
from clipsearch.cli.options import (
    NamedPath,
    device_option,
    images_option,
    index_option,
    json_option,
    moved_encoder_option,
)
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.relevance.calibration import Calibrated

TABLE_WIDTH = 400


@click.command()
@index_option
@click.option(
    "--manifest",
    metavar="MANIFEST",
    type=NamedPath(path_type=Path),
    help="Learn from the captions of this manifest, not those that the index holds.",
)
@click.option(
    "--queries",
    metavar="FILE",
    type=NamedPath(path_type=Path),
    help="Learn from these, with judgments: a CSV of query, id and grade; a folder like BEIR's; or"
    " topics with their --qrels.",
)
@qrels_option
@click.option(
    "--folds",
    metavar="N",
    type=click.IntRange(2, 50),
    help="Learn from all but one of N parts and measure on that one, for each. [default: captions"
    " are learned from on the split val and measured on test; judgments in 5 parts]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="test",
    show_default=True,
    help="With --folds: whose captions; of BEIR's folder, which qrels.",
)
@click.option(
    "--metric",
    type=click.Choice(["mrr@10", "ndcg@10"]),
    default="mrr@10",
    show_default=True,
    help="What is to become better.",
)
@click.option("--dry-run", is_flag=True, help="Learn and measure, but change nothing.")
@images_option
@moved_encoder_option
@device_option
@resamples_option
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of resamples and parts.",
)
@json_option
def calibrate(as_json: bool, dry_run: bool, resamples: int, seed: int, **values: Any) -> int:
    """Learn how an index best joins words and vector, and keep it if surely better.

    The weights of hybrid, of hybrid-normalized and of z-scores over hybrid's first 1,000 hits are
    learned, and held against each other, the fusions without weights and today's ranking, on
    queries that were not learned from. Where the
    95 % interval of the gain lies above zero, the index keeps mode and weights, and `query` uses
    them without an option; otherwise nothing is changed.

    \b
    Examples:
      clipsearch calibrate --index photos.index
      clipsearch calibrate --index photos.index --folds 5 --split all --dry-run
      clipsearch calibrate --index http://localhost:8080 --queries judged.csv
    """
    # Light path: NumPy and the engines.
    from clipsearch.relevance.calibration import CalibrateOptions, calibrate
    from clipsearch.relevance.sources import QuerySource
    from finetune.evaluation.intervals import Sampling

    source = QuerySource(
        queries=values["queries"],
        qrels=values["qrels"],
        manifest=values["manifest"],
        images=values["images"],
        split=values["split"],
    )
    result = calibrate(
        CalibrateOptions(
            index=values["index"],
            source=source,
            folds=values["folds"],
            metric=values["metric"],
            encoder=values["encoder"],
            device=values["device"],
            sampling=Sampling(resamples=resamples, seed=seed),
            keep=not dry_run,
        )
    )
    if as_json:
        click.echo(dumps(result.as_dict(), indent=2, ensure_ascii=True))
    else:
        _print(result)
    return 0


def _print(result: "Calibrated") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clipsearch.relevance.report import interval_text
    from finetune.console import printable

    metric = result.options.metric
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)  # a narrower terminal wraps, and cuts nothing
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for name in ("", "ranking", f"{metric} learned on", f"{metric} held out", "gain held out"):
        table.add_column(name, no_wrap=True, justify="left" if len(name) < 8 else "right")
    for each in result.contests:
        table.add_row(
            each.name if each.name == "today" else "",
            each.contender.told,
            f"{each.learned_on:.3f}",
            interval_text(each.held_out),
            "" if each.name == "today" else interval_text(each.gain, sign="+"),
        )
    learned, held_out = result.queries
    console.print(
        Text(
            printable(
                f"{learned:,} queries learned from, {held_out:,} held out, from {result.source};"
                f" pool of {result.pool:,} images"
            )
        )
    )
    console.print()
    console.print(table)
    console.print()
    for line in verdict(result):
        console.print(Text(printable(line)))
    for told in result.notes:
        note(f"{told}.")


def verdict(result: "Calibrated") -> list[str]:
    """Say what was chosen, what it gains, and what became of it."""
    from clipsearch.relevance.report import interval_text

    gain = (
        f"{result.options.metric} by {interval_text(result.gain, sign='+')} on what was not learned"
        f" from (p {result.p_value:.2g})"
    )
    lines = [f"Best where it was learned: {result.chosen.told}. Choosing so changes {gain}."]
    if result.kept:
        lines.append(f"The index keeps it; before: {result.today.told}.")
    elif result.is_better:
        lines.append("Nothing is changed (--dry-run).")
    else:
        lines.append("Nothing is changed: the gain may be chance, or is none.")
    return lines
