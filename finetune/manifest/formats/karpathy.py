"""Karpathy's JSON: `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`.

The form in which RSICD, UCM, Sydney, Flickr8k, Flickr30k and COCO are spread; made by Andrej
Karpathy's NeuralTalk (https://cs.stanford.edu/people/karpathy/deepimagesent/). It is streamed:
COCO's is 144 MB on one line.
"""

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from finetune.errors import ManifestError
from finetune.files.bounded_json import JsonGuard, JsonLimitError
from finetune.files.regular_files import open_regular
from finetune.manifest.formats.row import MetadataValue, Row, metadata_value
from finetune.manifest.formats.text_lines import report_not_utf8
from finetune.manifest.problems import Problems

_KNOWN = frozenset({"filename", "filepath", "split", "sentences", "sentids", "id", "image"})
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# ijson fails on half of a surrogate pair: another escape stands for it on its way through.
_STANDS_FOR_HALF = "\uffff"
_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF_LENGTH = len(r"\uffff")
_ESCAPES = re.compile(rf"\\\\|{_HIGH}{_LOW}|{_HIGH}|{_LOW}")
# The beginning of an escape, or of a pair of them, that the next part of the file goes on with. An
# even number of backslashes before it are backslashes themselves.
_CUT_ESCAPE = re.compile(
    rf"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?)\Z"
)


@dataclass(frozen=True)
class KarpathyJson:
    """A file of Karpathy's form."""

    path: Path
    format: str = "karpathy"
    captioned: bool = True
    suffixes: tuple[str, ...] = ("",)

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the images one by one; `where` counts them from 1.

        Raises:
            ManifestError: the file ends early or is no valid JSON.
        """
        number = -1
        try:
            with open_regular(self.path) as file:
                stream = _Utf8Stream(file)
                for image in ijson.items(stream, "images.item", use_float=True):
                    number += 1
                    row = self._checked_row(image, number, stream, problems)
                    if row is not None:
                        yield row
        except JsonLimitError as error:
            raise ManifestError(f"{self.path}: behind image {number + 1:,}: {error}") from error
        except ijson.JSONError as error:
            raise ManifestError(
                f"{self.path}: no valid JSON behind image {number + 1:,}: {_one_line(error)}; "
                "the file may be cut off"
            ) from error

    def _checked_row(
        self, image: object, number: int, stream: "_Utf8Stream", problems: Problems
    ) -> Row | None:
        where = f"{self.path.name}:{number + 1}"
        try:
            row = self._row(_with_halves(image) if stream.halves else image, number)
        except ValueError as error:
            problems.add("bad row", where, str(error))
            return None
        if stream.mended and any(_REPLACEMENT in text for text in (row.image, *row.captions)):
            report_not_utf8(problems, where)
            return None
        return row

    def _row(self, image: object, number: int) -> Row:
        if not isinstance(image, dict):
            raise ValueError("the image is no JSON object")
        name = image.get("filename")
        folder = image.get("filepath") or ""
        if not isinstance(name, str) or not isinstance(folder, str):
            raise ValueError('the image has no "filename"')
        captions = (_sentence(each) for each in image.get("sentences") or ())
        metadata: dict[str, MetadataValue] = {
            key: value
            for key, given in image.items()
            if key not in _KNOWN and (value := metadata_value(given)) is not None
        }
        texts = [text for text in captions if text]
        split = image.get("split")
        return Row(
            number,
            self.path.name,
            number + 1,
            f"{folder}/{name}" if folder else name,
            tuple(texts),
            split=split if isinstance(split, str) else None,
            metadata=metadata or None,
        )


def recognise(path: Path) -> KarpathyJson | None:
    """Return the file as Karpathy's JSON; None where it is another JSON object.

    Raises:
        ManifestError: it is COCO's own annotation file, or no valid JSON from the start.
    """
    is_coco = False
    try:
        with open_regular(path) as file:
            # An object may tell about its data set at length before its images.
            for prefix, event, _ in ijson.parse(_Utf8Stream(file)):
                if prefix.startswith("images.item.sentences") or prefix == "images.item.filename":
                    return KarpathyJson(path)
                is_coco = is_coco or prefix == "images.item.file_name"
                if (prefix, event) == ("images", "end_array"):
                    return KarpathyJson(path)
                if (prefix, event) == ("images.item", "end_map"):
                    break
    except JsonLimitError as error:
        raise ManifestError(f"{path}: {error}, which no manifest is") from error
    except ijson.JSONError as error:
        raise ManifestError(f"{path}: no valid JSON: {_one_line(error)}") from error
    if is_coco:
        raise ManifestError(
            f"{path}: COCO's annotation files keep images and captions apart and are not read; "
            "use Karpathy's dataset_coco.json"
        )
    return None


class _Utf8Stream:
    """Gives ijson valid UTF-8, as it stops at the first byte, or the first escape, that is none.

    It keeps within the limits of `finetune.files.bounded_json`.

    Attributes:
        mended: Whether any byte was replaced (by U+FFFD) so far.
        halves: Whether any half of a surrogate pair was (by U+FFFF).
    """

    def __init__(self, file: BinaryIO) -> None:
        self.mended = False
        self.halves = False
        self._file = file
        self._guard = JsonGuard()
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._cut = ""

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        while True:
            raw = self._file.read(size)
            text = self._cut + self._decoder.decode(raw, final=not raw)
            self._cut = ""
            if not self.mended and _REPLACEMENT in text:
                self.mended = True
            if "\\" in text:
                text = self._without_halves(text, final=not raw)
            # A part of a character alone decodes to nothing, which would look like the end.
            if text or not raw:
                piece = text.encode()
                self._guard.check(piece)
                return piece

    def _without_halves(self, text: str, *, final: bool) -> str:
        cut = None if final else _CUT_ESCAPE.search(text)
        if cut is not None:
            text, self._cut = text[: cut.start(1)], text[cut.start(1) :]
        return _ESCAPES.sub(self._replaced, text)

    def _replaced(self, found: re.Match[str]) -> str:
        escape = found.group()
        if len(escape) != _HALF_LENGTH:
            return escape
        self.halves = True
        return r"\uffff"


def _with_halves(value: Any) -> Any:
    """Return the value as the file has it: what reads its texts further on tells of halves."""
    if isinstance(value, str):
        return value.replace(_STANDS_FOR_HALF, "\ud800")
    if isinstance(value, list):
        return [_with_halves(each) for each in value]
    if isinstance(value, dict):
        return {_with_halves(name): _with_halves(each) for name, each in value.items()}
    return value


def _sentence(sentence: Any) -> str:
    if isinstance(sentence, str):
        return sentence.strip()
    if not isinstance(sentence, Mapping):
        raise ValueError("a sentence is no JSON object")
    raw = sentence.get("raw")
    if raw is None and isinstance(sentence.get("tokens"), list):
        raw = " ".join(str(token) for token in sentence["tokens"])
    if raw is not None and not isinstance(raw, str):
        raise ValueError('the "raw" of a sentence is no text')
    return (raw or "").strip()


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].strip()
