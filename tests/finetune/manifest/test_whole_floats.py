"""Whole numbers that a data frame wrote as floats, since one was missing."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from small_manifests import pictures, read, write_csv


def test_ids_and_tags_are_whole_again(tmp_path: Path) -> None:
    pictures(tmp_path, "101.png", "102.png")
    path = write_csv(
        tmp_path / "ids.csv",
        ("image", "id", "caption", "year", "version"),
        ("101.png", "101.0", "x", "2010.0", "1.0"),
        ("102.png", "102.0", "y", "", "1.1"),
    )
    manifest, records = read(path)
    assert [record.id for record in records] == ["101", "102"]
    assert [record.earlier_id for record in records] == ["101.0", "102.0"]
    assert dict(records[0].metadata) == {"year": "2010", "version": "1.0"}
    assert dict(records[1].metadata) == {"version": "1.1"}
    assert not manifest.problems


def test_names_of_files_are_whole_again(tmp_path: Path) -> None:
    pictures(tmp_path, "101.png", "102.png")
    path = write_csv(tmp_path / "names.csv", ("id", "caption"), ("101.0", "x"), ("102.0", "y"))
    manifest, records = read(path)
    assert [(record.id, record.path) for record in records] == [
        ("101", "101.png"),
        ("102", "102.png"),
    ]
    assert not manifest.problems


def test_a_file_that_has_that_name_comes_first(tmp_path: Path) -> None:
    pictures(tmp_path, "101.0.png", "101.png")
    path = write_csv(tmp_path / "names.csv", ("id", "caption"), ("101.0", "x"))
    assert [record.path for record in read(path)[1]] == ["101.0.png"]


def test_one_id_that_is_no_whole_float_keeps_all_as_written(tmp_path: Path) -> None:
    """Versions: 1.0 and 1 are different names beside 1.1."""
    pictures(tmp_path, "a.png", "b.png")
    path = write_csv(
        tmp_path / "m.csv", ("image", "id", "caption"), ("a.png", "1.0", "x"), ("b.png", "1.1", "y")
    )
    records = read(path)[1]
    assert [record.id for record in records] == ["1.0", "1.1"]
    assert [record.earlier_id for record in records] == [None, None]


def test_typed_floats(tmp_path: Path) -> None:
    pictures(tmp_path, "101.png", "102.png")
    rows = [
        {"image": "101.png", "id": 101.0, "caption": "x", "years": [2010.0, 2011.0]},
        {"image": "102.png", "id": 102.0, "caption": "y", "years": None},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    for name in ("m.jsonl", "m.parquet"):
        records = read(tmp_path / name)[1]
        assert [record.id for record in records] == ["101", "102"]
        assert dict(records[0].metadata) == {"years": "2010; 2011"}
