"""What a query is made of: texts, images, indexed images and vectors, each with a weight."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from clipsearch.documents import Document, Embedding
from clipsearch.engine import MAX_WEIGHT
from clipsearch.modes import Mode, ranking_of
from clipsearch.text import tokens
from finetune.errors import UsageError
from finetune.files.regular_files import what_lies_at
from finetune.images.pixel_box import PixelBox
from finetune.near_names import did_you_mean
from finetune.several import check_several

if TYPE_CHECKING:
    from PIL.Image import Image

PartKind = Literal["text", "words", "image", "id", "vector"]

_A = {"text": "a text", "words": "words", "id": "an id", "vector": "a vector"}
# Of `words`: a caption may be a book.
MOST_WORDS = 256
_WEIGHT = re.compile(r"(?P<value>.*):(?P<weight>[+-]?(\d+\.?\d*|\.\d+))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a query.

    Attributes:
        kind: What `value` is.
        value: The text, whose words count in the lexical half of a ranking, and which is a vector
            as a whole; words, each counted once, which count in the lexical half alone; the image
            (a file, its bytes, or a Pillow image); the id of an indexed image; or a vector
            float32[d] of any length but 0 (an array, or a .npy file).
        weight: At most MAX_WEIGHT; a negative one moves the answer away from the part.
        crop: The part of an image that is meant; None for all of it.
    """

    kind: PartKind
    value: "str | Path | bytes | Image | npt.ArrayLike"
    weight: float = 1.0
    crop: PixelBox | None = None


def query_parts(
    text: str | None = None,
    *,
    image: "str | Path | bytes | Image | None" = None,
    crop: PixelBox | None = None,
    vector: npt.ArrayLike | None = None,
    parts: Sequence[Part] = (),
) -> tuple[Part, ...]:
    """Return what a query is given as parts: each of weight 1, before `parts`.

    Raises UsageError for a crop without an image.
    """
    check_several(parts, "parts")
    if crop is not None and image is None:
        raise UsageError("a crop is a part of an image, and there is none")
    return (
        *([] if text is None else [Part("text", text)]),
        *([] if image is None else [Part("image", image, crop=crop)]),
        *([] if vector is None else [Part("vector", vector)]),
        *parts,
    )


def parse_part(kind: PartKind, text: str) -> Part:
    """Return a part from `value` or `value:weight`.

    What follows the last colon is the weight if it is a plain number (2, -1, 0.5); otherwise it
    belongs to the value (C:\\photos\\a.jpg). A value that ends in a colon and a number is written
    with its weight: `ratio 3:4:1` is the text `ratio 3:4`.

    Raises UsageError for an empty value.
    """
    found = _WEIGHT.fullmatch(text)
    value, weight = (found["value"], float(found["weight"])) if found else (text, 1.0)
    if not value.strip():
        raise UsageError(f"{text!r} has no {kind} before its weight; write {kind}:weight")
    return Part(kind, value, weight)


def distinct_tokens(part: Part, language: str) -> list[str]:
    """Return the tokens of words, each once, in the order of their first places."""
    return list(dict.fromkeys(tokens(str(part.value), language)))[:MOST_WORDS]


def parts_like(document: Document, mode: Mode) -> tuple[Part, ...]:
    """Return the parts of the query for what is like a document: its id, its captions' words.

    Raises UsageError for one without captions in a mode that looks for nothing but words.
    """
    words = "\n".join(document.captions)
    if words.strip():
        return (Part("id", document.id), Part("words", words))
    if ranking_of(mode).needs_vector:
        return (Part("id", document.id),)
    raise UsageError(f"{document.id} has no captions to look for; use --mode vector")


def vector_parts(parts: Sequence[Part], mode: Mode) -> Sequence[Part]:
    """Return the parts of which the query's vector is made.

    Raises UsageError where there are none.
    """
    of_vector = [part for part in parts if part.kind != "words"]
    if not of_vector:
        raise UsageError(
            f"mode {mode} compares a vector, and words are none: add a text, an image or an id, or"
            f" use --mode bm25"
        )
    return of_vector


def check_parts(parts: Sequence[Part]) -> None:
    """Raise UsageError where there is nothing to search for, or a weight or a text is none."""
    if not parts:
        raise UsageError("nothing to search for: give a text, an image or an id")
    for part in parts:
        if part.kind not in get_args(PartKind):
            raise UsageError(f"unknown kind of part {part.kind!r}: {', '.join(get_args(PartKind))}")
        if not abs(part.weight) <= MAX_WEIGHT:
            raise UsageError(
                f"a part has the weight {part.weight:g}; weights must be finite, and at most"
                f" {MAX_WEIGHT:g} either way"
            )
        if part.kind == "words" and part.weight != 1:
            raise UsageError(
                f"words have no weight of their own, but these have {part.weight:g}: weigh them"
                f" against the vector with --bm25-weight and --vector-weight"
            )
        if part.kind in ("text", "words", "id") and not _is_text(str(part.value)):
            raise UsageError(
                f"the {part.kind} {part.value!r} holds half of a character (a lone surrogate);"
                f" give text that can be written in UTF-8"
            )
        if part.crop is not None and part.kind != "image":
            raise UsageError(f"a crop is of an image, not of a part that is {_A[part.kind]}")
        if isinstance(part.value, str) and not part.value.strip():
            raise UsageError(f"an empty {part.kind} is nothing to search for; give some")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def words_only(parts: Sequence[Part], mode: Mode) -> list[str]:
    """Return notes on what a query without a vector leaves out.

    Raises UsageError where nothing is left.
    """
    left_out = [part for part in parts if part.kind not in ("text", "words") or part.weight <= 0]
    if len(left_out) == len(parts):
        raise UsageError(
            f"mode {mode} looks for words, and the query has no text with a positive weight:"
            f" add one, or use --mode vector"
        )
    if not left_out:
        return []
    return [f"{mode} looks for words: pictures, vectors and negative texts did not count"]


def unit_vector(part: Part, dimension: int) -> Embedding:
    """Return the vector that the part brings, float32[dimension], at unit length.

    Raises UsageError where the file or the array is not one finite vector of that size.
    """
    vector, name = part.value, "the query's vector"
    if isinstance(vector, str | Path):
        name = str(vector)
        vector = _read_vector(Path(vector))
    try:
        values = np.asarray(vector)
    except ValueError as error:  # lists of unequal lengths
        raise UsageError(f"{name}: is no vector of numbers ({error})") from error
    if values.dtype.kind not in "iuf":
        raise UsageError(f"{name}: is no vector of numbers, but of {values.dtype}")
    if values.shape not in ((dimension,), (1, dimension)):
        raise UsageError(f"{name}: has the shape {values.shape}, the index needs ({dimension},)")
    values = values.reshape(dimension).astype(np.float64)
    largest = float(np.abs(values).max())
    if not math.isfinite(largest) or largest == 0:
        raise UsageError(f"{name}: must be finite and not all zeros")
    values = values / largest  # whose squares neither overflow nor vanish
    unit: Embedding = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


def _read_vector(path: Path) -> npt.NDArray[Any]:
    if not path.is_file():
        reason = what_lies_at(path) or f"no such file{did_you_mean(path)}"
        raise UsageError(f"{path}: {reason}; give an .npy file of one vector")
    try:
        # Mapped: a header may tell of any size, and its array need not be read to see that.
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        # What NumPy says of other formats is how to load them in an unsafe way.
        raise UsageError(f"{path}: is no .npy file of one vector") from error
    except Exception as error:  # NumPy raises nearly anything for a broken header
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: is no .npy file of one vector ({reason})") from error
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        raise UsageError(f"{path}: is an archive of arrays, not the .npy file of one vector")
    return loaded
