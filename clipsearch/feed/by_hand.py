"""Documents changed by hand: their captions, tags and numbers, beside what a manifest says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from clipsearch.documents import Document
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import feed_lock, is_remote
from clipsearch.feed.columns import date_of
from clipsearch.feed.ledger.file import ledger_path
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed.ledger.mark import FeedMark
from clipsearch.feed.upgrade import upgraded
from clipsearch.operations import Outcome, Update
from clipsearch.storable import blanked
from finetune.errors import DocumentError, UsageError
from finetune.text.composed import composed
from finetune.text.numerals import read_number


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed; what is not named stays.

    Attributes:
        captions: In place of all before; None keeps those.
        tags, numbers: New value by column; None takes it away.
    """

    captions: tuple[str, ...] | None
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
        return cls(tuple(map(composed, captions)) or None, named, values)

    @classmethod
    def of(
        cls,
        captions: Sequence[str] | None,
        tags: Mapping[str, str | None],
        numbers: Mapping[str, float | None],
    ) -> Self:
        """Take values as a program gives them. Raises UsageError for an empty caption or column."""
        if any(not caption.strip() for caption in captions or ()):
            raise UsageError("a caption is empty; give a text, or leave it out")
        made: list[dict[str, str | float | None]] = []
        for given in (tags, numbers):
            named = {blanked(composed(column.strip())): given[column] for column in given}
            if "" in named or len(named) < len(given):
                raise UsageError("a column is given twice, or has no name; name each once")
            made.append(named)
        texts = {
            column: composed(str(value).strip()) or None if value is not None else None
            for column, value in made[0].items()
        }
        values = {
            column: None if value is None else float(value) for column, value in made[1].items()
        }
        return cls(None if captions is None else tuple(map(composed, captions)), texts, values)

    @property
    def is_nothing(self) -> bool:
        """Whether a document stays as it is."""
        return self.captions is None and not self.tags and not self.numbers

    def check(self, info: IndexInfo) -> None:
        """Raise UsageError where a column is kept as another kind in the index of `info`."""
        self.dates(info)
        for column in self.tags:
            if column in info.number_columns or column in self.numbers:
                raise UsageError(f"tag {column}: this index keeps it as numbers; give a number")
        for column in self.numbers:
            if column in info.date_columns:
                raise UsageError(f"number {column}: this index keeps it as dates; give a tag")
            if column in info.tag_columns:
                raise UsageError(f"number {column}: this index keeps it as text; give a tag")

    def dates(self, info: IndexInfo) -> dict[str, float | None]:
        """Return the seconds of the tags that the index keeps as dates.

        Raises UsageError for what is no date.
        """
        given = {name: value for name, value in self.tags.items() if name in info.date_columns}
        try:
            return {
                name: None if value is None else date_of(name, value)[1]
                for name, value in given.items()
            }
        except DocumentError as error:
            raise UsageError(f"tag {error}") from error

    def applied_to(self, document: Document, info: IndexInfo) -> Update:
        """Return the operation that changes the document, in the index of `info`.

        Raises UsageError for a date that is none.
        """
        tags = {**document.tags, **self.tags}
        numbers = {**document.numbers, **self.numbers, **self.dates(info)}
        return Update(
            document.id,
            captions=self.captions,
            tags={name: value for name, value in tags.items() if value is not None},
            numbers={name: value for name, value in numbers.items() if value is not None},
        ).storable()


class ChangeByHand:
    """A change of an index by hand, while every feed is kept out; see `by_hand`.

    Attributes:
        engine: The index.
        ledger: Of it.
    """

    def __init__(self, engine: Engine, ledger: Ledger, index: str) -> None:
        self.engine = engine
        self.ledger = ledger
        self._mark = FeedMark(engine, ledger, alone=not is_remote(index))
        self._has_begun = False

    def begin(self) -> list[str]:
        """Prepare the index for the first write; sentences about what had to be done for it."""
        notes = upgraded(self.engine, None)
        if self.is_about_the_index and self._mark.is_current():
            self._mark.agree()
        self._mark.begin("")
        self._has_begun = True
        return notes

    @property
    def is_about_the_index(self) -> bool:
        """Whether the ledger is that of this index, and not of one that lay here before."""
        return self.ledger.index_id == self.engine.info.index_id

    def end(self) -> None:
        """Finish what was begun."""
        if self._has_begun:
            self.engine.finish_feed()
            self._mark.end()


@contextmanager
def by_hand(engine: Engine, index: str, ledger: Path | None, work: str) -> Iterator[ChangeByHand]:
    """Keep out every feed of the open index; `begin` before the first write.

    Args:
        engine: The index, opened.
        index: Its target.
        ledger: None is `ledger_path`.
        work: "update" or "delete", for the one that is refused meanwhile.

    Raises EngineError where a feed is under way.
    """
    with (
        feed_lock(index, work),
        Ledger.open(ledger or ledger_path(index), work) as opened,
    ):
        change_by_hand = ChangeByHand(engine, opened, index)
        yield change_by_hand
        change_by_hand.end()


def first_error(outcomes: Sequence[Outcome], what: str) -> str | None:
    """Return a sentence about the first that failed; None where all went well."""
    failed = next((outcome for outcome in outcomes if outcome.error is not None), None)
    return None if failed is None else f"{failed.operation.id}: was not {what}: {failed.error}"


def change(engine: Engine, documents: Sequence[Document], changes: Changes) -> list[Outcome]:
    """Change documents, and let the index know of new columns first. Raises EngineError."""
    add_columns(engine, changes)
    info = engine.info
    return list(engine.feed(changes.applied_to(document, info) for document in documents))


def add_columns(engine: Engine, changes: Changes) -> None:
    """Let the index know of the columns that are new to it. Raises EngineError."""

    def with_columns(info: IndexInfo) -> IndexInfo:
        tags = {column for column, value in changes.tags.items() if value is not None}
        numbers = {column for column, value in changes.numbers.items() if value is not None}
        return replace(
            info,
            tag_columns=tuple(sorted(tags.difference(info.date_columns).union(info.tag_columns))),
            number_columns=tuple(sorted(numbers.union(info.number_columns))),
        )

    if with_columns(engine.info) != engine.info:
        engine.change_info(with_columns)


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
