"""`clipsearch evaluate ENCODER MANIFEST`: the figures of an encoder, or of two side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import EXIT_SOME_REJECTED
from clipsearch.cli.messages import note
from finetune.errors import UsageError
from finetune.figures import GLOBAL, RANKS, TASKS
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.evaluation.evaluate import EncoderEvaluation, EvaluateOptions
    from finetune.evaluation.intervals import RankedMeasurement
    from finetune.figures import Estimate, Figure

TABLE_WIDTH = 110


def run_encoder_evaluation(
    options: "EvaluateOptions",
    *,
    as_json: bool,
    plots: Path | None,
    sheet: Path | None,
    predictions: Path | None,
) -> int:
    """Measure, print, and write what was asked for; the exit code.

    Args:
        options: What to measure.
        as_json: JSON instead of tables.
        plots: Folder of the plots.
        sheet: Contact sheet of what changed.
        predictions: Table of the classes' probabilities.
    """
    # Light path: these bring numpy, Pillow and onnxruntime.
    from clipsearch.evaluation.evaluate import evaluate
    from clipsearch.evaluation.plots import check_plots, plot_evaluation
    from clipsearch.evaluation.predictions import check_predictions, write_predictions
    from clipsearch.evaluation.sheet import write_comparison
    from finetune.evaluation.comparison_sheet import MOST_CELLS
    from finetune.manifest.inputs import check_sheet

    manifest = options.manifest if isinstance(options.manifest, str | Path) else None
    inputs = [options.encoder, manifest, options.against, options.zero_shot]
    if sheet is not None:
        if options.against is None:
            raise UsageError(
                "--sheet shows before and after: name the other encoder with --against"
            )
        check_sheet(sheet, MOST_CELLS, inputs=inputs)
    if plots is not None:
        check_plots(plots, inputs)
    if predictions is not None:
        if options.zero_shot is None:
            raise UsageError("--predictions are of classes: name them with --zero-shot")
        check_predictions(predictions, inputs)
    evaluation = evaluate(options)
    if as_json:
        click.echo(dumps(evaluation.as_dict(), indent=2, ensure_ascii=True))
    else:
        _print(evaluation)
    if plots is not None:
        names = [str(encoder.folder) for encoder in evaluation.encoders]
        for path in plot_evaluation(evaluation.measurements, names, plots):
            click.echo(f"Wrote {path}", err=True)
    if sheet is not None:
        if evaluation.retrieval is None:
            raise UsageError("--sheet compares captions, and there are none")
        write_comparison(sheet, evaluation.retrieval, evaluation.measurements[0])
        click.echo(f"Wrote {sheet}", err=True)
    if predictions is not None and evaluation.predictions is not None:
        write_predictions(predictions, evaluation.predictions)
        click.echo(f"Wrote {predictions}", err=True)
    return 0 if evaluation.complete else EXIT_SOME_REJECTED


def _print(evaluation: "EncoderEvaluation") -> None:
    from rich.console import Console  # light path: --help prints no table
    from rich.text import Text

    from finetune.console import printable
    from finetune.evaluation.intervals import FEW_CLUSTERS

    console = Console(highlight=False, soft_wrap=True)
    # Cut figures tell nothing: a narrower terminal wraps the lines instead.
    console.width = max(console.width, TABLE_WIDTH)
    for line in _heading(evaluation):
        console.print(Text(printable(line)))
    for each in evaluation.measurements:
        console.print()
        console.print(Text(_title(each), style="bold"))
        console.print(_table(each))
    console.print()
    for line in _footing(evaluation):
        console.print(Text(printable(line)))
    few = min(each.clusters for each in evaluation.measurements)
    if few < FEW_CLUSTERS:
        note(f"with only {few} images, the intervals are too narrow.")
    for told in evaluation.notes:
        note(f"{told}.")


def _heading(evaluation: "EncoderEvaluation") -> list[str]:
    options, retrieval = evaluation.options, evaluation.retrieval
    roles = ("encoder ", "against ")
    lines = [
        f"{role} {encoder.folder} ({encoder.name}, {encoder.fingerprint[:12]})"
        for role, encoder in zip(roles, evaluation.encoders, strict=False)
    ]
    captions = "no captions"
    if retrieval is not None:
        captions = (
            f"{len(retrieval.data.captions):,} captions, {len(retrieval.pool.captions):,} different"
        )
    lines.append(
        f"manifest {options.manifest}, split {options.split}: {evaluation.images:,} images,"
        f" {captions}"
    )
    lines += [f'prompt   "{template}"' for template in evaluation.templates]
    return lines


def _title(measurement: "RankedMeasurement") -> str:
    task = TASKS[measurement.task]
    return (
        f"{task.title}, {measurement.scope}: {measurement.queries:,} {task.queries},"
        f" each among {measurement.pool:,} {task.candidates}"
    )


def _table(measurement: "RankedMeasurement") -> Any:
    from rich import box
    from rich.table import Table

    compared = measurement.figures[0].against is not None
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("figure", no_wrap=True)
    for name in ("encoder", "against", "difference", "p") if compared else ("encoder",):
        table.add_column(name, no_wrap=True, justify="right")
    for figure in measurement.figures:
        table.add_row(figure.name, *_cells(figure))
    return table


def _cells(figure: "Figure") -> list[str]:
    digits = 2 if figure.name in RANKS else 3
    cells = [_interval(figure.estimate, digits)]
    if figure.against is not None and figure.difference is not None:
        cells.append(_interval(figure.against, digits))
        cells.append(_interval(figure.difference, digits, sign="+"))
        cells.append("" if figure.p_value is None else f"{figure.p_value:.4f}")
    return cells


def _interval(estimate: "Estimate", digits: int, sign: str = "") -> str:
    value, *ends = (
        f"{number:{sign}z,.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
        if number is not None
    )
    return f"{value} [{', '.join(ends)}]" if ends else value


def _footing(evaluation: "EncoderEvaluation") -> list[str]:
    sampling = evaluation.options.sampling
    lines = [
        f"In brackets: {sampling.confidence:.0%} bootstrap intervals,"
        f" {sampling.resamples:,} resamples of the images."
    ]
    if len(evaluation.encoders) == 2:
        lines.append(
            f"p: two-sided sign-flip test over the images, {sampling.resamples:,} permutations;"
            " not corrected for the number of figures."
        )
        lines += [_verdict(each) for each in evaluation.measurements if each.scope == GLOBAL]
    if evaluation.left_out:
        first = evaluation.left_out[0]
        lines.append(
            f"Left out: {len(evaluation.left_out):,} images that cannot be read; the first,"
            f" {first.where}: {first.reason}"
        )
    if evaluation.problems:
        lines.append(f"The manifest has {evaluation.problems}; see clipsearch manifest check.")
    return lines


def _verdict(measurement: "RankedMeasurement") -> str:
    """Say whether the encoder is better, by the figure that is tested."""
    figure = measurement.figure(TASKS[measurement.task].tested)
    difference, p_value = figure.difference, figure.p_value
    if difference is None or p_value is None:
        return ""
    task = TASKS[measurement.task].title.capitalize()
    if p_value > 0.05:
        return f"{task}: no difference in {figure.name} that could not be chance (p {p_value:.3g})."
    word = "better" if difference.value > 0 else "worse"
    return (
        f"{task}: ENCODER is {word} in {figure.name}, by"
        f" {_interval(difference, 3, sign='+')} (p {p_value:.2g})."
    )
