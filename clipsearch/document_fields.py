"""How the fields of a document are kept, by kind: as JSON, in a hash, in characters of an index.

A field says its kind once, where `clipsearch.documents.Document` declares it; whatever writes,
reads or compares documents goes by that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clipsearch.storable import blanked, blanked_path
from finetune.errors import DocumentError
from finetune.text.numerals import whole_or_float

Value = TypeVar("Value", str, float)
PART = "part"


@dataclass(frozen=True, slots=True, eq=False)
class FieldKind:
    """Of a field's values.

    Attributes:
        empty: Makes what a document without a value has.
        to_json: The value as JSON, exactly; `from_json` gives it back.
        from_json: Of what `to_json` gave.
        to_show: As JSON for people and their programs.
        ordered: The value for a hash, whatever the order of columns.
        storable: With blanks for characters that no engine can hold. Raises DocumentError where
            the names of two columns become one.
        joined: All its texts, names of columns among them, one after another.
    """

    empty: Callable[[], Any]
    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]
    to_show: Callable[[Any], Any]
    ordered: Callable[[Any], Any]
    storable: Callable[[Any], Any]
    joined: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class DocumentField:
    """A field of a document, other than its id and its embedding.

    Attributes:
        kind: Of its values.
        form: Of documents that have it, from this one on (`IndexInfo.document_form`): a Vespa of
            an earlier form may lack it in its schema. Only those of form 1 are in every JSON of a
            document; others where it has one.
        label: For people; the field's name unless given.
        in_hits: Whether searches ask for it. What tells feeds where a document comes from is not.
        is_shown: Whether people ask for it.
    """

    kind: FieldKind
    form: int
    label: str
    in_hits: bool
    is_shown: bool


def part(
    kind: FieldKind, *, form: int = 1, label: str = "", in_hits: bool = True, is_shown: bool = True
) -> Any:
    """Declare a field of a document; see `DocumentField`."""
    known = DocumentField(kind, form, label, in_hits, is_shown)
    return field(default_factory=kind.empty, metadata={PART: known})


def storable_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with blanks for characters that no engine can hold, in names and values."""
    return {column: blanked(value) for column, value in storable_names(tags).items()}


def storable_names(columns: Mapping[str, Value]) -> dict[str, Value]:
    """Return columns with blanks for characters that no engine can hold in their names.

    Raises DocumentError where the names of two become one.
    """
    named = {blanked(column): value for column, value in columns.items()}
    if len(named) < len(columns):
        names = sorted(column for column in columns if blanked(column) != column)
        raise DocumentError(
            f"the column {names[0]!r} has the name of another one once it is written with blanks"
            f" for what no index can hold; rename it"
        )
    return named


def _same(value: Any) -> Any:
    return value


def _sorted(columns: Mapping[str, Value]) -> list[tuple[str, Value]]:
    return sorted(columns.items())


def _floats(numbers: Mapping[str, float]) -> dict[str, float]:
    return {column: float(value) for column, value in numbers.items()}


def _whole_or_floats(numbers: Mapping[str, float]) -> dict[str, int | float]:
    return {column: whole_or_float(value) for column, value in numbers.items()}


def _all_blanked(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(blanked, texts))


def _tags_joined(tags: Mapping[str, str]) -> str:
    return "".join((*tags, *tags.values()))


TEXT = FieldKind(str, _same, _same, _same, _same, blanked, str)
PATH = FieldKind(str, _same, _same, _same, _same, blanked_path, str)
TEXTS = FieldKind(tuple, list, tuple, list, _same, _all_blanked, "".join)
TAGS = FieldKind(dict, dict, _same, dict, _sorted, storable_tags, _tags_joined)
NUMBERS = FieldKind(dict, _floats, _same, _whole_or_floats, _sorted, storable_names, "".join)
