"""What is wrong with the records: counted, named in a report, never dropped in silence."""

import csv
import itertools
import marshal
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The kind of note about a record that has no image file, but its ready-made vector.
VECTOR_ALONE = "no image file"

EXAMPLES_OF_A_KIND = 5
PACKED_AT_ONCE = 1000
HEADER = ("kind", "where", "reason")

# The kind of note about what the user wants left out.
LEFT_OUT = "left out"

# The kind of note about an image that was read by `finetune.images.sample_depth`'s last rule.
OWN_RANGE = "own range"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: "missing file", "unreadable image", "empty caption", "duplicate id", "not utf-8",
            "no image", "bad row", "bad embedding", "two splits", "unknown split", and in folders
            "picture not taken", "linked folder", "unreadable folder", "unreadable captions";
            notes are "no caption", "text without picture", "format not read",
            "no image file", "different values", "stray quote", "unread list",
            "column not read", "half a character", "own range", "cut caption", "image not taken",
            "same content", "same content in two splits" and "left out".
        where: The file and line, or the image.
        reason: What is wrong there, for people.
        hides: The id of the record that the manifest lacks by it, or, with a `/` at its end, what
            their ids begin with, or an absolute path, of which the id depends on what folders are
            there; None where it lacks none, or nobody can say which.
    """

    kind: str
    where: str
    reason: str
    hides: str | None = None


class Problems:
    """Counts problems and keeps them all, packed: a million of them take about 10 MB.

    Notes are told in the report and never make a command fail.

    Attributes:
        counts: Kind to number of problems.
        notes: Kind to number of notes.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.notes: dict[str, int] = {}
        self._examples: dict[str, list[Problem]] = {}
        self._waiting: list[tuple[str, str, str, str | None]] = []
        self._packed: list[bytes] = []

    def add(self, kind: str, where: str, reason: str, hides: str | None = None) -> None:
        """Count and keep a problem; `hides` as in `Problem`."""
        self._keep(self.counts, kind, where, reason, hides)

    def note(self, kind: str, where: str, reason: str) -> None:
        """Count and keep a note: worth telling, no error."""
        self._keep(self.notes, kind, where, reason)

    def note_all(self, kind: str, notes: Sequence[tuple[str, str]]) -> None:
        """Count and keep notes of one kind: (where, reason) of each."""
        few = EXAMPLES_OF_A_KIND
        for where, reason in notes[:few]:
            self.note(kind, where, reason)
        if len(notes) <= few:
            return
        self.notes[kind] += len(notes) - few
        self._waiting += [(kind, *_encodable(*each), None) for each in notes[few:]]
        self._pack()

    def extend(self, others: "Problems") -> None:
        """Take in all of others' problems and notes."""
        for problem in others:
            counts = self.notes if problem.kind in others.notes else self.counts
            self._keep(counts, problem.kind, problem.where, problem.reason, problem.hides)

    def __len__(self) -> int:
        """Return the number of problems, without the notes."""
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Problem]:
        """Yield all problems and notes, in the order in which they were found."""
        for packed in self._packed:
            yield from itertools.starmap(Problem, marshal.loads(zlib.decompress(packed)))
        yield from itertools.starmap(Problem, list(self._waiting))

    @property
    def examples(self) -> list[Problem]:
        """The first few problems of each kind; notes come last."""
        kinds = [*self.counts, *self.notes]
        return [problem for kind in kinds for problem in self._examples[kind]]

    def summary(self) -> str:
        """Return one line: "3 problems: 2 missing file, 1 empty caption"."""
        total = len(self)
        if not total:
            return "no problems"
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items())
        return f"{total:,} problem{'s' if total > 1 else ''}: {kinds}"

    def write(self, path: Path) -> None:
        """Write the report: a CSV file of kind, where and reason, a row for each."""
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            writer.writerows((each.kind, each.where, each.reason) for each in self)

    def close(self) -> None:
        """Free the memory; counts and examples stay."""
        self._packed, self._waiting = [], []

    def _keep(
        self, counts: dict[str, int], kind: str, where: str, reason: str, hides: str | None = None
    ) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_OF_A_KIND:
            examples.append(Problem(kind, where, reason, hides))
        self._waiting.append((kind, *_encodable(where, reason), hides))
        self._pack()

    def _pack(self) -> None:
        if len(self._waiting) >= PACKED_AT_ONCE:
            self._packed.append(zlib.compress(marshal.dumps(self._waiting), level=1))
            self._waiting = []


def _encodable(where: str, reason: str) -> tuple[str, str]:
    if where.isascii() and reason.isascii():
        return where, reason
    # A file name that is no UTF-8 must not stop the report of just that.
    where, reason = (text.encode(errors="backslashreplace").decode() for text in (where, reason))
    return where, reason
