"""Karpathy's JSON: `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`.

The form in which RSICD, UCM, Sydney, Flickr8k, Flickr30k and COCO are spread; made by Andrej
Karpathy's NeuralTalk (https://cs.stanford.edu/people/karpathy/deepimagesent/). It is streamed:
COCO's is 144 MB on one line.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ijson

from finetune.errors import ManifestError
from finetune.files.bounded_json import JsonLimitError
from finetune.files.regular_files import open_regular
from finetune.manifest.fields.json_stream import REPLACEMENT, Utf8Stream, items_of, one_line
from finetune.manifest.formats.row import MetadataValue, Row, metadata_value
from finetune.manifest.formats.text_lines import report_not_utf8
from finetune.manifest.problems import Problems

_KNOWN = frozenset({"filename", "filepath", "split", "sentences", "sentids", "id", "image"})


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
        images = items_of(self.path, "images.item", lambda count: f"behind image {count:,}")
        for number, (image, is_utf8) in enumerate(images):
            row = self._checked_row(image, number, problems, is_utf8=is_utf8)
            if row is not None:
                yield row

    def _checked_row(
        self, image: object, number: int, problems: Problems, *, is_utf8: bool
    ) -> Row | None:
        where = f"{self.path.name}:{number + 1}"
        try:
            row = self._row(image, number)
        except ValueError as error:
            problems.add("bad row", where, str(error))
            return None
        if not is_utf8 and any(REPLACEMENT in text for text in (row.image, *row.captions)):
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
        ManifestError: it is no valid JSON from the start.
    """
    try:
        with open_regular(path) as file:
            # An object may tell about its data set at length before its images.
            for prefix, event, _ in ijson.parse(Utf8Stream(file)):
                if prefix.startswith("images.item.sentences") or prefix == "images.item.filename":
                    return KarpathyJson(path)
                if (prefix, event) == ("images", "end_array"):
                    return KarpathyJson(path)
                if (prefix, event) == ("images.item", "end_map"):
                    break
    except JsonLimitError as error:
        raise ManifestError(f"{path}: {error}, which no manifest is") from error
    except ijson.JSONError as error:
        raise ManifestError(f"{path}: no valid JSON: {one_line(error)}") from error
    return None


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
