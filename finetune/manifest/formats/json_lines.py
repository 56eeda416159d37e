"""JSON Lines: one object a line (https://jsonlines.org), with our own or imagefolder's names."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.files import bounded_json
from finetune.files.bounded_json import JsonLimitError
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.row import Row
from finetune.manifest.formats.text_lines import first_lines, open_lines, report_not_utf8
from finetune.manifest.problems import Problems


@dataclass(frozen=True)
class JsonLines:
    """A file with a JSON object on each line."""

    path: Path
    columns: ManifestColumns
    suffixes: tuple[str, ...] = ("",)
    has_vectors: bool = False

    @property
    def format(self) -> str:
        """ "imagefolder" by its column, else "jsonl"."""
        image = self.columns.image
        return "imagefolder" if image is not None and image.lower() == "file_name" else "jsonl"

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    @property
    def captioned(self) -> bool:
        """Whether any of the first objects has captions."""
        return bool(self.columns.captions)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows; lines that are no object are reported."""
        name = self.path.name
        number = -1
        self.columns.tell(problems, name, has_vectors=self.has_vectors)
        with open_lines(self.path) as lines:
            for text in lines:
                raw = lines.pending[0]
                undecodable = lines.undecodable
                lines.clear()
                if not raw.strip():
                    continue
                number += 1
                if undecodable:
                    report_not_utf8(problems, f"{name}:{lines.number}")
                    continue
                try:
                    values = _parsed(text)
                    yield self.columns.row(values, number, name, lines.number)
                except ValueError as error:
                    problems.add("bad row", f"{name}:{lines.number}", _reason(error))


def recognise(
    path: Path, head: bytes, has_vectors: bool, given: ColumnNames | None = None
) -> JsonLines | None:
    """Return the file as JSON Lines; None where most of its first lines are no whole objects.

    Raises:
        ManifestError: the first objects have no image or no caption.
    """
    lines = first_lines(head, 100)
    objects = [values for line in lines if isinstance(values := _loaded(line), dict)]
    if len(objects) * 2 <= len(lines) or not any(objects):
        return None
    # A whole Karpathy file may stand on one line.
    if isinstance(objects[0].get("images"), list):
        return None
    names = list(dict.fromkeys(name for values in objects for name in values))
    columns = ManifestColumns.of(names, given, has_vectors=has_vectors)
    columns.check(path, names, has_vectors)
    return JsonLines(path, columns, columns.suffixes, has_vectors)


def _loaded(line: str) -> object:
    try:
        return bounded_json.loads(line)
    except JsonLimitError:
        # An object nevertheless; its row is reported when it is read.
        return {} if line.lstrip().startswith("{") else None
    except ValueError:
        return None


def _parsed(text: str) -> dict[str, Any]:
    values = bounded_json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("the line is no JSON object")
    return values


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no valid JSON: {error.msg} at column {error.colno}"
    return str(error)
