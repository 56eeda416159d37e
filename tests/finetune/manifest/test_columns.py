"""Which column of a table is which: by its name, by what names usually mean, or as told."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from finetune.errors import ManifestError
from finetune.manifest.formats.columns import ColumnNames, column_notes
from finetune.manifest.manifest import Manifest, Record

ROW = {"path": "a.png", "title": "A kite", "description": "over a beach", "code": "7", "year": 1999}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(
    manifest: object, columns: ColumnNames | None = None
) -> tuple[list[Record], list[str], dict[str, str]]:
    with Manifest.open(manifest, columns=columns) as opened:  # type: ignore[arg-type]
        return list(opened.records()), column_notes(opened.problems), opened.columns()


def written(kind: str, folder: Path) -> object:
    """The row, as a table of that kind."""
    path = folder / f"photos.{kind}"
    frame = pd.DataFrame([ROW])
    if kind == "frame":
        return frame
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "jsonl":
        path.write_text(json.dumps(ROW) + "\n")
    else:
        frame.to_csv(path, index=False, sep={"csv": ",", "tsv": "\t", "semicolons": ";"}[kind])
    return path


KINDS = ["csv", "tsv", "semicolons", "jsonl", "parquet", "frame"]


@pytest.mark.parametrize("kind", KINDS)
def test_usual_names_are_guessed_and_said(kind: str, folder: Path) -> None:
    (record,), notes, columns = read(written(kind, folder))
    assert (record.path, record.captions) == ("a.png", ("A kite", "over a beach"))
    assert set(columns) == {"code", "year"}
    assert notes == [
        "the column path is taken for the images' paths; --image-column names another",
        "captions are taken from title and description; --caption-column names others",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_those_that_are_named(kind: str, folder: Path) -> None:
    names = ColumnNames("PATH", ("description",), "code")
    (record,), notes, columns = read(written(kind, folder), names)
    assert (record.id, record.captions) == ("7", ("over a beach",))
    assert set(columns) == {"title", "year"}
    assert notes == []
    with pytest.raises(ManifestError, match=r"--id-column cod: there is no such column; there are"):
        read(written(kind, folder), ColumnNames(id="cod"))


def test_names_that_say_nothing_are_read_where_they_are_named(folder: Path) -> None:
    Path("x.csv").write_text("a;b;c\na.png;A kite, high up;7\n")
    with pytest.raises(ManifestError, match="of no known format"):
        read("x.csv")
    (record,), notes, columns = read("x.csv", ColumnNames("a", ("b",)))
    assert (record.path, record.captions, notes) == ("a.png", ("A kite, high up",), [])
    assert columns == {"c": "number"}


def test_known_names_go_before_guessed_ones(folder: Path) -> None:
    Path("x.csv").write_text("image,caption,title,url\na.png,A kite,Kites,http://a\n")
    (record,), notes, _ = read("x.csv")
    assert (record.path, record.captions, notes) == ("a.png", ("A kite",), [])
    assert record.metadata == {"title": "Kites", "url": "http://a"}


@pytest.mark.parametrize("header", ["", "Unnamed: 0"])
def test_row_numbers_of_pandas_are_left_out(header: str, folder: Path) -> None:
    Path("x.csv").write_text(f"{header},image,caption\n0,a.png,A kite\n")
    (record,), notes, columns = read("x.csv")
    assert (record.metadata, columns) == ({}, {})
    assert len(notes) == 1 and "holds pandas' row numbers and is left out" in notes[0]


def test_a_table_without_captions_is_as_a_folder_without(folder: Path) -> None:
    Path("x.csv").write_text("image,score\na.png,3\n")
    (record,), notes, _ = read("x.csv")
    assert record.captions == ()
    assert notes == ["no column holds captions (others: score); --caption-column names one"]
    with Manifest.open("x.csv") as opened, pytest.raises(ManifestError, match="--caption-column"):
        opened.check_trainable()
    # beside pictures it says nothing of them that a folder of pictures would lose
    with Manifest.open(folder) as opened:
        assert opened.format == "folder"


def test_what_has_vectors_keeps_its_columns(folder: Path) -> None:
    Path("x.jsonl").write_text(json.dumps({"id": "1", "title": "A", "embedding": [1.0, 0.0]}))
    (record,), notes, _ = read("x.jsonl")
    assert (record.captions, record.metadata, notes) == ((), {"title": "A"}, [])
