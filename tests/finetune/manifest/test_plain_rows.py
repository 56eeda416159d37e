"""Rows that are merged by columns give what each gives by itself."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_manifests import picture

from finetune.errors import ManifestError
from finetune.manifest.manifest import Manifest
from finetune.manifest.merging import plain_rows
from finetune.manifest.merging.plain_rows import PlainRows

NAMES = ("a", "b.jpg", "x/c.jpg", "x/d.jpg", "./e.jpg", "x//f.jpg", "é.jpg", "101.0", "/abs/g.jpg")
CAPTIONS = ("two dogs", " a beach ", "", "['one', 'two']", "[sic] a dog", "ein Café", "(a) b")
VALUES = ("1", "2010.0", "02134", "", "red", "['x', 'y']", " blue ", "1e5")
SPLITS = ("train", "dev", "", "", "unheard")


def made_up(chance: random.Random, folder: Path) -> dict[str, Any]:
    """A table, mostly plain; which of its columns there are is by chance too."""
    odd = chance.random() < 0.6
    count = chance.randrange(1, 40)
    columns: dict[str, list[str]] = {"image": [], "caption": []}
    for number in range(count):
        name = f"{'xy'[number % 2]}/{number:03}.jpg"
        if odd and chance.random() < 0.15:
            name = chance.choice(NAMES)
        repeats = chance.choice((1, 1, 1, 2)) if odd else 1
        columns["image"] += [name] * repeats
        columns["caption"] += [
            chance.choice(CAPTIONS) if odd and chance.random() < 0.2 else f"caption {number}"
            for _ in range(repeats)
        ]
    rows = len(columns["image"])
    if chance.random() < 0.5:
        columns["id"] = [
            chance.choice(("", "twice", "7.0")) if odd and chance.random() < 0.1 else f"id {number}"
            for number in range(rows)
        ]
    for name, values in (("split", SPLITS), ("class", VALUES), ("year", VALUES[:3])):
        if chance.random() < 0.6:
            columns[name] = [chance.choice(values if odd else values[:2]) for _ in range(rows)]
    for name in set(columns["image"]):
        if chance.random() < 0.7 and name.endswith(".jpg") and name[0] != "/":
            picture(folder / name)
    return columns


def read(path: Path) -> tuple[Any, ...]:
    with Manifest.open(path, digests=True) as manifest:
        records = [
            (each, None if each.embedding is None else each.embedding.tobytes())
            for each in manifest.records()
        ]
        digests = manifest.digests
        blocks = list(manifest.record_blocks(7))
        by_columns = [manifest.record_of(row) for block in blocks for row in block.rows]
        assert list(map(str, by_columns)) == [str(each) for each, _ in records]
        for block in blocks:
            whole = [manifest.record_of(row) for row in block.rows]
            assert list(block.ids) == [each.id for each in whole]
            for at, each in enumerate(whole):
                if block.is_plain[at]:
                    assert block.paths[at] == each.path and each.earlier_id is None
                assert block.captions[at] == each.captions
                assert block.metadata[at] == each.metadata and block.splits[at] == each.split
                if block.embeddings is not None:
                    assert each.embedding is not None
                    assert block.embeddings[at].tobytes() == each.embedding.tobytes()
        return (
            [(str(each), vector) for each, vector in records],
            digests.numbers.tolist(),
            digests.ids.tolist(),
            digests.rows.tolist(),
            sorted((each.kind, each.where, each.reason) for each in manifest.problems),
            manifest.problems.counts,
            manifest.problems.notes,
            manifest.columns(),
            (
                manifest.row_count,
                manifest.splits_are_given,
                manifest.root,
                manifest.searched,
                manifest.layout,
            ),
        )


def write(columns: dict[str, list[str]], folder: Path, kind: str, chance: random.Random) -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values())]  # noqa: B905
    vectors = np.random.default_rng(chance.randrange(99)).random((len(rows), 3), np.float32)
    path = folder / f"photos.{'jsonl' if kind == 'jsonl' else 'csv'}"
    if kind == "npy":
        np.save(path.with_suffix(".npy"), vectors)
    if kind == "jsonl":
        # Not every row has a vector, and one may be of another length.
        has = chance.random() < 0.7
        for row, vector in zip(rows, vectors.tolist(), strict=True):
            if has or chance.random() < 0.5:
                row["embedding"] = vector if chance.random() < 0.95 else vector[:2]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "npy", "jsonl"])
def test_rows_by_columns_are_as_rows_by_themselves(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    were_plain = 0

    def counted(rows: Any, *, captioned: bool) -> PlainRows | None:
        nonlocal were_plain
        found = real(rows, captioned=captioned)
        were_plain += found is not None
        return found

    real = PlainRows.of
    for seed in range(25):
        chance = random.Random(f"{kind} {seed}")
        folder = tmp_path / str(seed)
        folder.mkdir()
        path = write(made_up(chance, folder), folder, kind, chance)
        monkeypatch.setattr(plain_rows, "ROWS_AT_ONCE", chance.choice((3, 8, 512)))
        with monkeypatch.context() as patch:
            patch.setattr(PlainRows, "of", lambda rows, captioned: None)
            expected = _or_error(path)
        with monkeypatch.context() as patch:
            patch.setattr(PlainRows, "of", counted)
            assert _or_error(path) == expected, seed
    assert were_plain > 25


def _or_error(path: Path) -> Any:
    try:
        return read(path)
    except ManifestError as error:
        return str(error)
