"""Small files that stand for very much: each is refused, or its row is, with little memory."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_manifests import RED, captions, jpeg, karpathy, picture, problems, read, tar_shard

from finetune.errors import EncoderError, ManifestError, UsageError
from finetune.files import bounded_json
from finetune.files.bounded_json import MAX_DEPTH, JsonGuard, JsonLimitError
from finetune.manifest.fields import parquet_values
from finetune.manifest.manifest import Manifest

MEGABYTES = 350
DEEP = "[" * 20_000 + "]" * 20_000
DIGITS = "9" * 200_000

# A fault then shows as a MemoryError, and not as a machine that swaps.
READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from finetune.errors import ManifestError
from finetune.manifest import Manifest
try:
    with Manifest.open(sys.argv[1]) as manifest:
        problems = [f"{each.kind}: {each.reason}" for each in manifest.problems]
        print(len(manifest), *problems, sep="|")
except ManifestError as error:
    print(error)
# Not ru_maxrss, which begins with what the parent had.
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(int(status["VmHWM"].split()[0]) >> 10)
"""


def read_bounded(path: Path) -> str:
    """What is said about a manifest, read in a process of its own in less than MEGABYTES."""
    command = [sys.executable, "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, megabytes = done.stdout.splitlines()
    assert int(megabytes) < MEGABYTES
    (line,) = said
    return line


# JSON


def nested_json() -> dict[str, tuple[str, str]]:
    good = {"filename": "a.jpg", "sentences": [{"raw": "x"}]}
    one = json.dumps(good)
    line = '{"image": "a.jpg", "caption": "x"'
    return {
        "karpathy": (f'{{"images": [{one}, {one[:-1]}, "x": {DEEP}}}]}}', "nested more than 64"),
        "images": (f'{{"images": {DEEP}}}', "nested more than 64"),
        "line": (f'{line}, "y": {DEEP}}}', "nested more than 64"),
        "second line": (f'{line}}}\n{line}, "y": {DEEP}}}\n', "1|bad row: nested more than 64"),
        "objects": ('{"a":' * 20_000 + "1" + "}" * 20_000, "nested more than 64"),
        "never closed": ('{"images": ' + "[" * 40_000, "nested more than 64"),
        "digits": (f'{{"images": [{one[:-1]}, "x": {DIGITS}}}]}}', "more than 1,000 digits"),
        "digits in a line": (f'{line}}}\n{line}, "y": {DIGITS}}}\n', "more than 4,300 digits"),
        "digits in the only line": (f'{line}, "y": {DIGITS}}}', "more than 1,000 digits"),
    }


@pytest.mark.parametrize("case", nested_json())
def test_json_that_is_nested_or_endless(tmp_path: Path, case: str) -> None:
    content, message = nested_json()[case]
    picture(tmp_path / "a.jpg")
    path = tmp_path / "m.json"
    path.write_text(content)
    assert message in read_bounded(path)


def test_a_long_line_is_refused_by_its_number(tmp_path: Path) -> None:
    """A file with a hole in it takes no room on the disk."""
    picture(tmp_path / "a.jpg")
    for name, head in {
        "m.csv": b"image,caption\n" + b"a.jpg,x\n" * 20_000,
        "m.jsonl": b'{"image": "a.jpg", "caption": "x"}\n' * 4_000,
    }.items():
        path = tmp_path / name
        path.write_bytes(head)
        with path.open("r+b") as file:
            file.truncate(8 << 30)
        lines = head.count(b"\n") + 1
        assert f"line {lines:,} is longer than the limit of 64 MiB" in read_bounded(path)
        path.unlink()


def test_a_line_of_json_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_json, "MAX_BYTES", 1 << 20)
    picture(tmp_path / "a.jpg")
    line = {"image": "a.jpg", "caption": "x"}
    long = json.dumps({**line, "caption": "y" * (1 << 20)})
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(line) + "\n" + long)
    manifest, records = read(path)
    assert captions(records) == {"a.jpg": ("x",)}
    assert [each.reason for each in problems(manifest)] == ["longer than the limit of 1 MiB"]


def test_what_is_just_within_the_limits(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    depth = MAX_DEPTH - 3
    image = {"filename": "a.jpg", "sentences": [{"raw": '[[{{ "quoted" \\'}], "n": 10**15}
    value: object = "x"
    for _ in range(depth):
        value = [value]
    path = tmp_path / "m.json"
    path.write_text(karpathy([{**image, "x": value}]))
    _, records = read(path)
    assert captions(records) == {"a.jpg": ('[[{{ "quoted" \\',)}
    assert bounded_json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(JsonLimitError):
        bounded_json.loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def naive(text: bytes) -> tuple[int, int]:
    """Greatest depth and length of a number, a byte at a time."""
    depth = deepest = digits = longest = 0
    in_string = escaped = False
    for byte in text:
        sign = chr(byte)
        digits = digits + 1 if sign.isdigit() and not in_string and byte < 128 else 0
        longest = max(longest, digits)
        if in_string:
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = True
            elif sign == '"':
                in_string = False
        elif sign == '"':
            in_string = True
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        deepest = max(deepest, depth)
    return deepest, longest


NAMES = st.text('"\\[}a')
JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text('"\\[]{}ab0\n', max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=40,
)


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES, st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_the_guard_counts_as_a_reader_of_bytes_does(value, size, most_depth, most_digits) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    depth, digits = naive(text)
    guard = JsonGuard()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded_json, "MAX_DEPTH", most_depth)
        patch.setattr(bounded_json, "MAX_DIGITS", most_digits)
        refused = None
        try:
            for start in range(0, len(text), size):
                guard.check(text[start : start + size])
        except JsonLimitError as error:
            refused = str(error)
    assert (refused is None) == (depth <= most_depth and digits <= most_digits)


def test_an_encoder_with_nested_settings(tmp_path: Path, encoder_folder: Path) -> None:
    from finetune.encoder_folder import read_description
    from finetune.models.pretrained import local_folder

    for name in ("encoder.json", "config.json", "tokenizer.json"):
        folder = tmp_path / name.removesuffix(".json")
        shutil.copytree(encoder_folder, folder)
        (folder / name).write_text(f'{{"x": {DEEP}}}')
        with pytest.raises(EncoderError, match=rf"{name}: cannot be read \(nested more than 64"):
            if name == "encoder.json":
                read_description(folder)
            else:
                local_folder(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + DEEP, "nested more than 64"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\n", r"line 2: \*a stands for another value"),
        ("x: 1\n" * 300_000, "above the limit of 1 MiB"),
    ],
)
def test_a_recipe_that_stands_for_more(tmp_path: Path, text: str, message: str) -> None:
    from finetune.config.recipes import load_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path))


# Tar shards


def sparse_shard(path: Path, name: str, size: int) -> Path:
    """`a.jpg` as it is and a member of `size` bytes, nearly all of them a hole, of 10 KB in all."""
    content = b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512
    tar_shard(path, [("a.jpg", jpeg(RED)), ("a.json", b'{"caption": "x"}')])
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.txt", "b.jpg", "b.json"])
def test_a_sparse_member(tmp_path: Path, name: str) -> None:
    said = read_bounded(sparse_shard(tmp_path / "s.tar", name, 6_000_000_000))
    assert said.startswith("1|") and f"bad row: {name}: is stored sparse" in said


def test_a_sparse_member_is_not_shown_from_other_bytes(tmp_path: Path) -> None:
    from clipsearch.search.images import ImageFolders

    sparse_shard(tmp_path / "s.tar", "b.jpg", 1000)
    folders = ImageFolders(SimpleNamespace(images_root=None), tmp_path)  # type: ignore[arg-type]
    assert folders.source("s.tar/a.jpg") is not None
    assert folders.source("s.tar/b.jpg") is None


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_header_that_states_more_than_there_is(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, (8 << 30) - 1
    path = tmp_path / "s.tar"
    path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"x" * 1024)
    assert "s.tar: damaged, cut off or compressed" in read_bounded(path)


@pytest.mark.parametrize("size", [-512, -1, -1 << 62])
def test_a_header_that_states_a_negative_size(tmp_path: Path, size: int) -> None:
    header = tarfile.TarInfo("a.txt")
    header.size = 0
    raw = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    raw[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(raw[:512]))[0]
    path = tmp_path / "s.tar"
    path.write_bytes(bytes(raw) + b"\0" * 2048)
    assert "s.tar: damaged, cut off or compressed" in read_bounded(path)


def test_texts_of_a_shard_have_a_limit(tmp_path: Path) -> None:
    shard = tar_shard(
        tmp_path / "s.tar",
        [
            ("a.jpg", jpeg(RED)),
            ("a.txt", b"x" * (bounded_json.MAX_BYTES + 1)),
            ("b.jpg", jpeg(RED)),
            ("b.json", f'{{"caption": "x", "y": {DEEP}}}'.encode()),
            ("c.jpg", jpeg(RED)),
            ("c.txt", b"good"),
        ],
    )
    said = read_bounded(shard)
    assert "a.txt: has 16 MiB, above the limit of 16 MiB" in said
    assert "nested more than 64 levels deep" in said
    assert captions(read(shard)[1])["s.tar/c.jpg"] == ("good",)


@pytest.mark.parametrize("pattern", ["{0..999999999999}.tar", "{0..999}{0..999}{0..999}.tar"])
def test_a_pattern_of_very_many_shards(pattern: str) -> None:
    with pytest.raises(ManifestError, match="more than 100,000 shards"):
        Manifest.open(pattern)


# Parquet


def one_text(characters: int, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(rows, np.int32)), pa.array(["y" * characters])
    )


MANY = 200_000


def one_long_text() -> dict[str, object]:
    return {"image": ["a.jpg"], "caption": ["x" * 300_000_000]}


def a_text_repeated() -> dict[str, object]:
    return {"image": ["a.jpg"] * MANY, "caption": one_text(1_000_000, MANY)}


def lists_of_a_text() -> dict[str, object]:
    offsets = pa.array(np.arange(MANY + 1, dtype=np.int32))
    captions = pa.ListArray.from_arrays(offsets, one_text(1_000_000, MANY))
    return {"image": ["a.jpg"] * MANY, "captions": captions}


def a_list_of_a_text() -> dict[str, object]:
    offsets = pa.array([0, MANY], pa.int32())
    captions = pa.ListArray.from_arrays(offsets, one_text(1_000_000, MANY))
    return {"image": ["a.jpg"], "captions": captions}


def a_list_of_zeros() -> dict[str, object]:
    numbers = pa.array(np.zeros(40_000_000, np.float64))
    offsets = pa.array([0, len(numbers)], pa.int32())
    n = pa.ListArray.from_arrays(offsets, numbers)
    return {"image": ["a.jpg"], "caption": ["x"], "n": n}


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (one_long_text, "column caption unpacks from"),
        (a_text_repeated, "rows repeat a few texts to"),
        (lists_of_a_text, "rows repeat a few texts to"),
        (a_list_of_a_text, "above the limit of 16 MiB"),
        (a_list_of_zeros, "column n.list.element unpacks from"),
    ],
)
def test_parquet_that_unpacks_to_very_much(
    tmp_path: Path, bomb: Callable[[], dict[str, object]], message: str
) -> None:
    picture(tmp_path / "a.jpg")
    path = tmp_path / "m.parquet"
    with_dictionary = bomb is not one_long_text
    pq.write_table(
        pa.table(bomb()), path, compression="zstd", use_dictionary=with_dictionary,
        write_statistics=False,
    )  # fmt: skip
    assert path.stat().st_size < 200_000
    assert message in read_bounded(path)


def test_repeated_texts_of_a_real_table_are_read(tmp_path: Path) -> None:
    """As dictionaries, with nulls, lists, empty lists and structs beside each other."""
    rows = [
        {
            "image": f"{number}.jpg",
            "captions": [["one", "two"], [], None, ["one"]][number % 4],
            "class": ["beach", None, "é"][number % 3],
            "more": {"text": "x" * (number % 5), "list": ["a", "b"]},
            "words": [["a"], ["b", "a"]],
            "n": number,
        }
        for number in range(10_000)
    ]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3000)
    from finetune.manifest.formats import recognise
    from finetune.manifest.problems import Problems

    problems = Problems()
    found = list(recognise(path).rows(problems))
    assert not problems and len(found) == len(rows)
    for row, expected in zip(found, rows, strict=True):
        assert (row.image, row.captions) == (expected["image"], tuple(expected["captions"] or ()))
        metadata = {
            key: value for key, value in expected.items() if key not in ("image", "captions")
        }
        assert row.metadata is not None
        assert row.metadata.get("class") == metadata["class"]
        assert row.metadata["n"] == metadata["n"]
        assert json.loads(str(row.metadata["more"])) == metadata["more"]


def test_texts_in_deeper_columns_are_read_in_smaller_batches(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"image": "a", "caption": "x", "s": {"t": "y" * 1000}}] * 3)
    path = tmp_path / "m.parquet"
    pq.write_table(table, path)
    metadata = pq.read_metadata(path)
    names = table.column_names
    assert parquet_values.text_paths(metadata) == ["image", "caption"]
    assert parquet_values.batch_rows(metadata, names) == 4096
    with pytest.MonkeyPatch.context() as patch:
        size = metadata.row_group(0).column(2).total_uncompressed_size
        patch.setattr(parquet_values, "MUCH_BYTES", 2 * size)
        assert parquet_values.batch_rows(metadata, names) == 2
        assert parquet_values.batch_rows(metadata, ["image", "caption"]) == 4096


# What is no regular file


@pytest.mark.parametrize("kind", ["pipe", "device", "kernel"])
def test_a_manifest_that_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/proc/self/environ")
    word = {"pipe": "is a pipe", "device": "is a device", "kernel": "is a file of the kernel"}[kind]
    with pytest.raises(ManifestError, match=rf"m\.csv: {word}"):
        Manifest.open(path)


def test_classes_and_reports_that_are_no_regular_files(tmp_path: Path) -> None:
    from clipsearch.feed.report import Rejections
    from finetune.manifest.class_labels import _lines

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError, match="is a pipe"):
        _lines(tmp_path / "pipe")
    with Rejections(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()
