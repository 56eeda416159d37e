"""Documents changed by hand: their captions, tags and numbers, beside what a manifest says."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from clipsearch.documents import Document
from clipsearch.engine import Engine, IndexInfo
from clipsearch.operations import Outcome, Update
from clipsearch.storable import blanked
from finetune.errors import UsageError
from finetune.text.composed import composed
from finetune.text.numerals import read_number


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed; what is not named stays.

    Attributes:
        captions: In place of all before; none where empty.
        tags, numbers: New value by column; None takes it away.
    """

    captions: tuple[str, ...]
    tags: dict[str, str | None]
    numbers: dict[str, float | None]

    @classmethod
    def parse(cls, captions: Sequence[str], tags: Sequence[str], numbers: Sequence[str]) -> Self:
        """Read COLUMN=VALUE. Raises UsageError for what is none, or where nothing is changed."""
        if not (captions or tags or numbers):
            raise UsageError("nothing to change: give --caption, --tag or --number")
        blank = [caption for caption in captions if not caption.strip()]
        if blank:
            raise UsageError(
                "--caption is empty; give a text, or leave it out to keep what is there"
            )
        values: dict[str, float | None] = {}
        for column, text in _pairs("--number", numbers):
            number = read_number(text) if text else None
            if text and number is None:
                raise UsageError(f"--number {column}={text}: is no number; write one, as 2012")
            values[column] = number
        named = {column: text or None for column, text in _pairs("--tag", tags)}
        return cls(tuple(map(composed, captions)), named, values)

    def check(self, info: IndexInfo) -> None:
        """Raise UsageError where a column is kept as the other kind in the index of `info`."""
        for column in self.tags:
            if column in info.number_columns or column in self.numbers:
                raise UsageError(f"--tag {column}: this index keeps it as numbers; take --number")
        for column in self.numbers:
            if column in info.tag_columns:
                raise UsageError(f"--number {column}: this index keeps it as text; take --tag")

    def applied_to(self, document: Document) -> Update:
        """Return the operation that changes the document."""
        tags = {**document.tags, **self.tags}
        numbers = {**document.numbers, **self.numbers}
        return Update(
            document.id,
            captions=self.captions or None,
            tags={name: value for name, value in tags.items() if value is not None},
            numbers={name: value for name, value in numbers.items() if value is not None},
        ).storable()


def change(engine: Engine, documents: Sequence[Document], changes: Changes) -> list[Outcome]:
    """Change documents, and let the index know of new columns first. Raises EngineError."""

    def with_columns(info: IndexInfo) -> IndexInfo:
        tags = {column for column, value in changes.tags.items() if value is not None}
        numbers = {column for column, value in changes.numbers.items() if value is not None}
        return replace(
            info,
            tag_columns=tuple(sorted(tags.union(info.tag_columns))),
            number_columns=tuple(sorted(numbers.union(info.number_columns))),
        )

    if with_columns(engine.info) != engine.info:
        engine.change_info(with_columns)
    return list(engine.feed(changes.applied_to(document) for document in documents))


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in given:
        column, mark, value = text.partition("=")
        if not mark or not column.strip():
            raise UsageError(f"{option} {text}: write COLUMN=VALUE, as class=beach")
        pairs.append((blanked(composed(column.strip())), composed(value.strip())))
    if len({column for column, _ in pairs}) < len(pairs):
        raise UsageError(f"{option}: a column is given twice; a document has one value of it")
    return pairs
