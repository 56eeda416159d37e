r"""ROCO: figures of medical articles, as its repository spreads them.

`data/{train,validation,test}/{radiology,non-radiology}/` hold `captions.txt` (`ROCO_00002<TAB>
caption`), beside it `keywords.txt`, `cuis.txt` and `semtypes.txt` (an id and what belongs to it,
between tabs), `licences.txt` (CSV) and, once fetched, `images/ROCO_00002.jpg`
(https://github.com/razorx89/roco-dataset). Read is one `captions.txt`, or all below a folder.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.files.regular_files import open_regular
from finetune.manifest.formats.imageclef import ImageClefCaptions
from finetune.manifest.formats.row import IMAGE_SUFFIXES, MetadataValue, Row
from finetune.manifest.formats.text_lines import first_lines, open_lines
from finetune.manifest.problems import Problems
from finetune.manifest.splits import split_of_word

CAPTIONS = "captions.txt"
_ID = "ROCO_"
_HEAD_BYTES = 1 << 12
_KINDS = ("radiology", "non-radiology")
_LISTS = {"keywords": "keywords.txt", "cuis": "cuis.txt"}
_SEMANTIC_TYPES = "semtypes.txt"
_LICENCES = "licences.txt"


@dataclass(frozen=True)
class Roco:
    """Several parts of ROCO, each with a `captions.txt`, below one folder."""

    root: Path
    parts: tuple[Path, ...]
    format: str = "roco"
    captioned: bool = True
    suffixes: tuple[str, ...] = ("", *IMAGE_SUFFIXES)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the captions with what the files beside them say of each figure."""
        before = 0
        for part in self.parts:
            folder = part.relative_to(self.root).as_posix()
            prefix = "" if folder == "." else f"{folder}/"
            split = _split_of(part)
            known = _metadata(part)
            last = -1
            for row in ImageClefCaptions(part / CAPTIONS).rows(problems):
                last = row.number
                metadata = known.get(row.image, {})
                if part.name in _KINDS:
                    metadata = {"kind": part.name, **metadata}
                yield row._replace(
                    number=before + last,
                    source=prefix + row.source,
                    image=f"{prefix}images/{row.image}" if prefix else row.image,
                    id=row.image,
                    split=split,
                    metadata=metadata or None,
                )
            before += last + 1


def recognise(path: Path, head: bytes) -> Roco | None:
    """Return a `captions.txt` of ROCO's; None for another file."""
    lines = first_lines(head, 1)
    if path.name != CAPTIONS or not lines or not lines[0].startswith(_ID) or "\t" not in lines[0]:
        return None
    return Roco(path.parent, (path.parent,))


def recognise_folder(root: Path) -> Roco | None:
    """Return the parts of ROCO in a folder, or up to two levels below; None without any."""
    found = []
    for pattern in (CAPTIONS, f"*/{CAPTIONS}", f"*/*/{CAPTIONS}"):
        for path in root.glob(pattern):
            with open_regular(path) as file:
                if recognise(path, file.read(_HEAD_BYTES)) is not None:
                    found.append(path.parent)
    return Roco(root, tuple(sorted(found))) if found else None


def _split_of(part: Path) -> str | None:
    names = (part.name, part.parent.name) if part.name in _KINDS else (part.name,)
    return next((name for name in names if split_of_word(name)), None)


def _metadata(part: Path) -> dict[str, dict[str, MetadataValue]]:
    """Return what the files beside the captions say, by id; any of them may be missing."""
    known: dict[str, dict[str, MetadataValue]] = {}
    for column, name in _LISTS.items():
        for id, values in _tabbed(part / name):
            known.setdefault(id, {})[column] = "; ".join(values)
    for id, values in _tabbed(part / _SEMANTIC_TYPES):
        # Codes and names take turns: T047, Disease or Syndrome.
        known.setdefault(id, {})["semantic_types"] = "; ".join(values[1::2])
    licences = part / _LICENCES
    if licences.is_file():
        with open_lines(licences) as lines:
            for id, file, licence, *_ in filter(_is_licence, csv.reader(lines)):
                known.setdefault(id, {}).update(article=file.partition("_")[0], license=licence)
    return known


def _tabbed(path: Path) -> Iterator[tuple[str, list[str]]]:
    if not path.is_file():
        return
    with open_lines(path) as lines:
        for line in lines:
            lines.clear()
            id, *values = (each.strip() for each in line.split("\t"))
            values = [each for each in values if each]
            if id.startswith(_ID) and values:
                yield id, values


def _is_licence(row: list[str]) -> bool:
    return len(row) >= 3 and row[0].startswith(_ID)
