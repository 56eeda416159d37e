"""The report file: every record that did not reach the index as the manifest has it, and why.

Notes stand in it too: of images that did, but whose reading a user should know of.
"""

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from clipsearch.engines import is_remote
from finetune.errors import EngineError
from finetune.files.outputs import is_report
from finetune.manifest.exclusion import shown_patterns
from finetune.manifest.formats.columns import COLUMNS, column_notes
from finetune.manifest.inputs import Inputs, check_output
from finetune.manifest.problems import LEFT_OUT, Problems

if TYPE_CHECKING:
    from _csv import Writer

REPORT_NAME = "feed-report.csv"
FEW = 3
"""So many rejections, or notes, are told beside their counts."""
HEADER = ("id", "kind", "reason")
# The manifest's note about a ready-made vector, which is just what is wanted here.
VECTOR_ALONE = "no image file"
_TOLD_OTHERWISE = (VECTOR_ALONE, COLUMNS, LEFT_OUT)
_is_report = is_report(",".join(HEADER))


@dataclass(frozen=True, slots=True)
class FeedReport:
    """What a feed did.

    Attributes:
        fed: New documents.
        updated: Documents that were there and have changed: image, words, path or metadata.
        reused: Of both, those whose embedding the index had already, under another document.
        unchanged: Documents that were as the manifest says already.
        removed: Documents of this data set that the manifest no longer has.
        rejected: Records that did not reach the index as they are.
        problems: Of the manifest, by kind.
        blanked: Records with characters that no index can hold in captions, tags or path: they are
            in the index with blanks in their place.
        seconds: From start to end.
        images_per_second: Documents written whole, with an embedding that the index did not have,
            over the time of that stage alone.
        report_path: With a row for each rejection, problem and note; None where there is none.
        notes: Sentences for the user.
        first_reasons: Of the first few rejections and problems: what, and why.
    """

    fed: int
    updated: int
    reused: int
    unchanged: int
    removed: int
    rejected: int
    problems: Mapping[str, int]
    blanked: int
    seconds: float
    images_per_second: float
    report_path: Path | None
    notes: tuple[str, ...] = ()
    first_reasons: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything in the manifest reached the index."""
        return not self.rejected and not self.problems


def report_path(target: str) -> Path:
    """Return where the report lies unless named.

    That is in the index's folder; for a Vespa, where we are.
    """
    return Path(REPORT_NAME) if is_remote(target) else Path(target) / REPORT_NAME


def check_report(path: Path, inputs: Inputs) -> None:
    """Raise UsageError where a report at `path` would replace a file that is none of ours.

    `inputs`: what the feed reads.
    """
    check_output(path, f"--report {path}", _is_report, inputs)


class Rejections:
    """Writes the report, made at the first rejection; a context manager.

    The report of an earlier feed is removed, so that it is never taken for this one's.

    Attributes:
        path: The report file.
        count: Rejections written.
        note_count: Notes written.
        first_reasons: Of the first FEW rejections: what, and why.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.note_count = 0
        self.first_reasons: list[str] = []
        self._file: TextIO | None = None
        self._writer: Writer | None = None
        if _is_report(path):
            path.unlink()

    def add(self, record_id: str, kind: str, reason: str) -> None:
        """Write a rejection. Raises EngineError where the report cannot be written."""
        self._write(record_id, kind, reason)
        self.count += 1
        if self.count <= FEW:
            self.first_reasons.append(_named(record_id, reason))

    def note(self, record_id: str, kind: str, reason: str) -> None:
        """Write a note. Raises EngineError where the report cannot be written."""
        self._write(record_id, kind, reason)
        self.note_count += 1

    def _write(self, record_id: str, kind: str, reason: str) -> None:
        try:
            if self._writer is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # By lines, so that a feed that is killed has told of what it rejected.
                self._file = self.path.open("w", buffering=1, encoding="utf-8", newline="")
                self._writer = csv.writer(self._file)
                self._writer.writerow(HEADER)
            self._writer.writerow((record_id, kind, reason))
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as failure:
            if error is None:
                raise self._unwritable(failure) from failure

    def _unwritable(self, error: OSError) -> EngineError:
        return EngineError(
            f"{self.path}: the report cannot be written ({error.strerror});"
            f" name another file with --report"
        )


def manifest_notes(problems: Problems, manifest: str) -> list[str]:
    """Return what a feed says of its manifest: its columns, and its other notes.

    A few of these as they are, more by their counts.
    """
    said = column_notes(problems)
    others = {kind: count for kind, count in problems.notes.items() if kind not in _TOLD_OTHERWISE}
    if 0 < sum(others.values()) <= FEW:
        found = [each for each in problems.examples if each.kind in others]
        return said + [_named(each.where, each.reason) for each in found]
    if others:
        listed = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
        command = shlex.join(["clipsearch", "manifest", "check", manifest])
        said.append(f"{listed}; more about them: {command}")
    return said


def about_left_out(patterns: Sequence[str], count: int) -> str:
    """Return what a feed says of the patterns that it leaves out; `count` files and folders."""
    found = f"{count:,}" if count else "nothing"
    return (
        f"{shown_patterns(patterns)} leaves out {found} (remembered with the index; --no-exclude"
        f" ends it)"
    )


def _named(where: str, reason: str) -> str:
    return reason if reason.startswith(f"{where}:") else f"{where}: {reason}"
