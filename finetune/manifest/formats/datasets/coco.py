"""COCO's captions: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

`captions_val2017.json` and its like (https://cocodataset.org/#format-data), and what others write
in that form. Captions are brought to their images in a temporary database, so that memory is
bounded; the licence of an image is told by its name.
"""

import marshal
import mmap
import sqlite3
from collections.abc import Iterator
from contextlib import closing
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

_SCHEMA = """
CREATE TABLE image (number INTEGER PRIMARY KEY, id TEXT UNIQUE, packed BLOB);
CREATE TABLE caption (image TEXT, number INTEGER, packed BLOB, PRIMARY KEY (image, number));
"""
_ROWS = """
SELECT image.number, image.packed, caption.packed
FROM image LEFT JOIN caption ON caption.image = image.id
ORDER BY image.number, caption.number
"""
_KNOWN = frozenset({"file_name", "id", "license", "captions"})


@dataclass(frozen=True)
class CocoCaptions:
    """A file of COCO's form.

    Attributes:
        captioned: Whether there are captions; `image_info_test2017.json` has none.
    """

    path: Path
    captioned: bool
    format: str = "coco"
    suffixes: tuple[str, ...] = ("",)

    @property
    def root(self) -> Path:
        """The file's folder."""
        return self.path.parent

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the images, each with its captions in the order of the annotations.

        Raises:
            ManifestError: the file ends early or is no valid JSON.
        """
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            database.executescript(_SCHEMA)
            self._read_images(database, problems)
            if self.captioned:
                self._read_captions(database, problems)
            with closing(database.execute(_ROWS)) as found:
                yield from self._merged(found)

    def _merged(self, found: sqlite3.Cursor) -> Iterator[Row]:
        row: Row | None = None
        captions: list[str] = []
        for number, packed, caption in found:
            if row is None or number != row.number:
                if row is not None:
                    yield row._replace(captions=tuple(captions))
                image, metadata = marshal.loads(packed)
                row = Row(number, self.path.name, number + 1, image, (), metadata=metadata or None)
                captions.clear()
            if caption is not None:
                captions.append(marshal.loads(caption))
        if row is not None:
            yield row._replace(captions=tuple(captions))

    def _read_images(self, database: sqlite3.Connection, problems: Problems) -> None:
        licences = self._licences()
        for number, (image, is_utf8) in enumerate(self._items("images")):
            where = f"{self.path.name}:{number + 1}"
            name = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(name, str) or not name:
                problems.add("bad row", where, 'the image has no "file_name"')
                continue
            if not is_utf8 and REPLACEMENT in name:
                report_not_utf8(problems, where)
                continue
            metadata: dict[str, MetadataValue] = {
                key: value
                for key, given in image.items()
                if key not in _KNOWN and (value := metadata_value(given)) is not None
            }
            licence = metadata_value(licences.get(str(image.get("license"))))
            if licence is not None:
                metadata["license"] = licence
            added = database.execute(
                "INSERT OR IGNORE INTO image VALUES (?, ?, ?)",
                (number, _key(image.get("id")), marshal.dumps((name, metadata))),
            )
            if not added.rowcount:
                reason = f"{name}: its id {image.get('id')} is that of an image before"
                problems.add("duplicate id", where, reason)

    def _licences(self) -> dict[str, object]:
        try:
            found = [each for each, _ in self._items("licenses") if isinstance(each, dict)]
        except ManifestError:  # reading the images tells how far the file is valid
            return {}
        return {str(each.get("id")): each.get("name") for each in found}

    def _read_captions(self, database: sqlite3.Connection, problems: Problems) -> None:
        for number, (annotation, is_utf8) in enumerate(self._items("annotations")):
            where = f"{self.path.name}:annotation {number + 1}"
            text = annotation.get("caption") if isinstance(annotation, dict) else None
            if not isinstance(text, str):
                problems.add("bad row", where, 'the annotation has no "caption"')
                continue
            if not is_utf8 and REPLACEMENT in text:
                report_not_utf8(problems, where)
                continue
            image = _key(annotation.get("image_id"))
            known = database.execute("SELECT 1 FROM image WHERE id = ?", (image,)).fetchone()
            if known is None:
                reason = f"is of the image {annotation.get('image_id')}, which the file has not"
                problems.add("bad row", where, reason)
            elif text.strip():
                packed = marshal.dumps(text.strip())  # as it may hold half a character
                database.execute("INSERT INTO caption VALUES (?, ?, ?)", (image, number, packed))

    def _items(self, name: str) -> Iterator[tuple[Any, bool]]:
        """Yield what one of the lists holds, and whether all of the file so far was UTF-8."""
        return items_of(self.path, f"{name}.item", lambda count: f"behind {count:,} {name}")


def recognise(path: Path) -> CocoCaptions | None:
    """Return the file as COCO's; None where it is another JSON object.

    Raises:
        ManifestError: its annotations are no captions, or it is no valid JSON from the start.
    """
    try:
        with open_regular(path) as file:
            for prefix, event, _ in ijson.parse(Utf8Stream(file)):
                if prefix == "images.item.file_name":
                    break
                if (prefix, event) == ("images.item", "end_map"):
                    return None
            else:
                return None
    except (JsonLimitError, ijson.JSONError) as error:
        raise ManifestError(f"{path}: no valid JSON: {one_line(error)}") from error
    captioned = _holds(path, b'"caption"')
    if not captioned and _holds(path, b'"image_id"'):
        raise ManifestError(
            f"{path}: its annotations are no captions, but boxes or key points;"
            " name COCO's captions_….json"
        )
    return CocoCaptions(path, captioned)


def _holds(path: Path, text: bytes) -> bool:
    with (
        open_regular(path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        return mapped.find(text) >= 0


def _key(id: object) -> str | None:
    """Return an id as text: COCO has numbers, what others write in its form texts too."""
    return str(id) if isinstance(id, int | str) else None
