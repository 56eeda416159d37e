"""Properties that hold for any manifest: captions come back, order and growth change nothing."""

import csv
import io
import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.manifest.image_lookup import is_absolute, normalise
from finetune.manifest.manifest import Manifest

FORMATS = ("comma", "tab", "semicolon", "jsonl", "jsonl ascii", "parquet", "karpathy")

# Every character that UTF-8 can hold; a lone carriage return, inside a caption, included.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
images = st.sampled_from([f"{folder}{n}.jpg" for folder in ("", "x/") for n in range(4)])
rows = st.lists(st.tuples(images, texts), min_size=1, max_size=12)

property_test = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files that stand for images."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "x").mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").touch()
        (folder / f"x/{number}.jpg").touch()
    return folder


def content(form: str, given_rows: list[tuple[str, str]]) -> bytes:
    """The rows in a format, written by a library that is not ours."""
    if form == "parquet":
        table = pa.table(
            {"image": [row[0] for row in given_rows], "caption": [row[1] for row in given_rows]}
        )
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()
    if form.startswith("jsonl"):
        lines = [
            json.dumps({"image": image, "caption": text}, ensure_ascii="ascii" in form)
            for image, text in given_rows
        ]
        return "\n".join(lines).encode()
    if form == "karpathy":
        values = [{"filename": image, "sentences": [{"raw": text}]} for image, text in given_rows]
        return json.dumps({"images": values}, ensure_ascii=False).encode()
    delimiter = {"comma": ",", "tab": "\t", "semicolon": ";"}[form]
    stream = io.StringIO()
    # The line end is that of RFC 4180, so that both of its characters are quoted in captions.
    csv.writer(stream, delimiter=delimiter, lineterminator="\r\n").writerows(
        [("image", "caption"), *given_rows]
    )
    return stream.getvalue().encode()


def read(folder: Path, data: bytes) -> dict[str, tuple[tuple[str, ...], str]]:
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(data)
        file.flush()
        with Manifest.open(file.name) as manifest:
            assert set(manifest.problems.counts) <= {"empty caption"}
            assert not manifest.problems.notes
            return {each.id: (each.captions, each.split) for each in manifest.records()}


def merged(given_rows: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """What the rows mean: captions composed and stripped, none empty, each once, in order."""
    expected: dict[str, list[str]] = {}
    for image, text in given_rows:
        kept = expected.setdefault(image, [])
        caption = unicodedata.normalize("NFC", text).strip()
        if caption and caption not in kept:
            kept.append(caption)
    return {image: tuple(kept) for image, kept in expected.items()}


@pytest.mark.parametrize("form", FORMATS)
@property_test
@given(given_rows=rows)
def test_captions_come_back_from_every_format(
    folder: Path, form: str, given_rows: list[tuple[str, str]]
) -> None:
    found = read(folder, content(form, given_rows))
    expected = merged(given_rows)
    assert {id: captions for id, (captions, _) in found.items()} == expected
    assert list(found) == list(expected)


@property_test
@given(data=st.data(), given_rows=rows)
def test_order_of_rows_changes_neither_captions_nor_splits(
    folder: Path, data: Any, given_rows: list[tuple[str, str]]
) -> None:
    shuffled = data.draw(st.permutations(given_rows))
    found = read(folder, content("comma", given_rows))
    again = read(folder, content("jsonl", shuffled))
    assert {id: (set(texts), split) for id, (texts, split) in found.items()} == {
        id: (set(texts), split) for id, (texts, split) in again.items()
    }


@property_test
@given(given_rows=rows, more=rows)
def test_adding_images_moves_no_split(
    folder: Path, given_rows: list[tuple[str, str]], more: list[tuple[str, str]]
) -> None:
    before = read(folder, content("comma", given_rows))
    after = read(folder, content("comma", more + given_rows))
    assert {id: after[id][1] for id in before} == {id: split for id, (_, split) in before.items()}


@property_test
@given(st.text(st.sampled_from("ab./\\C:"), min_size=1, max_size=12))
@example("./C:/a")
@example("a/../C:/b")
@example("C:/../")
def test_normalised_paths_mean_the_same_and_stay(path: str) -> None:
    result = normalise(path)
    assert normalise(result) == result
    assert is_absolute(result) == is_absolute(path.replace("\\", "/"))
    assert "\\" not in result and "//" not in result
    # Without "./" a folder that is called "C:" would be a drive.
    rest = result.removeprefix("./")
    assert rest == result or is_absolute(rest)
    assert result == "." or not any(part == "." for part in rest.split("/"))


@property_test
@given(st.binary(max_size=300))
def test_garbage_never_raises_anything_but_a_sentence(folder: Path, data: bytes) -> None:
    from finetune.errors import ManifestError

    for prefix in (b"", b"image,caption\n", b'{"image": "0.jpg", "caption": "x"}\n', b"PAR1"):
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(prefix + data)
            file.flush()
            try:
                Manifest.open(file.name).close()
            except ManifestError as error:
                assert "\n" not in str(error)
