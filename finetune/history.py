"""history.csv: one row a step and one an evaluation, appended as training goes on."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from finetune.atomic import write_text_atomically
from finetune.figures import EVALUATION_COLUMNS, Row

STEP_COLUMNS = ("step", "epoch", "loss", "learning_rate", "logit_scale", "grad_norm")
COLUMNS = STEP_COLUMNS + EVALUATION_COLUMNS
WHOLE_NUMBERS = ("step", "epoch")


class History:
    """The rows so far, in memory and in a file; rows reach the file at `flush`.

    A row of a step holds STEP_COLUMNS; a row of an evaluation holds step, epoch and those of
    EVALUATION_COLUMNS that were measured, and comes after the row of its step.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        """Start anew, or with the rows that `read_history` gave: a file that is there is replaced.

        Raises OSError; the file is then as it was.
        """
        self.path = path
        self.rows = list(rows)
        self._unwritten = 0
        header = _line(dict.fromkeys(COLUMNS, ""), header=True)
        write_text_atomically(path, header + "".join(map(_line, self.rows)))

    @classmethod
    def resume(cls, path: Path, step: int, evaluated: int) -> "History":
        """Go on after a checkpoint: rows that were written after it are dropped.

        Args:
            path: The file.
            step: Steps done at the checkpoint.
            evaluated: The step that was evaluated last at the checkpoint, -1 for none.
        """
        rows = read_history(path) if path.is_file() else []
        kept = [row for row in rows if row["step"] <= (evaluated if is_evaluation(row) else step)]
        return cls(path, kept)

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row, its values as the file holds them; columns it lacks stay empty."""
        self.rows.append({name: type(value)(_cell(value)) for name, value in row.items()})
        self._unwritten += 1

    def flush(self, *, sync: bool = False) -> None:
        """Write what was appended; with `sync`, down to the disk."""
        if self._unwritten:
            new = self.rows[-self._unwritten :]
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write("".join(map(_line, new)))
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            self._unwritten = 0

    @property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return [row for row in self.rows if is_evaluation(row)]


def is_evaluation(row: Mapping[str, float]) -> bool:
    """Whether a row is an evaluation's, not a step's."""
    return "loss" not in row


def read_history(path: Path) -> list[Row]:
    """The rows of a history.csv, without empty cells; a last row cut off by a crash is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
    rows: list[Row] = []
    for cells in csv.DictReader(lines):
        row = {name: float(cell) for name, cell in cells.items() if cell}
        rows.append({n: int(v) if n in WHOLE_NUMBERS else v for n, v in row.items()})
    return rows


def _line(row: Mapping[str, float | str], *, header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    else:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: float | str) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
