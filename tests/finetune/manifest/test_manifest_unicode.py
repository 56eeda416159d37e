"""Composed and decomposed Unicode forms in a manifest are one."""

import unicodedata
from pathlib import Path

import pytest
from small_manifests import pictures, problems, read, tar_shard, write_csv

from finetune.manifest.class_labels import read_class_labels
from finetune.text.composed import forms

NFC = unicodedata.normalize("NFC", "caf\u00e9/stra\u00dfe-\u00fc.png")
NFD = unicodedata.normalize("NFD", NFC)


def test_the_forms_of_a_text() -> None:
    assert forms("plain") == ("plain",)
    assert forms(NFD) == (NFD, NFC)
    assert forms(NFC) == (NFC, NFD)
    mixed = unicodedata.normalize("NFD", "\u00e9") + "\u00e9"
    assert forms(mixed) == (mixed, "\u00e9\u00e9", "e\u0301e\u0301")


@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("written", [NFC, NFD])
@pytest.mark.parametrize("where", ["relative", "absolute", "images"])
def test_a_file_is_found_by_either_form(
    tmp_path: Path, on_disk: str, written: str, where: str
) -> None:
    folder = tmp_path / "images" if where == "images" else tmp_path
    pictures(folder, on_disk)
    name = f"{tmp_path}/{written}" if where == "absolute" else written
    path = write_csv(tmp_path / "m.csv", ("image", "caption"), (name, "a caf\u0065\u0301"))
    manifest, (record,) = read(path)
    assert record.id == NFC
    assert record.path.endswith(on_disk)
    assert manifest.root is not None
    assert (manifest.root / record.path).is_file()
    assert record.captions == ("a caf\u00e9",)
    assert record.earlier_id == (None if written == NFC else NFD)
    assert not manifest.problems


def test_a_path_with_parts_of_different_forms(tmp_path: Path) -> None:
    pictures(tmp_path, "caf\u00e9/u\u0308.png")
    path = write_csv(
        tmp_path / "m.csv", ("image", "caption"), (NFD.split("/")[0] + "/\u00fc.png", "x")
    )
    assert [record.path for record in read(path)[1]] == ["caf\u00e9/u\u0308.png"]


def test_rows_in_both_forms_are_one_record(tmp_path: Path) -> None:
    pictures(tmp_path, NFD)
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "caption", "gr\u00f6sse"),
        (NFC, "caf\u00e9", "gro\u0308\u00df"),
        (NFD, "cafe\u0301", "gr\u00f6\u00df"),
        (NFD, "another", "gr\u00f6\u00df"),
    )
    manifest, (record,) = read(path)
    assert record.captions == ("caf\u00e9", "another")
    assert dict(record.metadata) == {"gr\u00f6sse": "gr\u00f6\u00df"}
    assert not manifest.problems.notes
    assert not manifest.problems


def test_two_files_that_differ_in_the_form_alone_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, NFC, NFD)
    for path in (
        tmp_path,
        write_csv(tmp_path.parent / "m.csv", ("image", "caption"), (NFC, "a"), (NFD, "b")),
    ):
        manifest, records = read(path, images=tmp_path)
        assert [record.id for record in records] == [NFC]
        assert [each.kind for each in problems(manifest)] == ["duplicate id"]
        assert "Unicode form alone; rename it" in problems(manifest)[0].reason


def test_two_members_of_a_shard_that_differ_in_the_form_alone(tmp_path: Path) -> None:
    members = [
        ("\u00e9.png", b"1"),
        ("\u00e9.txt", b"x"),
        ("e\u0301.png", b"2"),
        ("e\u0301.txt", b"y"),
    ]
    manifest, records = read(tar_shard(tmp_path / "s.tar", members))
    assert [(record.id, record.captions) for record in records] == [("s.tar/\u00e9.png", ("x",))]
    assert [each.kind for each in problems(manifest)] == ["duplicate id"]


def test_given_ids_and_names_of_columns(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "id", "caption", "gro\u0308sse"),
        ("a.png", "u\u0308", "x", "1"),
        ("b.png", "\u00fc", "y", "2"),
        ("c.png", "c", "z", "2"),
    )
    manifest, records = read(path)
    assert [record.id for record in records] == ["\u00fc", "c"]
    assert [each.kind for each in problems(manifest)] == ["duplicate id"]
    assert manifest.columns() == {"gr\u00f6sse": "number"}
    classes = tmp_path / "classes.csv"
    write_csv(classes, ("image", "class"), ("u\u0308", "one"), ("c", "two"))
    assert read_class_labels(manifest, str(classes)).of_image == {"\u00fc": 0, "c": 1}
    assert read_class_labels(manifest, "gr\u00f6sse").names == ("1", "2")
