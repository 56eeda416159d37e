"""CSV and TSV with a header line: our own columns, imagefolder's and OpenCLIP's.

The delimiter is the one of comma, tab, semicolon and bar by which the header has known columns.
Quoting follows RFC 4180; a row that breaks it (a quotation mark never closed, or text behind a
closing one, as in files written without any quoting) is read line by line instead. Blanks
round fields are cut, as filters cut them. A field may be as long as the file (`long_fields`).
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from finetune.errors import ManifestError
from finetune.manifest.fields.long_fields import long_fields
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.row import (
    LIST_MARKS,
    MetadataValue,
    Row,
    caption_values,
    embedding_value,
    metadata_text,
)
from finetune.manifest.formats.text_lines import (
    DecodedLines,
    first_lines,
    open_lines,
    report_not_utf8,
)
from finetune.manifest.problems import Problems
from finetune.text.composed import composed

DELIMITERS = (",", "\t", ";", "|")
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class DelimitedText:
    """A CSV or TSV file with a header line."""

    path: Path
    delimiter: str
    names: tuple[str, ...]
    columns: ManifestColumns
    has_vectors: bool = False

    @property
    def format(self) -> str:
        """By the columns: "openclip", "imagefolder"; else by the delimiter: "csv" or "tsv"."""
        names = {name.lower() for name in self.names}
        if {"filepath", "title"} <= names:
            return "openclip"
        if "file_name" in names and "image" not in names:
            return "imagefolder"
        return "tsv" if self.delimiter == "\t" else "csv"

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    @property
    def captioned(self) -> bool:
        """Whether a column holds captions."""
        return bool(self.columns.captions)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What is tried behind an image's name."""
        return self.columns.suffixes

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows; those with another number of fields than the header are reported."""
        self.columns.tell(problems, self.path.name, has_vectors=self.has_vectors)
        number = -1
        with open_lines(self.path) as lines, long_fields():
            read = _FieldReader(self, problems).read(lines)
            while part := list(islice(read, _ROWS_AT_ONCE)):
                numbered = [(n, *each) for n, each in enumerate(part, number + 1)]
                number += len(part)
                usable = [(n, line, fields) for n, line, fields in numbered if fields is not None]
                if usable:
                    yield from self._rows(usable, problems)

    def _rows(
        self, read: Sequence[tuple[int, int, list[str]]], problems: Problems
    ) -> Iterator[Row]:
        """Yield the rows of (number, line, fields), by columns where all are plain texts."""
        numbers, lines, fields = zip(*read, strict=True)
        values = {
            name: list(map(str.strip, column))
            for name, column in zip(self.names, zip(*fields, strict=True), strict=True)
        }
        columns = self.columns
        may_be_lists = any(
            text[:1] in LIST_MARKS
            for name in (*columns.captions, *columns.metadata)
            for text in values[name]
            if text
        )
        if columns.embedding is not None or len(columns.captions) > 1 or may_be_lists:
            for number, line, each in read:
                try:
                    yield self._row(each, number, line)
                except ValueError as error:
                    problems.add("bad row", f"{self.path.name}:{line}", str(error))
            return
        nothing: list[None] = [None] * len(read)

        def given(name: str | None) -> Sequence[str | None]:
            return nothing if name is None else [text or None for text in values[name]]

        images, ids = given(columns.image), given(columns.id)
        if columns.image_is_id:
            images, ids = ids, nothing
        captions: Sequence[tuple[str, ...]] = [()] * len(read)
        for name in columns.captions:
            captions = [(text,) if text else () for text in values[name]]
        metadata: Sequence[dict[str, MetadataValue] | None] = nothing
        if columns.metadata:
            held = zip(*[values[name] for name in columns.metadata], strict=True)
            metadata = [_not_empty(columns.metadata, texts) for texts in held]
        source = self.path.name
        for number, line, image, caption, id, split, own in zip(
            numbers, lines, images, captions, ids, given(columns.split), metadata, strict=True
        ):
            yield Row(number, source, line, image or "", caption, id, split, own)

    def _row(self, fields: list[str], number: int, line: int) -> Row:
        # The same as Columns.row, written out for speed: it runs a million times.
        values = dict(zip(self.names, fields, strict=True))
        columns = self.columns
        image = values[columns.image].strip() if columns.image is not None else ""
        captions: tuple[str, ...] = ()
        for name in columns.captions:
            captions += caption_values(values[name], lists=name.lower() == "captions")
        id = values[columns.id].strip() or None if columns.id is not None else None
        if columns.image_is_id and id is not None:
            image, id = id, None
        split = values[columns.split].strip() or None if columns.split is not None else None
        metadata: dict[str, MetadataValue] = {
            name: value
            for name in columns.metadata
            if (value := metadata_text(values[name])) is not None
        }
        embedding = None
        if columns.embedding is not None:
            embedding = embedding_value(values[columns.embedding].strip())
        return Row(
            number, self.path.name, line, image, captions, id, split, metadata or None, embedding
        )


class _FieldReader:
    """Cuts the lines of a file into fields, mending what its quoting breaks."""

    def __init__(self, text: DelimitedText, problems: Problems) -> None:
        self._delimiter = text.delimiter
        behind = f'"[ \t]+(?={re.escape(text.delimiter)}|[\r\n]|$)'
        self._blanks_behind_quotes = re.compile(behind)
        self._width = len(text.names)
        self._name = text.path.name
        self._problems = problems

    def read(self, lines: DecodedLines) -> Iterator[tuple[int, list[str] | None]]:
        """Yield each data row's first line and its fields, None where they cannot be used."""
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True, skipinitialspace=True)
        header_read = False
        while True:
            lines.clear()
            line = lines.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # A header with broken quoting has been read by `recognise`.
                skip = 0 if header_read else 1
                header_read = True
                if pending := lines.pending[skip:]:
                    yield from self._mend(pending, line + skip, str(error))
                continue
            if not fields:
                continue
            if not header_read:
                header_read = True
            elif lines.undecodable:
                report_not_utf8(self._problems, f"{self._name}:{lines.undecodable}")
                yield line, None
            else:
                yield line, self._checked(fields, line)

    def _checked(self, fields: list[str], line: int) -> list[str] | None:
        if len(fields) == self._width:
            return fields
        if len(fields) > self._width and not any(fields[self._width :]):
            return fields[: self._width]
        reason = f"{len(fields)} fields where the header has {self._width}"
        self._problems.add("bad row", f"{self._name}:{line}", reason)
        return None

    def _mend(
        self, pending: list[bytes], first: int, error: str
    ) -> Iterator[tuple[int, list[str] | None]]:
        """Read the lines of a row with broken quoting one by one, quotation marks as text."""
        where = f"{self._name}:{first}"
        self._problems.note("stray quote", where, f"{error}; read without regard to quoting")
        for line, raw in enumerate(pending, first):
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                report_not_utf8(self._problems, f"{self._name}:{line}")
                yield line, None
                continue
            if text.strip():
                yield line, self._checked(self._fields_of_line(text), line)

    def _fields_of_line(self, text: str) -> list[str]:
        # Blanks behind a closing quotation mark break the quoting too: they mean nothing.
        for line in (text, self._blanks_behind_quotes.sub('"', text)):
            try:
                fields = next(
                    csv.reader(
                        [line], delimiter=self._delimiter, strict=True, skipinitialspace=True
                    )
                )
            except csv.Error:
                continue
            if len(fields) == self._width:
                return fields
        return text.rstrip("\r\n").split(self._delimiter)


def recognise(
    path: Path, head: bytes, has_vectors: bool, given: ColumnNames | None = None
) -> DelimitedText | None:
    """Return the file as CSV or TSV; None where its first line has no column that we know.

    Raises:
        ManifestError: the header has some of the columns that are needed, but not all.
    """
    lines = first_lines(head, 1)
    if not lines:
        return None
    readings = [_reading(path, lines[0], delimiter, has_vectors) for delimiter in DELIMITERS]
    best = max(readings, key=lambda text: (_named(text, given), *_known(text), len(text.names)))
    columns = best.columns
    if given is not None:
        columns = ManifestColumns.of(best.names, given, has_vectors=has_vectors)
        best = replace(best, columns=columns)
    if not columns.is_table:
        return None
    lowered = [name.lower() for name in best.names]
    twice = next((name for name in best.names if lowered.count(name.lower()) > 1), None)
    if twice is not None:
        raise ManifestError(f"{path}: two columns are named {twice!r}; rename one of them")
    best.columns.check(path, best.names, has_vectors)
    return best


def _named(text: DelimitedText, given: ColumnNames | None) -> int:
    """Return how many of its columns the user names."""
    if given is None:
        return 0
    wanted = {name.strip().lower() for name in (given.image, given.id, *given.captions) if name}
    return len(wanted & {name.lower() for name in text.names})


def _known(text: DelimitedText) -> tuple[int, int]:
    return text.columns.recognised, len(text.columns.guessed)


def _reading(path: Path, header: str, delimiter: str, has_vectors: bool) -> DelimitedText:
    try:
        fields = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True))
    except csv.Error:
        fields = header.split(delimiter)
    # pandas leaves the index column without a name.
    names = [composed(name.strip()) or f"column {number}" for number, name in enumerate(fields, 1)]
    columns = ManifestColumns.of(names, has_vectors=has_vectors)
    return DelimitedText(path, delimiter, tuple(names), columns, has_vectors)


def _not_empty(names: Sequence[str], texts: Sequence[str]) -> dict[str, MetadataValue] | None:
    if all(texts):
        return dict(zip(names, texts, strict=True))
    return {name: text for name, text in zip(names, texts, strict=True) if text} or None
