"""The CSV of a measurement: a row a query, with what each mode made of it."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipsearch.modes import MODES, MODES_WITHOUT_VECTOR, Mode
from clipsearch.relevance.evaluation import IndexEvaluation
from clipsearch.relevance.measures import MRR, NDCG
from finetune.errors import ClipsearchError, UsageError
from finetune.files.atomic import replace_file
from finetune.files.outputs import is_report
from finetune.manifest.inputs import Inputs, check_output

FIRST_COLUMNS = ("query", "text", "right", "words", "all_words_known", "other_captions")


def check_query_table(path: Path, inputs: Inputs) -> None:
    """Raise UsageError unless the table can be written to `path`.

    `inputs`: what the command reads. Only an older table is replaced.
    """
    if not path.parent.is_dir():
        raise UsageError(f"--csv {path}: there is no folder {path.parent}; make it first")
    headers = [",".join(_header(modes)) for modes in (MODES, MODES_WITHOUT_VECTOR)]
    check_output(path, f"--csv {path}", is_report(*headers), inputs)


def write_query_table(path: Path, evaluation: IndexEvaluation) -> None:
    """Write the table; an older one is replaced whole. Raises ClipsearchError.

    Ranks are empty where the first right document is not among the hits that count.
    """
    try:
        replace_file(path.resolve(), _lines(evaluation))
    except OSError as error:
        raise ClipsearchError(f"--csv {path}: cannot be written ({error.strerror})") from error


def _header(modes: Sequence[Mode]) -> list[str]:
    parts = ("rank", MRR, NDCG)
    return [*FIRST_COLUMNS, *(f"{mode} {part}" for mode in modes for part in parts)]


def _lines(evaluation: IndexEvaluation) -> Iterator[bytes]:
    modes = [run.mode for run in evaluation.runs]
    ranks = {mode: evaluation.ranks(mode).tolist() for mode in modes}
    yield _line(_header(modes))
    traits = evaluation.traits
    for number, query in enumerate(evaluation.queries):
        other = "" if traits.others is None else _yes(bool(traits.others[number]))
        row: list[object] = [query.key, query.text, "; ".join(query.right)]
        row += [int(traits.words[number]), _yes(bool(traits.known[number])), other]
        for mode in modes:
            figures = evaluation.per_query[mode]
            row += [ranks[mode][number] or "", *(f"{figures[n][number]:.6g}" for n in (MRR, NDCG))]
        yield _line(row)


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode("utf-8", "replace")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
