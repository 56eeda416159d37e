"""A picture whose embedding the index has already is not encoded; one that changed always is."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH, CODE
from small_pictures import Manifest, counts, documents, paint
from vespa_stub import StubVespa

from clipsearch.encoder.encoder import Encoder
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed import pipeline

COUNT = 6


@pytest.fixture
def photos(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "photos", {f"{number}.png": number for number in range(COUNT)})


@pytest.fixture
def index(photos: Manifest, encoder_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "photos.index"
    assert counts(photos.feed(folder, encoder_folder)) == (COUNT, 0, 0, 0, 0)
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pictures of each call of the image tower."""
    sizes: list[int] = []
    encode = Encoder.encode_pixels

    def counted(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
        sizes.append(len(pixels))
        return encode(encoder, pixels)

    monkeypatch.setattr(Encoder, "encode_pixels", counted)
    return sizes


def assert_is_image(index: Path | str, name: str, file: Path, encoder_folder: Path) -> None:
    document = documents(index)[name]
    (expected,) = Encoder.load(encoder_folder).encode_images([file])
    np.testing.assert_allclose(document.embedding, expected, atol=1e-5)


def test_renamed_and_moved_pictures_are_not_encoded(
    photos: Manifest, index: Path, encoded: list[int], encoder_folder: Path
) -> None:
    before = documents(index)
    photos.rename("0.png", "renamed.png")
    photos.rename("1.png", "deep/down/1.png")
    report = photos.feed(index, prune=True)
    assert counts(report) == (2, 0, COUNT - 2, 2, 0)
    assert report.reused == 2
    assert encoded == []
    after = documents(index)
    np.testing.assert_array_equal(after["renamed.png"].embedding, before["0.png"].embedding)
    np.testing.assert_array_equal(after["deep/down/1.png"].embedding, before["1.png"].embedding)
    assert counts(photos.feed(index)) == (0, 0, COUNT, 0, 0)
    assert encoded == []


def test_a_moved_folder_is_hashed_and_not_encoded(
    photos: Manifest, index: Path, encoded: list[int]
) -> None:
    moved = photos.folder.rename(photos.folder.parent / "moved")
    photos.folder, photos.path = moved, moved / "m.csv"
    assert counts(photos.feed(index)) == (0, 0, COUNT, 0, 0)
    assert encoded == []


def test_a_copied_tree_with_other_inodes_is_hashed_once(
    photos: Manifest, index: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = photos.folder.rename(photos.folder.parent / "original")
    shutil.copytree(original, photos.folder)  # with the times of modification, as cp -a has it
    shutil.rmtree(original)
    assert counts(photos.feed(index)) == (0, 0, COUNT, 0, 0)
    monkeypatch.setattr("clipsearch.feed.contents.read_bytes", None)  # from now on nothing is read
    assert counts(photos.feed(index)) == (0, 0, COUNT, 0, 0)
    assert encoded == []


def test_equal_pictures_of_one_feed_are_encoded_once(
    photos: Manifest, encoded: list[int], encoder_folder: Path, tmp_path: Path
) -> None:
    for copy in ("again.png", "and-again.png"):
        shutil.copy(photos.folder / "3.png", photos.folder / copy)
        photos.captions[copy] = f"a copy, {copy}"
    photos.write()
    index = tmp_path / "copies.index"
    report = photos.feed(index, encoder_folder)
    assert counts(report) == (COUNT + 2, 0, 0, 0, 0)
    assert (report.reused, sum(encoded)) == (2, COUNT)
    found = documents(index)
    np.testing.assert_array_equal(found["again.png"].embedding, found["3.png"].embedding)
    assert_is_image(index, "and-again.png", photos.folder / "3.png", encoder_folder)


def test_pictures_of_one_size_that_differ_are_told_apart(
    encoded: list[int], encoder_folder: Path, tmp_path: Path
) -> None:
    names = {f"{number}.bmp": number for number in range(5)}  # not compressed: all of one size
    photos = Manifest(tmp_path / "bitmaps", names)
    shutil.copy(photos.folder / "4.bmp", photos.folder / "copy.bmp")
    photos.captions["copy.bmp"] = "a copy"
    photos.write()
    index = tmp_path / "bitmaps.index"
    report = photos.feed(index, encoder_folder)
    assert (report.fed, report.reused, sum(encoded)) == (6, 1, 5)
    for name in names:
        assert_is_image(index, name, photos.folder / name, encoder_folder)
    np.testing.assert_array_equal(
        documents(index)["copy.bmp"].embedding, documents(index)["4.bmp"].embedding
    )


def test_two_pictures_that_change_places(
    photos: Manifest, index: Path, encoder_folder: Path
) -> None:
    """Each has the other's content: the one written first must not be read for the other."""
    for a, b in (("0.png", "1.png"), ("2.png", "3.png")):
        one, other = photos.folder / a, photos.folder / b
        one.rename(photos.folder / "x")
        other.rename(one)
        (photos.folder / "x").rename(other)
    report = photos.feed(index)
    assert counts(report) == (0, 4, COUNT - 4, 0, 0)
    for name in ("0.png", "1.png", "2.png", "3.png"):
        assert_is_image(index, name, photos.folder / name, encoder_folder)


def test_a_document_that_was_deleted_behind_the_ledger_is_not_asked(
    photos: Manifest, index: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the embedding is not there after all, the picture is encoded."""
    from clipsearch.engines.local.engine import LocalEngine

    photos.rename("0.png", "renamed.png")
    get = LocalEngine.get
    monkeypatch.setattr(
        LocalEngine,
        "get",
        lambda engine, ids, **options: [None for _ in get(engine, ids, **options)],
    )
    report = photos.feed(index)
    monkeypatch.undo()
    assert (report.fed, report.reused) == (1, 0)
    assert_is_image(index, "renamed.png", photos.folder / "renamed.png", encoder_folder)


def turn_in_place(path: Path, seed: int) -> None:
    """Other bytes, of the same number, with the time of modification as it was."""
    status = path.stat()
    with path.open("r+b") as file:
        data = path.read_bytes()
        other = path.with_suffix(".other.bmp")
        paint(other, seed)
        changed = other.read_bytes()
        other.unlink()
        assert len(changed) == len(data) and changed != data
        file.write(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_picture_changed_with_its_size_and_time_kept(
    encoder_folder: Path, tmp_path: Path
) -> None:
    photos = Manifest(tmp_path / "bitmaps", {"a.bmp": 1, "b.bmp": 2})
    index = tmp_path / "bitmaps.index"
    photos.feed(index, encoder_folder)
    turn_in_place(photos.folder / "a.bmp", 77)
    command = [*CLIPSEARCH, "feed", photos.path, "--index", index]
    done = subprocess.run(
        [*map(str, command), "--workers", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "fed 0, updated 1, unchanged 1," in done.stdout
    assert_is_image(index, "a.bmp", photos.folder / "a.bmp", encoder_folder)


def test_a_replaced_file_with_size_and_time_kept(encoder_folder: Path, tmp_path: Path) -> None:
    """As a tool does that writes beside and renames, and sets the time back."""
    photos = Manifest(tmp_path / "bitmaps", {"a.bmp": 1})
    index = tmp_path / "bitmaps.index"
    photos.feed(index, encoder_folder)
    path = photos.folder / "a.bmp"
    status = path.stat()
    paint(photos.folder / "new.bmp", 5)
    os.utime(photos.folder / "new.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    (photos.folder / "new.bmp").rename(path)
    assert counts(photos.feed(index)) == (0, 1, 0, 0, 0)
    assert_is_image(index, "a.bmp", path, encoder_folder)


def test_on_a_vespa_too(
    photos: Manifest, encoder_folder: Path, encoded: list[int], tmp_path: Path
) -> None:
    shutil.copy(photos.folder / "3.png", photos.folder / "copy.png")
    photos.captions["copy.png"] = "a copy"
    photos.write()
    encoder = Encoder.load(encoder_folder)
    options = {"ledger": tmp_path / "ledger.sqlite", "report": tmp_path / "report.csv"}
    with StubVespa(dimension=encoder.dimension) as stub:
        client = connect(stub.url)
        write_info(client, IndexInfo(encoder.dimension))
        client.close()
        report = photos.feed(stub.url, encoder_folder, **options)
        assert (report.fed, report.reused, sum(encoded)) == (COUNT + 1, 1, COUNT)
        photos.rename("0.png", "renamed.png")
        report = photos.feed(stub.url, prune=True, **options)
        assert counts(report) == (1, 0, COUNT, 1, 0)
        assert (report.reused, sum(encoded)) == (1, COUNT)
        assert_is_image(stub.url, "renamed.png", photos.folder / "renamed.png", encoder_folder)


KILLED = """
import os, sys
from pathlib import Path
from clipsearch.feed import writing as feed_writing
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
settle = feed_writing.Writing._settle
left = int(sys.argv[3])
def killed(writing, outcome, step):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    settle(writing, outcome, step)
feed_writing.Writing._settle = killed
feed(FeedOptions(manifest=Path(sys.argv[1]), index=sys.argv[2], workers=0))
"""


@pytest.mark.parametrize("moment", [0, 1, 3])
def test_killed_between_the_writes_of_reused_embeddings(
    photos: Manifest, index: Path, encoder_folder: Path, moment: int
) -> None:
    """Pictures that changed places, killed half-way: each has its own embedding in the end."""
    for a, b in (("0.png", "1.png"), ("2.png", "3.png")):
        one, other = photos.folder / a, photos.folder / b
        one.rename(photos.folder / "x")
        other.rename(one)
        (photos.folder / "x").rename(other)
    arguments = [str(photos.path), str(index), str(moment)]
    done = subprocess.run([*CODE, KILLED, *arguments], check=False)
    assert done.returncode == -9
    photos.feed(index)
    for name in photos.captions:
        assert_is_image(index, name, photos.folder / name, encoder_folder)
    assert counts(photos.feed(index)) == (0, 0, COUNT, 0, 0)


def test_no_picture_is_decoded_for_a_rename(
    photos: Manifest, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("image work for a renamed picture")

    monkeypatch.setattr(pipeline, "decode_ahead", forbidden)
    photos.rename("5.png", "five.png")
    assert photos.feed(index).reused == 1
