"""`clipsearch evaluate --index`: the modes of an index, measured side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli.messages import note
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from rich.console import Console

    from clipsearch.relevance.evaluation import IndexEvaluateOptions, IndexEvaluation

TABLE_WIDTH = 400


def run_index_evaluation(
    options: "IndexEvaluateOptions",
    *,
    as_json: bool,
    table: Path | None,
    plots: Path | None,
    page: Path | None,
    images: Path | None,
) -> int:
    """Measure, print, and write what was asked for; everything is checked before it begins.

    Args:
        options: What to measure.
        as_json: JSON instead of tables.
        table: CSV file of the queries.
        plots: Folder of the plots.
        page: HTML report.
        images: Folder of the images, where they have moved since the feed.
    """
    # Light path: these bring numpy, Pillow and the engines.
    from clipsearch.relevance.conclusion import conclusion
    from clipsearch.relevance.evaluation import evaluate_index
    from clipsearch.relevance.plots import check_mode_plots, plot_modes
    from clipsearch.relevance.query_table import check_query_table, write_query_table
    from clipsearch.relevance.report import check_report, write_report
    from clipsearch.relevance.sources import inputs_of

    options.check()
    inputs = inputs_of(options.source, (options.encoder,))
    if table is not None:
        check_query_table(table, inputs)
    if page is not None:
        check_report(page, inputs)
    if plots is not None:
        check_mode_plots(plots, inputs)
    evaluation = evaluate_index(options)
    if as_json:
        found = {**evaluation.as_dict(), "conclusion": conclusion(evaluation)}
        click.echo(dumps(found, indent=2, ensure_ascii=True))
    else:
        _print(evaluation)
    written = []
    if table is not None:
        write_query_table(table, evaluation)
        written.append(table)
    if plots is not None:
        written += plot_modes(evaluation, plots)
    if page is not None:
        write_report(page, evaluation, images)
        written.append(page)
    for path in written:
        click.echo(f"Wrote {path}", err=True)
    return 0


def _print(evaluation: "IndexEvaluation") -> None:
    from rich.console import Console
    from rich.text import Text

    from clipsearch.relevance.conclusion import conclusion, telling_groups
    from clipsearch.relevance.report import heading_lines
    from finetune.console import printable

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)  # a narrower terminal wraps, and cuts nothing
    lines = heading_lines(evaluation)
    console.print(Text(printable(lines[0])))
    console.print()
    _print_modes(console, evaluation)
    for by in telling_groups(evaluation):
        console.print()
        _print_groups(console, evaluation, by)
    console.print()
    console.print(Text(printable(lines[1])))
    for told in evaluation.notes:
        note(f"{told}.")
    console.print()
    console.print(Text(printable(conclusion(evaluation))))


def _print_modes(console: "Console", evaluation: "IndexEvaluation") -> None:
    from clipsearch.relevance.evaluation import milliseconds
    from clipsearch.relevance.measures import MRR, NDCG, RECALLS
    from clipsearch.relevance.report import difference_cells, interval_text

    rows = []
    for each in evaluation.modes:
        times = milliseconds(evaluation.run(each.mode))
        cells = [interval_text(each.figure(name).estimate) for name in (MRR, NDCG)]
        cells += [f"{each.figure(name).estimate.value:.3f}" for name in RECALLS]
        cells += difference_cells(each.figure(MRR))
        rows.append([each.mode, *cells, f"{times['p50']:.1f}/{times['p99']:.1f}"])
    _print_table(
        console, ("mode", MRR, NDCG, *RECALLS, "mrr@10 difference", "p", "ms p50/p99"), rows
    )


def _print_groups(console: "Console", evaluation: "IndexEvaluation", by: str) -> None:
    from clipsearch.relevance.measures import MRR

    rows = [
        [
            group.name,
            f"{group.queries:,}",
            *(f"{each.figure(MRR).estimate.value:.3f}" for each in group.modes),
        ]
        for group in evaluation.groups
        if group.by == by
    ]
    console.print(f"{MRR} by {by}")
    _print_table(console, (by, "queries", *(run.mode for run in evaluation.runs)), rows)


def _print_table(console: "Console", names: Any, rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for number, name in enumerate(names):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
