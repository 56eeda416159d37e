"""webdataset: tar shards in which files of the same key are one sample.

`000001.jpg`, `000001.txt` (the caption) and `000001.json` (caption and metadata) are a sample,
as img2dataset writes it; what else may be in one is said in `webdataset_sample`. The key is the
member's path up to the first dot of its file name, and a sample's files follow each other
(https://github.com/webdataset/webdataset). Images are not unpacked: a record knows where in the
shard its image lies.
"""

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.errors import ManifestError
from finetune.files import bounded_json
from finetune.manifest.fields.tar_members import SPARSE, open_shard, read_member, regular_members
from finetune.manifest.fields.webdataset_sample import (
    JSON_SUFFIXES,
    READ_SUFFIXES,
    captions_and_metadata,
    chosen_image,
    merged,
)
from finetune.manifest.formats.columns import ColumnNames, ManifestColumns
from finetune.manifest.formats.row import IMAGE_SUFFIXES, Row
from finetune.manifest.formats.text_lines import report_not_utf8
from finetune.manifest.problems import Problems

WEBDATASET = "webdataset"
MAGIC = b"ustar"
MAGIC_OFFSET = 257
MOST_SHARDS = 100_000

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class WebDataset:
    """Tar shards, read in order. An id is the JSON's `id`, else `shard.tar/member.jpg`."""

    root: Path
    shards: tuple[Path, ...]
    format: str = WEBDATASET
    captioned: bool = True
    suffixes: tuple[str, ...] = ("",)

    def rows(self, problems: Problems) -> Iterator[Row]:
        """Read the samples.

        Raises:
            ManifestError: a shard is damaged or compressed.
        """
        number = -1
        for shard in self.shards:
            name = shard.relative_to(self.root).as_posix()
            for position, sample in enumerate(_samples(shard), 1):
                number += 1
                try:
                    row = _row(sample, name, number, position, problems)
                except UnicodeDecodeError:
                    report_not_utf8(problems, f"{name}/{sample.key}")
                except ValueError as error:
                    problems.add("bad row", f"{name}/{sample.key}", str(error))
                else:
                    if row is not None:
                        yield row


def recognise(path: Path) -> WebDataset:
    """Return a single shard."""
    return WebDataset(path.parent, (path,))


def recognise_folder(root: Path) -> WebDataset | None:
    """Return a folder with shards directly in it; None where there are none."""
    shards = sorted(each for each in root.glob("*.tar") if not each.name.startswith("."))
    return WebDataset(root, tuple(shards)) if shards else None


def recognise_pattern(pattern: str) -> WebDataset:
    """Return shards by a pattern: braces ("{000..012}", "{a,b}") or a glob ("*.tar").

    Raises:
        ManifestError: no file is meant by it, or one of the braces is missing.
    """
    paths: list[Path] = []
    for name in expand_braces(pattern):
        if any(sign in name for sign in "*?["):
            folder = Path(name.partition("*")[0].partition("?")[0].partition("[")[0]).parent
            relative = name[len(str(folder)) + 1 :] if str(folder) != "." else name
            paths += sorted(folder.glob(relative)) if folder.is_dir() else []
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            raise ManifestError(f"{pattern}: the shard {name} is missing")
    if not paths:
        raise ManifestError(f"{pattern}: no file has such a name")
    absolute = [path.absolute() for path in dict.fromkeys(paths)]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    return WebDataset(root, tuple(absolute))


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces means, as in a shell: ranges keep leading zeros.

    Raises ManifestError above MOST_SHARDS.
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    bounds = _RANGE.fullmatch(braces[1])
    if bounds is None:
        inner = braces[1].split(",")
    else:
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) >= MOST_SHARDS:
            raise ManifestError(f"{pattern}: means more than {MOST_SHARDS:,} shards")
        step = 1 if first <= last else -1
        width = max(map(len, bounds.groups())) if "0" in (bounds[1][0], bounds[2][0]) else 1
        inner = [f"{number:0{width}}" for number in range(first, last + step, step)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    names: list[str] = []
    for each in inner:
        names += expand_braces(before + each + after)
        if len(names) > MOST_SHARDS:
            raise ManifestError(f"{pattern}: means more than {MOST_SHARDS:,} shards")
    return names


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample's key, its images as members and its texts as bytes by extension.

    Attributes:
        refused: Why others of its members cannot be used.
    """

    key: str
    images: list[tarfile.TarInfo]
    texts: dict[str, bytes]
    refused: list[str]

    def add_image(self, member: tarfile.TarInfo) -> None:
        """Raise ValueError where its bytes do not lie in the shard as they are."""
        if member.issparse():
            raise ValueError(f"{member.name}: {SPARSE}")
        self.images.append(member)


def _samples(shard: Path) -> Iterator[_Sample]:
    try:
        with open_shard(shard) as tar:
            found = regular_members(tar)
            for key, members in itertools.groupby(found, key=lambda each: _key(each.name)):
                sample = _Sample(key, [], {}, [])
                for member in members:
                    extension = member.name[len(key) :].lower()
                    try:
                        if extension.endswith(IMAGE_SUFFIXES):
                            sample.add_image(member)
                        elif extension.endswith(READ_SUFFIXES):
                            sample.texts[extension] = read_member(tar, member)
                    except ValueError as error:
                        sample.refused.append(str(error))
                if sample.images or sample.texts or sample.refused:
                    yield sample
    except OSError as error:
        raise ManifestError(f"{shard}: cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError) as error:
        raise ManifestError(
            f"{shard}: damaged, cut off or compressed, no valid tar: {error}; "
            "shards are read in place and must not be compressed"
        ) from error


def _key(name: str) -> str:
    folder, slash, file_name = name.rpartition("/")
    return folder + slash + file_name.partition(".")[0]


def _row(sample: _Sample, shard: str, number: int, position: int, problems: Problems) -> Row | None:
    where = f"{shard}/{sample.key}"
    for reason in sample.refused:
        problems.add("bad row", where, reason)
    if not sample.images:
        problems.add("no image", where, "the sample has no image")
        return None
    extensions = [each.name[len(sample.key) :].lower() for each in sample.images]
    image = sample.images[chosen_image(extensions, where, problems)]
    image.name.encode()
    values = merged(_json_objects(sample.texts, where, problems))
    columns = ManifestColumns.of(["image", *values], ColumnNames(guesses=False))
    row = columns.row({**values, "image": image.name}, number, shard, position)
    texts = {
        extension: raw.decode("utf-8-sig")
        for extension, raw in sample.texts.items()
        if not extension.endswith(JSON_SUFFIXES)
    }
    captions, metadata = captions_and_metadata(texts, bool(row.captions))
    return row._replace(
        image=f"{shard}/{image.name}",
        captions=tuple(dict.fromkeys((*captions, *row.captions))),
        metadata={**metadata, **(row.metadata or {})} or None,
        shard=shard,
        offset=image.offset_data,
        size=image.size,
    )


def _json_objects(
    texts: Mapping[str, bytes], where: str, problems: Problems
) -> Iterator[dict[str, Any]]:
    """Yield the sample's JSON objects, `.json` itself first.

    One that is no object becomes a note.
    """
    found = [extension for extension in texts if extension.endswith(JSON_SUFFIXES)]
    for extension in sorted(found, key=lambda each: each not in JSON_SUFFIXES):
        try:
            yield _json_object(texts[extension])
        except ValueError as error:
            if extension in JSON_SUFFIXES:
                raise
            problems.note("column not read", where, f"{extension}: {error}")


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        values = bounded_json.loads(raw.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON: {error.msg}") from error
    if not isinstance(values, dict):
        raise ValueError("the JSON is no object")
    return values
