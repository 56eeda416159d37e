"""Manifests in every format, merging, ids, splits, and everything that can be wrong."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from finetune.errors import ManifestError, UsageError
from finetune.manifest import Manifest, Problem, Record

RED = (200, 30, 30)


def picture(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        picture(folder / name, (number, 2 * number, 3 * number))


def write_csv(path: Path, *rows: tuple[object, ...], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def read(path: Path | str, **options: object) -> tuple[Manifest, list[Record]]:
    manifest = Manifest.open(path, **options)  # type: ignore[arg-type]
    return manifest, list(manifest.records())


def captions(records: list[Record]) -> dict[str, tuple[str, ...]]:
    return {record.id: record.captions for record in records}


def kinds(manifest: Manifest) -> dict[str, int]:
    return manifest.problems.counts


def problems(manifest: Manifest) -> list[Problem]:
    return list(manifest.problems)


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
    assert manifest.columns() == {"taken": "tag", "score": "number"}
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


def karpathy(images: object, **more: object) -> str:
    return json.dumps({"dataset": "x", **more, "images": images})


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
    assert kinds(manifest) == {"empty caption": 2}


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


def tar_shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (10, 10), colour).save(stream, "PNG")
    return stream.getvalue()


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


# Merging.


def test_rows_of_one_image_need_not_be_adjacent(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "caption", "class", "year"),
        ("b.jpg", "b1", "x", "2010"),
        ("a.jpg", "a1", "y", ""),
        (".\\b.jpg", "b2", "z", "2010"),
        ("b.jpg", " b1 ", "x", "2011"),
        ("c.jpg", "c1", "", ""),
        ("./a.jpg", "a2", "", "1999"),
    )
    manifest, records = read(path)
    assert [(each.id, each.captions, dict(each.metadata)) for each in records] == [
        ("b.jpg", ("b1", "b2"), {"class": "x", "year": "2010"}),
        ("a.jpg", ("a1", "a2"), {"class": "y", "year": "1999"}),
        ("c.jpg", ("c1",), {}),
    ]
    assert manifest.problems.notes == {"different values": 2}
    assert not manifest.problems
    assert manifest.row_count == 6
    assert manifest.columns() == {"class": "tag", "year": "number"}


def test_records_stream_twice_at_the_same_time(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = write_csv(tmp_path / "m.csv", ("image", "caption"), *((n + ".jpg", n) for n in "abc"))
    manifest = Manifest.open(path)
    pairs = [(one.id, two.id) for one in manifest.records() for two in manifest.records()]
    assert len(pairs) == 9
    by_split = [each.id for split in ("train", "val", "test") for each in manifest.records(split)]
    assert sorted(by_split) == ["a.jpg", "b.jpg", "c.jpg"]
    assert sum(manifest.split_counts().values()) == len(manifest) == 3
    with pytest.raises(ValueError, match="dev"):
        next(manifest.records("dev"))


def test_columns_are_numbers_only_without_leading_zeros(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    numbers = {"plain": ("1", "2.5"), "signed": ("-1e3", "+.5"), "zero": ("0", "0.5")}
    tags = {
        "postcode": ("007", "1"),
        "word": ("1", "one"),
        "nan": ("nan", "1"),
        "infinite": ("1e999", "1"),
        "underscore": ("1_000", "1"),
        "arabic": ("١٢", "1"),
    }
    columns = numbers | tags
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "caption", *columns),
        ("a.jpg", "a", *(values[0] for values in columns.values())),
        ("b.jpg", "b", *(values[1] for values in columns.values())),
    )
    expected = dict.fromkeys(numbers, "number") | dict.fromkeys(tags, "tag")
    assert Manifest.open(path).columns() == expected


# Where images lie, and ids.


def test_images_beside_the_manifest_come_before_those_in_images(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    home = tmp_path / "home"
    pictures(home, "a.jpg", "images/a.jpg", "images/b.jpg", "images/sub/d.jpg")
    pictures(elsewhere, "b.jpg", "c.jpg")
    names = ["a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"]
    path = write_csv(home / "m.csv", ("image", "caption"), *((name, name) for name in names))
    manifest, records = read(path, images=elsewhere)
    assert [record.image.path for record in records if record.image] == [
        home / "a.jpg",
        home / "images/b.jpg",
        elsewhere / "c.jpg",
        home / "images/sub/d.jpg",
    ]
    assert [record.id for record in records] == names
    assert manifest.root == home / "images"
    for record in records:
        assert record.image is not None
        assert (manifest.root / record.path).resolve() == record.image.path
    without, _ = read(path)
    assert [(each.kind, each.where) for each in without.problems] == [("missing file", "m.csv:4")]


def test_ids_are_never_absolute(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    pictures(home, "x/a.jpg", "b.jpg")
    pictures(elsewhere, "c.jpg", "deep/c.jpg", "given/d.jpg")
    images = [home / "x/a.jpg", "b.jpg", home / "b.jpg", elsewhere / "c.jpg"]
    images += [elsewhere / "deep/c.jpg", elsewhere / "given/d.jpg"]
    path = write_csv(home / "m.csv", ("image", "caption"), *((each, each) for each in images))
    manifest, records = read(path, images=elsewhere / "given")
    ids = [record.id for record in records]
    # The relative and the absolute spelling of b.jpg are the same image.
    assert ids[:2] == ["x/a.jpg", "b.jpg"]
    assert len(records[1].captions) == 2
    assert ids[2] != ids[3]
    assert all(id.startswith("c-") and id.endswith(".jpg") and len(id) == 14 for id in ids[2:4])
    assert ids[4] == "d.jpg"
    assert records[0].path == str(home / "x/a.jpg")
    assert [id for id in ids if id.startswith("/")] == []
    assert [record.id for record in manifest.records()] == ids


def test_a_given_id_of_two_images_keeps_the_first(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = write_csv(
        tmp_path / "m.csv",
        ("id", "image", "caption"),
        ("1", "a.jpg", "a"),
        ("1", "b.jpg", "b"),
        ("2", "c.jpg", "c"),
        ("1", "a.jpg", "again"),
        ("", "b.jpg", "late"),
    )
    manifest, records = read(path)
    assert captions(records) == {"1": ("a", "again"), "2": ("c",)}
    (problem,) = problems(manifest)
    assert (problem.kind, problem.where) == ("duplicate id", "m.csv:3")
    assert "b.jpg" in problem.reason and "a.jpg" in problem.reason


# Splits.


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("restval", "train"),
        (" val ", "val"),
        ("VALID", "val"),
        ("validation", "val"),
        ("dev", "val"),
        ("test", "test"),
    ],
)
def test_spellings_of_splits(tmp_path: Path, word: str, split: str) -> None:
    pictures(tmp_path, "a.jpg")
    path = write_csv(tmp_path / "m.csv", ("image", "caption", "split"), ("a.jpg", "a", word))
    manifest, records = read(path)
    assert records[0].split == split
    assert manifest.columns() == {}


def test_an_image_in_two_splits_stays_in_the_first(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "caption", "split"),
        ("a.jpg", "a1", ""),
        ("a.jpg", "a2", "test"),
        ("a.jpg", "a3", "train"),
        ("b.jpg", "b", "fold 7"),
    )
    manifest, records = read(path)
    assert records[0].split == "test"
    assert [(each.kind, each.where) for each in manifest.problems] == [
        ("two splits", "m.csv:4"),
        ("unknown split", "m.csv:5"),
    ]


def test_hashed_splits_have_their_shares_and_depend_on_the_seed(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.jpg").touch()
    path = write_csv(
        tmp_path / "m.csv", ("image", "caption"), *((f"{n}.jpg", str(n)) for n in range(2000))
    )
    counts = Manifest.open(path).split_counts()
    # Five standard deviations.
    assert abs(counts["train"] - 1600) < 90
    assert abs(counts["val"] - 200) < 68
    splits = {each.id: each.split for each in Manifest.open(path).records()}
    others = {each.id: each.split for each in Manifest.open(path, seed=1).records()}
    assert splits != others
    assert Manifest.open(path, split=(0.0, 0.0, 1.0)).split_counts()["test"] == 2000
    with pytest.raises(UsageError, match="sum to 1"):
        Manifest.open(path, split=(0.8, 0.1, 0.2))


def test_the_hash_never_changes() -> None:
    """Splits of existing data would move."""
    from finetune.splits import HashedSplit

    assign = HashedSplit()
    assert [assign(f"{n}.jpg") for n in range(12)] == RECORDED_SPLITS


RECORDED_SPLITS = [
    "train",
    "train",
    "train",
    "train",
    "train",
    "test",
    "train",
    "train",
    "train",
    "train",
    "val",
    "train",
]


# Rows that cannot be used.


def test_rows_that_are_not_utf8_are_named_and_others_kept(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    path = tmp_path / "m.csv"
    path.write_bytes(b'image,caption\na.jpg,"two\nlines"\nb.jpg,caf\xe9\nc.jpg,caf\xc3\xa9\n')
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("two\nlines",), "c.jpg": ("café",)}
    assert [(each.kind, each.where) for each in problems(manifest)] == [("not utf-8", "m.csv:4")]


def test_json_lines_that_cannot_be_used(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    good = b'{"image": "a.jpg", "caption": "ok"}'
    lines = [
        good,
        b'{"image": "a.jpg", "capt',
        b"[1]",
        b'{"image": "a.jpg", "caption": "\xff"}',
        b'{"image": "a.jpg", "caption": "\\ud800"}',
        b'{"image": {"bytes": ""}, "caption": "x"}',
        b'{"caption": "x"}',
        b'{"image": "a.jpg", "caption": "\\ud83d\\ude00"}',
        good,
        good,
        good,
        good,
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join(lines))
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("ok", "\N{GRINNING FACE}")}
    found = [(each.kind, each.where) for each in problems(manifest)]
    assert found == [
        ("bad row", "m.jsonl:2"),
        ("bad row", "m.jsonl:3"),
        ("not utf-8", "m.jsonl:4"),
        ("bad row", "m.jsonl:5"),
        ("bad row", "m.jsonl:6"),
        ("no image", "m.jsonl:7"),
    ]


def test_a_quotation_mark_that_is_never_closed_costs_no_other_row(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    pictures(tmp_path, *(f"{name}.jpg" for name in names))
    path = tmp_path / "m.csv"
    path.write_text(
        'image,caption\na.jpg,"never closed\nb.jpg,"one, quoted"\nc.jpg,"Hi" he said\n'
        'd.jpg,plain\ne.jpg,"open\n'
    )
    manifest, records = read(path)
    assert captions(records) == {
        "a.jpg": ('"never closed',),
        "b.jpg": ("one, quoted",),
        "c.jpg": ('"Hi" he said',),
        "d.jpg": ("plain",),
        "e.jpg": ('"open',),
    }
    assert manifest.problems.notes == {"stray quote": 3}
    assert not manifest.problems


def test_a_header_with_broken_quoting_is_no_row(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    path = tmp_path / "m.csv"
    path.write_text('"image" ,caption\na.jpg,a\nb.jpg,b\n')
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("a",), "b.jpg": ("b",)}
    assert not manifest.problems


def test_rows_with_too_few_or_too_many_fields(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    path = tmp_path / "m.csv"
    path.write_text("image,caption\na.jpg,a,\n\nb.jpg\nb.jpg,one, unquoted\nb.jpg,b\n")
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("a",), "b.jpg": ("b",)}
    assert [(each.kind, each.where) for each in problems(manifest)] == [
        ("bad row", "m.csv:4"),
        ("bad row", "m.csv:5"),
    ]


def test_missing_files_and_empty_captions(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "folder.jpg").mkdir()
    path = write_csv(
        tmp_path / "m.csv",
        ("image", "caption"),
        ("a.jpg", ""),
        ("b.jpg", "b"),
        ("gone.jpg", "x"),
        ("gone.jpg", "y"),
        ("folder.jpg", "x"),
        ("https://example.org/p.jpg", "x"),
        ("nul\0.jpg", "x"),
        ("x" * 5000, "x"),
        ("", "x"),
    )
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": (), "b.jpg": ("b",)}
    assert kinds(manifest) == {"empty caption": 1, "no image": 1, "missing file": 5}
    assert manifest.problems.summary() == (
        "7 problems: 1 empty caption, 1 no image, 5 missing file"
    )
    report = tmp_path / "report.csv"
    manifest.problems.write(report)
    with report.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert {"kind": "missing file", "where": "m.csv:4"}.items() <= rows[2].items()
    with pytest.raises(ManifestError, match=r"7 problems: .*m\.csv:2"):
        Manifest.open(path, strict=True)


# Ready-made vectors.


def vectors(count: int, dimension: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)


@pytest.mark.parametrize("type", [pa.list_(pa.float64()), pa.list_(pa.float32(), 4)])
def test_vectors_in_parquet(tmp_path: Path, type: pa.DataType) -> None:
    picture(tmp_path / "a.jpg")
    table = pa.table(
        {
            "image": ["a.jpg", "b.jpg", "c.jpg"],
            "embedding": pa.array([*vectors(2).tolist(), None], type),
        }
    )
    pq.write_table(table, tmp_path / "v.parquet")
    manifest, records = read(tmp_path / "v.parquet")
    assert [record.id for record in records] == ["a.jpg", "b.jpg"]
    found = [record.embedding for record in records]
    np.testing.assert_array_equal(found, vectors(2))
    assert all(each is not None and each.dtype == np.float32 for each in found)
    assert records[0].image is not None and records[1].image is None
    assert records[1].path == "b.jpg"
    assert manifest.problems.notes == {"no image file": 1}
    assert kinds(manifest) == {"missing file": 1}


def test_vectors_as_json_lists_with_ids_alone(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": number, "embedding": vector, "caption": f"c{number}"}
        for number, vector in enumerate(vectors(3).tolist())
    ]
    lines += [
        {"id": 3, "embedding": [1, 2], "caption": "short"},
        {"id": 4, "embedding": [1, 2, 3, "x"], "caption": "no number"},
        {"id": 5, "embedding": [1, 2, 3, float("nan")], "caption": "not finite"},
        {"id": 1, "embedding": vectors(1)[0].tolist(), "caption": "second caption"},
    ]
    path = tmp_path / "v.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    manifest, records = read(path)
    assert captions(records) == {"0": ("c0",), "1": ("c1", "second caption"), "2": ("c2",)}
    np.testing.assert_array_equal([record.embedding for record in records], vectors(3))
    assert kinds(manifest) == {"bad embedding": 1, "bad row": 2, "no image": 1}


def test_vectors_in_a_npy_file_of_the_same_name(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "c.jpg")
    path = tmp_path / "v.csv"
    # A row that is not UTF-8 has its vector too.
    path.write_bytes(b"image,caption\na.jpg,a\nb.jpg,\xff\nc.jpg,c\na.jpg,again\n")
    np.save(tmp_path / "v.npy", vectors(4).astype(np.float16))
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("a", "again"), "c.jpg": ("c",)}
    expected = vectors(4).astype(np.float16).astype(np.float32)[[0, 2]]
    np.testing.assert_array_equal([record.embedding for record in records], expected)
    assert kinds(manifest) == {"not utf-8": 1}
    for wrong in (3, 6):
        np.save(tmp_path / "v.npy", vectors(wrong))
        with pytest.raises(ManifestError, match=f"holds {wrong} vectors for 4 rows"):
            Manifest.open(path)
    np.save(tmp_path / "v.npy", np.arange(4))
    with pytest.raises(ManifestError, match="needed are floats"):
        Manifest.open(path)
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ManifestError, match="no valid npy"):
        Manifest.open(path)


# What cannot be read at all: one clear sentence each.


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def parquet_bytes(columns: dict[str, list[object]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


KARPATHY = karpathy([{"filename": "a.jpg", "sentences": [{"raw": "x"}]}] * 3).encode()
CSV = b"image,caption\na.jpg,dog\n"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "blank": (b"\n\n", "no known format"),
    "header only": (b"image,caption\n", "no rows"),
    "no caption column": (b"image,category\na.jpg,x\n", r'no column "caption" \(it has: image, c'),
    "no image column": (b"name,caption\na.jpg,x\n", r'no column "image" \(it has: name, caption'),
    "two columns of a name": (b"image,caption,Caption\n", "two columns are named 'caption'"),
    "no header": (b"a.jpg,dog\nb.jpg,cat\n", "no known format; its first line is 'a.jpg,dog'"),
    "jsonl no caption": (b'{"image": "a.jpg"}\n', 'no column "caption"'),
    "json list": (b'[{"image": "a.jpg", "caption": "x"}]', "one JSON list"),
    "json other": (b'{"a": {"b": 1},\n"c": []}', "JSON of no known form"),
    "json cut off": (truncated(KARPATHY), "cut off"),
    "json cut off early": (b'{"images": [{"filena', "no valid JSON"),
    "json no images": (b'{"images": []}', "no rows"),
    "coco": (
        b'{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
        "COCO's annotation files",
    ),
    "gzip": (gzip.compress(CSV), r"compressed \(gzip\); unpack"),
    "zip": (b"PK\x03\x04abc", "compressed"),
    "utf-16": (CSV.decode().encode("utf-16"), "UTF-16; save it as UTF-8"),
    "utf-16 without mark": (CSV.decode().encode("utf-16-le"), "UTF-16"),
    "old line ends": (CSV.replace(b"\n", b"\r"), "line ends of old Macs"),
    "picture": (jpeg(RED), "is a picture"),
    "parquet cut off": (truncated(parquet_bytes({"image": ["a"], "caption": ["b"]})), "cut off"),
    "parquet columns": (parquet_bytes({"image": ["a"]}), 'no column "caption"'),
    "parquet pictures": (
        parquet_bytes({"image": [{"bytes": b"x", "path": "p"}], "caption": ["x"]}),
        "holds pictures, not paths",
    ),
    "all images missing": (
        b"image,caption\nz.jpg,dog\ny.jpg,dog\n",
        "none of its rows can be used: 2 problems: 2 missing file.*z.jpg.*--images DIR",
    ),
    "only bad rows": (b"image,caption\na.jpg\n", "none of its rows can be used: .*1 fields"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_manifests_say_so_in_one_sentence(tmp_path: Path, case: str) -> None:
    content, message = UNREADABLE[case]
    picture(tmp_path / "a.jpg")
    path = tmp_path / "m"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_manifests_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file or folder"):
        Manifest.open(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="no images, no shards and no manifest"):
        Manifest.open(tmp_path)
    with pytest.raises(ManifestError, match=r"the shard .*b\.tar is missing"):
        Manifest.open(f"{tmp_path}/{{b,c}}.tar")
    with pytest.raises(ManifestError, match="no file has such a name"):
        Manifest.open(f"{tmp_path}/*.tar")
    picture(tmp_path / "a.jpg")
    path = write_csv(tmp_path / "m.csv", ("image", "caption"), ("a.jpg", "x"))
    with pytest.raises(ManifestError, match="folder of images is missing"):
        Manifest.open(path, images=tmp_path / "nowhere")
    shard = tar_shard(tmp_path / "s.tar", [("a.jpg", b"x" * 5000), ("a.txt", b"x")])
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(ManifestError, match=r"s\.tar: damaged, cut off"):
        Manifest.open(shard)


def test_training_needs_two_images_with_captions(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(ManifestError, match="no image has a caption"):
        Manifest.open(tmp_path).check_trainable()
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ManifestError, match="only one image"):
        Manifest.open(tmp_path).check_trainable()
    (tmp_path / "b.txt").write_text("b")
    Manifest.open(tmp_path).check_trainable()


# Real data.


@pytest.mark.parametrize(
    ("name", "images", "rows"), [("openstax-figures", 4818, 11320), ("noto-emoji", 853, 1696)]
)
def test_real_data_against_pandas(shared: Path, name: str, images: int, rows: int) -> None:
    import pandas as pd

    path = shared / "data" / name / "captions.csv"
    with Manifest.open(path, strict=True) as manifest:
        assert (len(manifest), manifest.row_count) == (images, rows)
        frame = pd.read_csv(path, keep_default_na=False)
        assert manifest.split_counts() == (
            frame.drop_duplicates("image")["split"].value_counts().to_dict()
        )
        expected = {
            image: tuple(dict.fromkeys(text.strip() for text in group))
            for image, group in frame.groupby("image", sort=False)["caption"]
        }
        records = list(manifest.records())
        assert captions(records) == expected
        assert [record.id for record in records] == list(expected)
