"""Manifests in every format."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_manifests import (
    captions,
    jpeg,
    karpathy,
    pictures,
    read,
    tar_shard,
    write_csv,
)

from finetune.errors import ManifestError
from finetune.manifest.manifest import Manifest

# The same two images in every format.

EXPECTED = {"a.jpg": ("a red dog", "a dog, running"), "b.jpg": ("deux chats\u00e9",)}
ROWS = [(image, text) for image, texts in EXPECTED.items() for text in texts]
DELIMITED = {
    "comma": ("csv", ",", ("image", "caption")),
    "tab": ("tsv", "\t", ("image", "caption")),
    "semicolon": ("csv", ";", ("Image", " Caption ")),
    "bar": ("csv", "|", ("image", "caption")),
    "openclip": ("openclip", "\t", ("filepath", "title")),
    "imagefolder": ("imagefolder", ",", ("file_name", "text")),
}


@pytest.mark.parametrize("case", DELIMITED)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimited_text_whatever_its_delimiter_and_suffix(
    tmp_path: Path, case: str, bom: bytes, end: str
) -> None:
    name, delimiter, header = DELIMITED[case]
    pictures(tmp_path, *EXPECTED)
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows([header, *ROWS])
    path = tmp_path / "any.dat"
    path.write_bytes(bom + text.getvalue().encode())
    manifest, records = read(path)
    assert manifest.format == name
    assert captions(records) == EXPECTED
    assert not manifest.problems


def test_json_lines(tmp_path: Path) -> None:
    pictures(tmp_path, *EXPECTED)
    lines = [
        {"image": "a.jpg", "captions": list(EXPECTED["a.jpg"]), "year": 2010, "tags": ["x", "y"]},
        {"image": "b.jpg", "captions": EXPECTED["b.jpg"][0], "indoor": True, "tags": None},
    ]
    path = tmp_path / "photos"
    path.write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    manifest, records = read(path)
    assert manifest.format == "jsonl"
    assert captions(records) == EXPECTED
    assert [dict(record.metadata) for record in records] == [
        {"year": 2010, "tags": "x; y"},
        {"indoor": "true"},
    ]
    assert manifest.columns() == {"year": "number", "tags": "tag", "indoor": "tag"}


def test_parquet_with_lists_dates_and_bytes(tmp_path: Path) -> None:
    import datetime

    pictures(tmp_path, *EXPECTED)
    table = pa.table(
        {
            "image": list(EXPECTED),
            "captions": [list(texts) for texts in EXPECTED.values()],
            "taken": [datetime.date(2020, 1, 2), None],
            "score": [0.5, float("nan")],
            "thumbnail": [b"\xff", b"\xfe"],
        }
    )
    path = tmp_path / "photos.bin"
    pq.write_table(table, path)
    manifest, records = read(path)
    assert manifest.format == "parquet"
    assert captions(records) == EXPECTED
    assert dict(records[0].metadata) == {"taken": "2020-01-02", "score": 0.5}
    assert dict(records[1].metadata) == {}
    assert manifest.columns() == {"taken": "date", "score": "number"}
    assert manifest.problems.notes == {"column not read": 1}
    assert not manifest.problems


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    pictures(tmp_path, *EXPECTED)
    texts = pa.array([b"good", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": list(EXPECTED), "caption": texts}), path)
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("good",)}
    assert [(each.kind, each.where) for each in manifest.problems] == [
        ("not utf-8", "photos.parquet:2")
    ]


def test_karpathy_json(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "a.jpg", "val/b.jpg")
    images = [
        {
            "filename": "a.jpg",
            "imgid": 0,
            "sentids": [0, 1],
            "split": "restval",
            "sentences": [{"raw": text, "tokens": []} for text in EXPECTED["a.jpg"]],
        },
        {"filepath": "val", "filename": "b.jpg", "split": "val", "sentences": [{"tokens": ["b"]}]},
    ]
    for indent in (None, 1):
        path = tmp_path / f"dataset{indent}.json"
        path.write_text(json.dumps({"dataset": "x", "images": images}, indent=indent))
        manifest, records = read(path)
        assert manifest.format == "karpathy"
        assert captions(records) == {"a.jpg": EXPECTED["a.jpg"], "val/b.jpg": ("b",)}
        assert [record.split for record in records] == ["train", "val"]
        assert manifest.columns() == {"imgid": "number"}
        assert manifest.root == tmp_path / "images"


def test_karpathy_json_with_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    images = [{"filename": f"{n}.jpg", "sentences": [{"raw": f"cat {n}"}]} for n in "abc"]
    raw = karpathy(images).encode().replace(b"cat b", b"cat \xe9")
    (tmp_path / "k.json").write_bytes(raw)
    manifest, records = read(tmp_path / "k.json")
    assert captions(records) == {"a.jpg": ("cat a",), "c.jpg": ("cat c",)}
    assert [(each.kind, each.where) for each in manifest.problems] == [("not utf-8", "k.json:2")]


def test_flickr8k_tokens(tmp_path: Path) -> None:
    pictures(tmp_path, *EXPECTED)
    lines = [
        f"{image}#{number}\t{text}"
        for image, texts in EXPECTED.items()
        for number, text in enumerate(texts)
    ]
    lines += ["no tab here", "a.jpg#2\t"]
    path = tmp_path / "Flickr8k.token.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    manifest, records = read(path)
    assert manifest.format == "flickr8k"
    assert captions(records) == EXPECTED
    assert [(each.kind, each.where) for each in manifest.problems] == [
        ("bad row", "Flickr8k.token.txt:4"),
        ("empty caption", "Flickr8k.token.txt:5"),
    ]


def test_imageclef_captions_without_suffix(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "ROCO_000001.jpg", "ROCO_000002.png")
    path = tmp_path / "caption_prediction.txt"
    path.write_text("ROCO_000001\tCT of the chest, axial.\nROCO_000002\tX-ray\tleft\n")
    manifest, records = read(path)
    assert manifest.format == "imageclef"
    assert captions(records) == {
        "ROCO_000001": ("CT of the chest, axial.",),
        "ROCO_000002": ("X-ray left",),
    }
    assert [record.path for record in records] == ["ROCO_000001.jpg", "ROCO_000002.png"]
    # Newer ones have a header and commas.
    write_csv(path, ("ID", "Caption"), ("ROCO_000001", "CT"))
    assert captions(read(path)[1]) == {"ROCO_000001": ("CT",)}


def test_folder_of_images(tmp_path: Path) -> None:
    pictures(tmp_path, "b.jpg", "train/x.PNG", "val/y.jpg", ".hidden.jpg", ".cache/z.jpg")
    (tmp_path / "notes.md").write_text("no image")
    manifest, records = read(tmp_path)
    assert manifest.format == "folder"
    assert captions(records) == {"b.jpg": (), "train/x.PNG": (), "val/y.jpg": ()}
    assert [record.split for record in records[1:]] == ["train", "val"]
    assert not manifest.problems
    (tmp_path / "b.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    manifest, records = read(tmp_path)
    assert records[0].captions == ("one", "two")
    assert not manifest.problems and manifest.problems.notes == {"no caption": 2}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_imagefolder(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, "train/a.jpg", "test/sub/a.jpg")
    for folder, image in (("train", "a.jpg"), ("test", "sub/a.jpg")):
        path = tmp_path / folder / f"metadata.{kind}"
        row = {"file_name": image, "text": f"for {folder}"}
        if kind == "csv":
            write_csv(path, tuple(row), tuple(row.values()))
        elif kind == "jsonl":
            path.write_text(json.dumps(row))
        else:
            pq.write_table(pa.Table.from_pylist([row]), path)
    manifest, records = read(tmp_path)
    assert manifest.format == "imagefolder"
    assert [(each.id, each.captions, each.split) for each in records] == [
        ("test/sub/a.jpg", ("for test",), "test"),
        ("train/a.jpg", ("for train",), "train"),
    ]


def test_table_called_metadata_is_no_imagefolder(tmp_path: Path) -> None:
    """As openstax-figures has it: captions.csv is the manifest, metadata.csv is not."""
    pictures(tmp_path / "images", "a.jpg")
    write_csv(tmp_path / "metadata.csv", ("image", "book"), ("a.jpg", "physics"))
    write_csv(tmp_path / "captions.csv", ("image", "caption"), ("a.jpg", "dog"))
    with pytest.raises(ManifestError, match=r"is a folder; name the manifest in it.*captions\.csv"):
        Manifest.open(tmp_path)


def test_webdataset_shards(tmp_path: Path) -> None:
    contents = [jpeg((n, 0, 0)) for n in range(4)]
    for shard in range(2):
        members: list[tuple[str, bytes]] = []
        for n in (2 * shard, 2 * shard + 1):
            values = {"caption": f"from json {n}", "key": f"{n:04}", "width": n, "split": "dev"}
            members += [
                (f"sub/{n:04}.png", contents[n]),
                (f"sub/{n:04}.json", json.dumps(values).encode()),
            ]
        members.insert(2, ("sub/0000.txt" if shard == 0 else "sub/0002.txt", b"a text\n"))
        tar_shard(tmp_path / f"shard-{shard:03}.tar", members)
    expected = ["shard-000.tar/sub/0000.png", "shard-000.tar/sub/0001.png"]
    expected += [name.replace("000.tar", "001.tar") for name in expected]
    expected[2:] = ["shard-001.tar/sub/0002.png", "shard-001.tar/sub/0003.png"]
    named: list[Path | str] = [
        tmp_path,
        str(tmp_path / "shard-{000..001}.tar"),
        str(tmp_path / "shard-*.tar"),
        str(tmp_path / "shard-{000,001}.tar"),
    ]
    for name in named:
        manifest, records = read(name)
        assert manifest.format == "webdataset"
        assert [record.id for record in records] == expected
        assert [record.captions[0] for record in records] == [
            "a text",
            "from json 1",
            "a text",
            "from json 3",
        ]
        assert all(record.image is not None for record in records)
        assert [each.image.read() for each in records if each.image] == contents
        assert {record.split for record in records} == {"val"}
        assert manifest.columns() == {"key": "tag", "width": "number"}
    assert len(Manifest.open(tmp_path / "shard-001.tar")) == 2


def test_webdataset_problems(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"x"),
        ("a.txt", b"\xff"),
        ("b.txt", b"no image"),
        ("c.jpg", b"x"),
        ("c.json", b"{"),
        ("d.jpg", b"x"),
        ("e.png", b"x"),
        ("e.txt", b"good"),
    ]
    manifest, records = read(tar_shard(tmp_path / "s.tar", members))
    assert captions(records) == {"s.tar/d.jpg": (), "s.tar/e.png": ("good",)}
    assert [(each.kind, each.where) for each in manifest.problems] == [
        ("not utf-8", "s.tar/a"),
        ("no image", "s.tar/b"),
        ("bad row", "s.tar/c"),
        ("empty caption", "s.tar:4"),
    ]
