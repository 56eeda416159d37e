"""Manifests: rows and files that cannot be used, and ready-made vectors."""

import csv
import gzip
import io
import itertools
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_manifests import (
    RED,
    captions,
    jpeg,
    karpathy,
    kinds,
    picture,
    pictures,
    problems,
    read,
    tar_shard,
    vectors,
    write_csv,
)

from finetune.errors import ManifestError
from finetune.manifest.fields.json_stream import Utf8Stream
from finetune.manifest.manifest import Manifest

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
        ("half a character", "m.jsonl:5"),
        ("empty caption", "m.jsonl:5"),
        ("bad row", "m.jsonl:6"),
        ("no image", "m.jsonl:7"),
    ]


def test_half_a_character_costs_no_caption(tmp_path: Path) -> None:
    r"""JSON's "\ud800" alone is no text that any file, or any index, could hold."""
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    lines = [
        b'{"image": "a.jpg", "caption": "two\\ud800dogs", "cl\\udfffass": "be\\ud83dach"}',
        b'{"image": "b.jpg", "id": "b\\ud800", "caption": "x"}',
        b'{"image": "c\\ud800.jpg", "caption": "x"}',
        b'{"image": "c.jpg", "caption": "\\ud83d\\ude00 whole"}',
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join(lines))
    manifest, records = read(path)
    assert captions(records) == {
        "a.jpg": ("two dogs",),
        "c.jpg": ("\N{GRINNING FACE} whole",),
    }
    (first, _) = records
    assert first.metadata == {"cl ass": "be ach"}
    assert manifest.problems.notes == {"half a character": 1}
    assert kinds(manifest) == {"bad row": 2}


@pytest.mark.parametrize("read_size", [1, 2, 5, 7, 64, 65_536])
def test_halves_in_a_stream_are_told_from_what_only_looks_like_them(read_size: int) -> None:
    texts = {
        r"\ud83d\ude00": "\N{GRINNING FACE}",
        r"a\ud800b": "a\uffffb",
        r"\ude00\ud83d": "\uffff\uffff",
        r"\ud83d\ud83d\ude00": "\uffff\N{GRINNING FACE}",
        r"\\ud800": r"\ud800",
        r"\\\ud800": "\\\uffff",
        r"\\\\ud800 \u0041\\": r"\\ud800 A" + "\\",
        r"\uD83D\uDE00 \u00e9": "\N{GRINNING FACE} é",
        r"end\ud83d": "end\uffff",
    }
    raw = ('["' + '", "'.join(texts) + '"]').encode()
    stream, file, parts = Utf8Stream(io.BytesIO(raw)), io.BytesIO(), []
    while part := stream.read(read_size):
        parts.append(part)
    file.write(b"".join(parts))
    assert json.loads(file.getvalue()) == list(texts.values())
    assert stream.halves and not stream.mended


def test_half_a_character_in_other_formats(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    path = tmp_path / "k.json"
    sentences = [{"raw": "two\ud800dogs"}, {"raw": "a cat"}]
    image = {"filename": "a.jpg", "split": "train", "sentences": sentences, "cl": "x\udfff"}
    path.write_text(json.dumps({"images": [image]}))
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("two dogs", "a cat")}
    assert records[0].metadata == {"cl": "x "} and not manifest.problems.counts
    shard = tmp_path / "0.tar"
    with tarfile.open(shard, "w", errors="surrogateescape") as tar:
        for name, data in (
            ("s0.jpg", (tmp_path / "a.jpg").read_bytes()),
            ("s0.json", json.dumps({"caption": "two\ud800dogs"}).encode()),
            ("s\udcff.jpg", (tmp_path / "a.jpg").read_bytes()),
            ("s\udcff.txt", b"x"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    manifest, records = read(shard)
    assert captions(records) == {"0.tar/s0.jpg": ("two dogs",)}
    assert kinds(manifest) == {"bad row": 1}


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
        "7 problems: 1 empty caption, 5 missing file, 1 no image"
    )
    report = tmp_path / "report.csv"
    manifest.problems.write(report)
    with report.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert {"missing file": "m.csv:4"} in [{row["kind"]: row["where"]} for row in rows]
    with pytest.raises(ManifestError, match=r"7 problems: .*m\.csv:2"):
        Manifest.open(path, strict=True)


# Ready-made vectors.


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
    "no image column": (b"name,caption\na.jpg,x\n", r'no column "image" \(it has: name, caption'),
    "two columns of a name": (b"image,caption,Caption\n", "two columns are named 'caption'"),
    "no header": (b"a.jpg,dog\nb.jpg,cat\n", "no known format; its first line is 'a.jpg,dog'"),
    "jsonl no image": (b'{"caption": "a"}\n', 'no column "image"'),
    "json list": (b'[{"image": "a.jpg", "caption": "x"}]', "one JSON list"),
    "json other": (b'{"a": {"b": 1},\n"c": []}', "JSON of no known form"),
    "json cut off": (truncated(KARPATHY), "cut off"),
    "json cut off early": (b'{"images": [{"filena', "no valid JSON"),
    "json no images": (b'{"images": []}', "no rows"),
    "coco of boxes": (
        b'{"images": [{"file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox":[]}]}',
        "no captions, but boxes or key points; name COCO's captions_",
    ),
    "coco cut off": (
        b'{"images": [{"file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a',
        "no valid JSON behind 1 images: .*cut off",
    ),
    "gzip": (gzip.compress(CSV), r"compressed \(gzip\); unpack"),
    "zip": (b"PK\x03\x04abc", "compressed"),
    "utf-16": (CSV.decode().encode("utf-16"), "UTF-16; save it as UTF-8"),
    "utf-16 without mark": (CSV.decode().encode("utf-16-le"), "UTF-16"),
    "old line ends": (CSV.replace(b"\n", b"\r"), "line ends of old Macs"),
    "picture": (jpeg(RED), "is a picture"),
    "parquet cut off": (truncated(parquet_bytes({"image": ["a"], "caption": ["b"]})), "cut off"),
    "parquet columns": (parquet_bytes({"caption": ["a"]}), 'no column "image"'),
    "parquet pictures": (
        parquet_bytes({"image": [{"bytes": b"x", "path": "p"}], "caption": ["x"]}),
        "holds pictures, not paths",
    ),
    "all images missing": (
        b"image,caption\nz.jpg,dog\ny.jpg,dog\n",
        "none of its rows can be used: 2 problems: 2 missing file.*z.jpg.*--images FOLDER",
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


def write_many_captions(folder: Path) -> Path:
    """300 captions of 90 images as people write them, all over the place in one CSV."""
    dice = random.Random(5)
    texts = [
        "two dogs, on a beach", 'a "striped" kite', "line one\nline two", "Café — naïve", "x" * 900,
        " blanks around ", "NA", "007", "=1+1", "12", "’quoted’", "🚲 bicycle", "null", "nan",
    ]  # fmt: skip
    names = [f"{place}/{number:03}.png" for number in range(30) for place in ("a b", "é", "c")]
    splits = dict(zip(names, itertools.cycle(["train", "train", "val", "test"]), strict=False))
    rows = [
        (name, f"{dice.choice(texts)}{'' if number < 90 else f' {number % 40}'}", splits[name])
        for number, name in enumerate(names + dice.choices(names, k=210))
    ]
    dice.shuffle(rows)
    for name in names:
        picture(folder / name)
    return write_csv(folder / "captions.csv", ("image", "caption", "split"), *rows)


def assert_as_pandas_reads_it(path: Path, images: int, rows: int) -> None:
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


def test_made_up_data_against_pandas(tmp_path: Path) -> None:
    assert_as_pandas_reads_it(write_many_captions(tmp_path), 90, 300)


# Real data.


@pytest.mark.parametrize(
    ("name", "images", "rows"), [("openstax-figures", 4818, 11320), ("noto-emoji", 853, 1696)]
)
def test_real_data_against_pandas(shared: Path, name: str, images: int, rows: int) -> None:
    assert_as_pandas_reads_it(shared / "data" / name / "captions.csv", images, rows)
