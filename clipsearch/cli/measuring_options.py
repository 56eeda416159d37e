"""The options that `evaluate` and `calibrate` share."""

from pathlib import Path

import click

from clipsearch.cli.options import Command, NamedPath
from finetune.evaluation.significance import RESAMPLES


def qrels_option(command: Command) -> Command:
    """Add `--qrels FILE`: the judgments of topics."""
    return click.option(
        "--qrels",
        metavar="FILE",
        type=NamedPath(path_type=Path),
        help="TREC's judgments of the topics in --queries.",
    )(command)


def resamples_option(command: Command) -> Command:
    """Add `--resamples N`: how often intervals and tests draw."""
    return click.option(
        "--resamples",
        metavar="N",
        type=click.IntRange(100),
        default=RESAMPLES,
        show_default=True,
        help="Bootstrap resamples of the intervals, and sign flips of the test.",
    )(command)
