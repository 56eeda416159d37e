"""The row: what every format is read into, and the meaning of values."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from finetune.files import bounded_json
from finetune.images.formats import image_suffixes
from finetune.manifest.fields.list_texts import listed_texts
from finetune.manifest.problems import Problems
from finetune.text.composed import composed
from finetune.text.numerals import value_text
from finetune.text.strict_json import dumps

MetadataValue = str | float | int | None
# What a list in a field begins with; no empty text.
LIST_MARKS = ("[", "(", "{")

IMAGE_SUFFIXES = image_suffixes()
HALF_CHARACTER = "half a character"

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """One row of a manifest, before rows of the same image are merged.

    Attributes:
        number: Counts the data rows from 0, bad ones too: the row of a paired .npy file.
        source: The file's name, for messages.
        line: Where the row begins in that file, from 1.
        image: The image as the manifest names it; empty where the row has none.
        captions: Stripped, none empty.
        id: As given, None otherwise.
        split: As given, in any spelling; None otherwise.
        metadata: Every other column that is not empty; None for none.
        embedding: float32 values as bytes; None otherwise.
        shard: The tar shard that holds the image, relative to the manifest's root; None where
            the image is a file.
        offset, size: Of the image's bytes within the shard.
    """

    number: int
    source: str
    line: int
    image: str
    captions: tuple[str, ...]
    id: str | None = None
    split: str | None = None
    metadata: dict[str, MetadataValue] | None = None
    embedding: bytes | None = None
    shard: str | None = None
    offset: int | None = None
    size: int | None = None

    @property
    def where(self) -> str:
        """The file and line, for messages."""
        return f"{self.source}:{self.line}"


class FiniteFloats(bytes):
    """float32 values of an embedding that were found to be finite, all at once."""


def with_whole_characters(row: Row, problems: Problems) -> Row | None:
    r"""Return the row with a blank for each half of a surrogate pair, as JSON's "\ud800" alone is.

    No file of UTF-8 holds such a half, so neither does an index: the rest of a caption is kept, and
    a note tells. None, and a problem, where the image's name or the id holds one.
    """
    if _LONE_SURROGATE.search(row.image) or _LONE_SURROGATE.search(row.id or ""):
        reason = "the image's name or the id holds half a character (a lone surrogate)"
        problems.add("bad row", row.where, reason)
        return None
    metadata = row.metadata or {}
    if all(map(_is_ascii, (*row.captions, row.split, *metadata, *metadata.values()))):
        return row
    mended = row._replace(
        captions=tuple(text for each in row.captions if (text := _whole(each).strip())),
        split=None if row.split is None else _whole(row.split),
        metadata={
            _whole(name): _whole(value) if isinstance(value, str) else value
            for name, value in metadata.items()
        }
        or None,
    )
    if mended == row:
        return row
    problems.note(HALF_CHARACTER, row.where, "a lone surrogate; a blank stands for it")
    return mended


def _whole(text: str) -> str:
    return text if text.isascii() else _LONE_SURROGATE.sub(" ", text)


def in_composed_form(row: Row) -> Row:
    """Return the row with captions and metadata in the composed Unicode form.

    Image and id stay as written: the file may be spelled so, and an index may know the id.
    """
    if not all(map(str.isascii, row.captions)):
        row = row._replace(captions=tuple(map(composed, row.captions)))
    metadata = row.metadata
    if metadata and not all(map(_is_ascii, (*metadata, *metadata.values()))):
        row = row._replace(
            metadata={
                composed(name): composed(value) if isinstance(value, str) else value
                for name, value in metadata.items()
            }
        )
    return row


def is_ascii(row: Row) -> bool:
    """Return whether nothing in the row, as in most, has to be looked at for its Unicode form."""
    if not row.image.isascii() or not (row.id or "").isascii() or not (row.split or "").isascii():
        return False
    for caption in row.captions:
        if not caption.isascii():
            return False
    if row.metadata:
        for name, value in row.metadata.items():
            if not name.isascii() or (isinstance(value, str) and not value.isascii()):
                return False
    return True


def _is_ascii(value: MetadataValue) -> bool:
    return not isinstance(value, str) or value.isascii()


class ManifestSource(Protocol):
    """A recognised manifest that can be read row by row."""

    @property
    def format(self) -> str:
        """Name of the format: "csv", "karpathy" …"""
        ...

    @property
    def root(self) -> Path:
        """The folder from which relative image paths are meant."""
        ...

    @property
    def captioned(self) -> bool:
        """Whether the format, with its columns, holds captions at all."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Tried in order behind an image's name."""
        ...

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the rows in order; what cannot be read goes to `problems`."""
        ...


def caption_values(value: object, *, lists: bool = True) -> tuple[str, ...]:
    """Return the captions of a value, a text or a list of texts; stripped, none empty.

    A text may itself be a list of texts, as CSV has to write several (see `list_texts`): with
    `lists`, as in a column "captions", of any number; else of two at least, since one caption may
    well stand in brackets.
    """
    if isinstance(value, str):
        text = value.strip()
        listed = listed_texts(text) if text[:1] in LIST_MARKS else None
        if listed is None or not (lists or len(listed) > 1):
            return (text,) if text else ()
        value = listed
    if isinstance(value, list | tuple):
        texts = (text_of(each) for each in value)
        return tuple(text for text in texts if text)
    text = text_of(value)
    return (text,) if text else ()


def looks_like_list(caption: str) -> bool:
    """Return whether a caption is a list of texts that could not be read as one."""
    return caption.startswith(("['", '["')) and caption.endswith("]")


def metadata_text(text: str) -> str | None:
    """Return a text as metadata, without outer blanks, as filters have it; a list joined with "; ".

    None where nothing is left.
    """
    text = text.strip()
    if text[:1] in LIST_MARKS and (listed := listed_texts(text)) is not None:
        return "; ".join(listed) or None
    return text or None


def metadata_value(value: object) -> MetadataValue:
    """Return a value as metadata: lists are joined with "; ", empty ones and NaN are None."""
    if value is None:
        return None
    if isinstance(value, str):
        return metadata_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple | set):
        texts = (metadata_value(each) for each in value)
        return "; ".join(value_text(text) for text in texts if text is not None) or None
    if isinstance(value, dict):
        return dumps(value, default=str) if value else None
    return str(value)


def embedding_value(value: object) -> bytes | None:
    """Return float32 values as bytes, of a list of numbers, or of one as JSON or NumPy writes it.

    Raises:
        ValueError: it is no list of finite numbers.
    """
    if isinstance(value, FiniteFloats):
        return value
    # An array compared with a text is an array.
    if value is None or (isinstance(value, str) and not value):
        return None
    try:
        numbers = _listed_numbers(value) if isinstance(value, str) else value
        vector = np.asarray(numbers, dtype=np.float32)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("the embedding is no list of numbers") from error
    if vector.ndim != 1 or not vector.size:
        raise ValueError("the embedding is no list of numbers")
    if not np.isfinite(vector).all():
        raise ValueError("the embedding has values that are not finite")
    return vector.tobytes()


def _listed_numbers(text: str) -> Any:
    try:
        return bounded_json.loads(text)
    except json.JSONDecodeError:
        # NumPy writes no commas: "[0.1 0.2\n 0.3]".
        return [
            float(number) for number in text.strip().removeprefix("[").removesuffix("]").split()
        ]


def text_of(value: object) -> str:
    """Return a value as text without outer blanks, empty for none.

    Raises ValueError for a list or an object.
    """
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, dict | list):
        raise ValueError(f"a text is needed where {type(value).__name__} stands")
    return str(value)
