"""The feed into a real embedded index: only the work that is left, nothing dropped in silence."""

import csv
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image

from clipsearch.documents import Document
from clipsearch.encoder.encoder import Encoder
from clipsearch.engines import open_engine
from clipsearch.feed import pipeline
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.operations import Delete
from finetune.errors import (
    EncoderMismatchError,
    EngineError,
    HubError,
    ManifestError,
    UsageError,
)
from finetune.images.source import ImageSource

CLASSES = ("beach", "airport", "river")


def paint(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize((48, 40)).save(path, quality=95)


class Photos:
    """A manifest of small pictures, changed by tests between feeds."""

    def __init__(self, folder: Path, count: int = 9) -> None:
        self.folder = folder
        self.manifest = folder / "photos.csv"
        self.index = folder.parent / "photos.index"
        self.rows = [
            {
                "image": f"{CLASSES[number % 3]}/{number}.jpg",
                "caption": f"picture {number} of a {CLASSES[number % 3]}",
                "split": "val" if number == 8 else "train",
                "class": CLASSES[number % 3],
                "year": str(2010 + number),
            }
            for number in range(count)
        ]
        for number, row in enumerate(self.rows):
            paint(folder / row["image"], number)
        self.write()

    def write(self) -> None:
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        with self.manifest.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def feed(self, encoder: Path | None, **options: object) -> FeedReport:
        values = {"manifest": self.manifest, "index": str(self.index), "workers": 0, **options}
        return feed(FeedOptions(encoder=encoder, **values), progress_stream=io.StringIO())  # type: ignore[arg-type]


def documents(index: Path) -> dict[str, Document]:
    engine = open_engine(str(index))
    try:
        return {document.id: document for document in engine.visit(embeddings=True)}
    finally:
        engine.close()


def counts(report: FeedReport) -> tuple[int, int, int, int, int]:
    return report.fed, report.updated, report.unchanged, report.removed, report.rejected


def clipsearch(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path / "photos")


@pytest.fixture
def fed(photos: Photos, encoder_folder: Path) -> Photos:
    assert counts(photos.feed(encoder_folder)) == (9, 0, 0, 0, 0)
    return photos


@pytest.fixture
def no_image_work(fed: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first feed, any decoding, encoding or reading of pictures fails the test."""

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("image work for an unchanged picture")

    monkeypatch.setattr(pipeline, "decode_ahead", forbidden)
    monkeypatch.setattr(Encoder, "encode_pixels", forbidden)
    monkeypatch.setattr(ImageSource, "read", forbidden)
    monkeypatch.setattr(ImageSource, "open", forbidden)


def test_documents_are_what_the_manifest_says(fed: Photos, encoder_folder: Path) -> None:
    found = documents(fed.index)
    assert set(found) == {row["image"] for row in fed.rows}
    vectors = Encoder.load(encoder_folder).encode_images(
        [fed.folder / row["image"] for row in fed.rows]
    )
    for row, vector in zip(fed.rows, vectors, strict=True):
        document = found[row["image"]]
        assert document.captions == (row["caption"],)
        assert document.path == row["image"]
        assert document.tags == {"class": row["class"], "split": row["split"]}
        assert document.numbers == {"year": float(row["year"])}
        assert document.embedding is not None
        np.testing.assert_allclose(document.embedding, vector, atol=1e-5)


def test_index_knows_its_encoder_and_columns(fed: Photos, encoder_folder: Path) -> None:
    engine = open_engine(str(fed.index))
    info = engine.info
    engine.close()
    encoder = Encoder.load(encoder_folder)
    assert info.encoder_fingerprint == encoder.fingerprint
    assert info.encoder_name == encoder.name
    assert info.encoder_path == str(encoder_folder)
    assert info.dimension == encoder.dimension
    assert info.language == "en"
    assert info.number_columns == ("year",)
    assert info.tag_columns == ("class", "split")
    assert info.images_root == str(fed.folder)
    assert info.index_id


@pytest.mark.usefixtures("no_image_work")
def test_unchanged_needs_no_image_work(fed: Photos) -> None:
    assert counts(fed.feed(None)) == (0, 0, 9, 0, 0)  # the index knows its encoder


def test_other_time_but_same_bytes_is_read_once_and_not_encoded(
    fed: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = ImageSource.read

    def counted(source: ImageSource) -> bytes:
        reads.append(source.path)
        return read(source)

    monkeypatch.setattr(ImageSource, "read", counted)
    touched = fed.folder / fed.rows[3]["image"]
    os.utime(touched, ns=(0, 12345))
    assert counts(fed.feed(None)) == (0, 0, 9, 0, 0)
    assert reads == [touched]
    assert counts(fed.feed(None)) == (0, 0, 9, 0, 0)
    assert reads == [touched]


@pytest.mark.usefixtures("no_image_work")
def test_changed_words_alone_cost_no_image_work(fed: Photos) -> None:
    before = documents(fed.index)
    fed.rows[0]["caption"] = "quite another caption"
    fed.rows[1]["class"] = "desert"
    fed.rows[2]["year"] = "1999"
    fed.write()
    assert counts(fed.feed(None)) == (0, 3, 6, 0, 0)
    assert counts(fed.feed(None)) == (0, 0, 9, 0, 0)
    after = documents(fed.index)
    first, second, third = (after[row["image"]] for row in fed.rows[:3])
    assert first.captions == ("quite another caption",)
    assert second.tags["class"] == "desert"
    assert third.numbers == {"year": 1999.0}
    for name, document in after.items():
        np.testing.assert_array_equal(document.embedding, before[name].embedding)


def test_changed_and_new_pictures_are_encoded(fed: Photos) -> None:
    before = documents(fed.index)
    changed = fed.rows[4]["image"]
    paint(fed.folder / changed, 1000)
    paint(fed.folder / "new.jpg", 1001)
    fed.rows.append({**fed.rows[0], "image": "new.jpg"})
    fed.write()
    assert counts(fed.feed(None)) == (1, 1, 8, 0, 0)
    after = documents(fed.index)
    assert set(after) == {*before, "new.jpg"}
    assert not np.allclose(after[changed].embedding, before[changed].embedding, atol=1e-3)


def test_prune_removes_what_the_manifest_no_longer_has(fed: Photos) -> None:
    gone = fed.rows.pop(0)["image"]
    fed.write()
    assert counts(fed.feed(None)) == (0, 0, 8, 0, 0)
    assert gone in documents(fed.index)
    assert counts(fed.feed(None, prune=True)) == (0, 0, 8, 1, 0)
    assert gone not in documents(fed.index)
    fed.rows.append({**fed.rows[0], "image": gone})
    fed.write()
    assert counts(fed.feed(None)) == (1, 0, 8, 0, 0)  # the ledger had forgotten it


def test_prune_leaves_the_splits_that_are_not_fed(fed: Photos) -> None:
    assert counts(fed.feed(None, prune=True, splits=("val",))) == (0, 0, 1, 0, 0)
    assert len(documents(fed.index)) == 9


def test_prune_does_not_take_a_missing_disk_for_a_wish(fed: Photos) -> None:
    shutil.move(fed.folder / "beach", fed.folder.parent / "unmounted")
    gone = fed.rows.pop(1)["image"]
    fed.write()
    report = fed.feed(None, prune=True)
    assert report.removed == 1
    assert any("3 documents stay, of pictures that could" in note for note in report.notes)
    assert report.problems == {"missing file": 3}
    assert documents(fed.index).keys() == {row["image"] for row in fed.rows}
    assert gone.startswith("airport/")


def test_columns_that_pictures_bring_are_remembered(photos: Photos, encoder_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Camera 1"
    Image.new("RGB", (8, 8)).save(photos.folder / "beach" / "shot.jpg", exif=exif)
    photos.manifest.unlink()
    first = photos.feed(encoder_folder, manifest=photos.folder, exif=True, folder_tags="levels")
    tags = {"folder": "beach", "folder_1": "beach", "camera": "Camera 1"}
    before = documents(photos.index)["beach/shot.jpg"].tags
    assert first.fed and tags.items() <= before.items()
    again = photos.feed(None, manifest=photos.folder)
    assert (again.fed, again.updated) == (0, 0)
    assert photos.feed(None, manifest=photos.folder, exif=False, folder_tags="path").updated
    after = documents(photos.index)["beach/shot.jpg"].tags
    assert after.keys() == before.keys() - {"camera", "folder_1"}


def test_only_the_asked_split_is_fed(photos: Photos, encoder_folder: Path) -> None:
    assert counts(photos.feed(encoder_folder, splits=("val",))) == (1, 0, 0, 0, 0)
    assert list(documents(photos.index)) == [photos.rows[8]["image"]]


def test_unreadable_pictures_are_reported_and_tried_again(
    photos: Photos, encoder_folder: Path
) -> None:
    broken = photos.folder / photos.rows[2]["image"]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    for fed_count, unchanged in ((8, 0), (0, 8)):
        report = photos.feed(encoder_folder)
        assert counts(report) == (fed_count, 0, unchanged, 0, 1)
        assert report.report_path == photos.index / "feed-report.csv"
        with report.report_path.open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["id"] == photos.rows[2]["image"]
        assert row["kind"] == "unreadable image"
        assert row["reason"]
    broken.write_bytes(whole)
    report = photos.feed(encoder_folder)
    assert counts(report) == (1, 0, 8, 0, 0)
    assert report.report_path is None
    assert not (photos.index / "feed-report.csv").exists()


def test_text_in_a_number_column_is_rejected_and_the_column_keeps_its_kind(fed: Photos) -> None:
    fed.rows[0]["year"] = "unknown"
    fed.rows[1]["seen"] = "5"
    fed.write()
    report = fed.feed(None)
    assert counts(report) == (0, 1, 7, 0, 1)
    assert report.report_path is not None
    assert "'unknown'" in report.report_path.read_text(encoding="utf-8")
    engine = open_engine(str(fed.index))
    assert engine.info.number_columns == ("seen", "year")
    assert engine.get([fed.rows[1]["image"]])[0].numbers == {"seen": 5.0, "year": 2011.0}  # type: ignore[union-attr]
    engine.close()


def test_columns_by_wish(photos: Photos, encoder_folder: Path) -> None:
    photos.feed(encoder_folder, tags=("year",))
    found = documents(photos.index)[photos.rows[0]["image"]]
    assert found.tags["year"] == "2010"
    with pytest.raises(UsageError, match="keeps this column as a tag"):
        photos.feed(encoder_folder, numbers=("year",))
    with pytest.raises(UsageError, match="no such column"):
        photos.feed(encoder_folder, numbers=("none",))
    with pytest.raises(UsageError, match="choose one"):
        photos.feed(encoder_folder, numbers=("class",), tags=("class",))


def test_strict_feeds_nothing(photos: Photos, encoder_folder: Path) -> None:
    (photos.folder / photos.rows[0]["image"]).unlink()
    with pytest.raises(ManifestError):
        photos.feed(encoder_folder, strict=True)
    assert not photos.index.exists()
    report = photos.feed(encoder_folder)
    assert counts(report) == (8, 0, 0, 0, 0)
    assert not report.complete
    assert report.report_path is not None
    assert "missing file" in report.report_path.read_text(encoding="utf-8")


def test_another_encoder_is_refused_with_both_fingerprints(fed: Photos, tmp_path: Path) -> None:
    from tiny_encoder import build_encoder  # needs torch

    other = build_encoder(tmp_path / "other", seed=7, name="other")
    engine = open_engine(str(fed.index))
    held = str(engine.info.encoder_fingerprint)
    engine.close()
    with pytest.raises(EncoderMismatchError) as raised:
        fed.feed(tmp_path / "other")
    assert held[:12] in str(raised.value)
    assert other.fingerprint[:12] in str(raised.value)
    assert len(documents(fed.index)) == 9


def test_another_language_is_refused(fed: Photos) -> None:
    with pytest.raises(UsageError, match="'en'"):
        fed.feed(None, language="fr")
    with pytest.raises(UsageError, match="unknown"):
        fed.feed(None, language="tlh")


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": -1}])
def test_wrong_numbers_fail_at_the_start(photos: Photos, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be"):
        photos.feed(None, **wrong)


def test_a_new_index_without_encoder_or_vectors_asks_for_one(photos: Photos) -> None:
    with pytest.raises(HubError, match="--encoder"):  # the one it would fetch is not here
        photos.feed(None)
    assert not photos.index.exists()


def test_ledger_elsewhere_notices_that_the_index_was_made_anew(
    photos: Photos, encoder_folder: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "elsewhere.sqlite"
    assert counts(photos.feed(encoder_folder, ledger=ledger)) == (9, 0, 0, 0, 0)
    assert counts(photos.feed(encoder_folder, ledger=ledger)) == (0, 0, 9, 0, 0)
    shutil.rmtree(photos.index)
    report = photos.feed(encoder_folder, ledger=ledger)
    assert counts(report) == (9, 0, 0, 0, 0)
    assert any("another index" in note for note in report.notes)


def test_documents_deleted_behind_the_ledger_are_fed_anew(fed: Photos) -> None:
    gone = fed.rows[5]["image"]
    engine = open_engine(str(fed.index))
    assert all(outcome.error is None for outcome in engine.feed(iter([Delete(gone)])))
    engine.finish_feed()
    engine.close()
    assert counts(fed.feed(None)) == (1, 0, 8, 0, 0)
    assert gone in documents(fed.index)


def test_a_moved_corpus_and_a_second_corpus(
    fed: Photos, encoder_folder: Path, tmp_path: Path
) -> None:
    second = Photos(tmp_path / "second", count=3)
    second.index = fed.index
    for number, row in enumerate(second.rows):
        (second.folder / row["image"]).rename(second.folder / f"s{number}.jpg")
        row["image"] = f"s{number}.jpg"
    second.write()
    assert counts(second.feed(None)) == (3, 0, 0, 0, 0)
    assert documents(fed.index)["s0.jpg"].path == (second.folder / "s0.jpg").as_posix()
    shutil.rmtree(second.folder)

    moved = tmp_path / "moved"
    fed.folder.rename(moved)
    fed.folder, fed.manifest = moved, moved / "photos.csv"
    assert counts(fed.feed(None)) == (0, 0, 9, 0, 0)
    engine = open_engine(str(fed.index))
    assert engine.info.images_root == str(moved)
    engine.close()


def test_worker_processes_give_the_same_index(
    fed: Photos, encoder_folder: Path, tmp_path: Path
) -> None:
    index = tmp_path / "workers.index"
    report = fed.feed(encoder_folder, index=str(index), workers=2, batch_size=4)
    assert counts(report) == (9, 0, 0, 0, 0)
    expected = documents(fed.index)
    found = documents(index)
    assert set(found) == set(expected)
    for name, document in found.items():
        np.testing.assert_allclose(document.embedding, expected[name].embedding, atol=1e-5)


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    rows = {
        "id": ["a", "b", "zeros"],
        "caption": ["one", "two", "three"],
        "embedding": [[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]],
    }
    path = tmp_path / "vectors.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_ready_made_vectors(vectors: Path, encoder_folder: Path, tmp_path: Path) -> None:
    options = FeedOptions(manifest=vectors, index=str(tmp_path / "vectors.index"))
    report = feed(options, io.StringIO())
    assert counts(report) == (2, 0, 0, 0, 1)
    assert report.report_path is not None
    assert "zeros" in report.report_path.read_text(encoding="utf-8")
    found = documents(tmp_path / "vectors.index")
    assert found["a"].embedding == pytest.approx([0.6, 0.8])
    assert counts(feed(options, io.StringIO())) == (0, 0, 2, 0, 1)
    with pytest.raises(EncoderMismatchError, match="ready-made vectors"):
        feed(
            FeedOptions(manifest=vectors, index=options.index, encoder=encoder_folder),
            io.StringIO(),
        )


def test_changed_ready_made_vector_is_written(vectors: Path, tmp_path: Path) -> None:
    options = FeedOptions(manifest=vectors, index=str(tmp_path / "vectors.index"))
    feed(options, io.StringIO())
    rows = pd.read_parquet(vectors)
    rows["embedding"] = [[4.0, 3.0], [0.0, 1.0], [1.0, 1.0]]
    rows.to_parquet(vectors)
    assert counts(feed(options, io.StringIO())) == (1, 1, 1, 0, 0)
    assert documents(tmp_path / "vectors.index")["a"].embedding == pytest.approx([0.8, 0.6])
    rows["embedding"] = [[1.0, 0.0, 0.0]] * 3
    rows.to_parquet(vectors)
    with pytest.raises(EngineError, match="2 values, but these have 3"):
        feed(options, io.StringIO())


def test_command_line_from_feed_to_delete(photos: Photos, encoder_folder: Path) -> None:
    broken = photos.folder / photos.rows[2]["image"]
    broken.write_bytes(b"no picture")
    index = ("--index", photos.index)
    done = clipsearch("feed", photos.manifest, "--encoder", encoder_folder, *index)
    assert done.returncode == 3, done.stderr
    assert "fed 8, updated 0, unchanged 0, removed 0, rejected 1" in done.stdout
    assert str(photos.index / "feed-report.csv") in done.stdout
    assert "9/9 images" in done.stderr

    done = clipsearch("feed", photos.manifest, *index, "--json")
    assert done.returncode == 3
    answer = json.loads(done.stdout)
    assert (answer["fed"], answer["unchanged"], answer["rejected"]) == (0, 8, 1)

    done = clipsearch("status", *index, "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["count"], facts["dimension"]) == (0, 8, 32)
    assert facts["disk_bytes"] > 1000
    done = clipsearch("status", *index)
    assert "documents  8" in done.stdout

    name = photos.rows[0]["image"]
    done = clipsearch("get", name, *index, "--json", "--embedding")
    (document,) = json.loads(done.stdout)
    assert document["numbers"] == {"year": 2010.0}
    assert np.linalg.norm(document["embedding"]) == pytest.approx(1, abs=1e-3)
    done = clipsearch("get", name, *index)
    assert "caption: picture 0 of a beach" in done.stdout
    done = clipsearch("get", name, "nobody", *index)
    assert done.returncode == 1
    assert "nobody" in done.stderr

    done = clipsearch("delete", name, *index)
    assert done.returncode == 2  # nobody to ask
    done = clipsearch("delete", name, "nobody", "--yes", *index)
    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert name in documents(photos.index)
    done = clipsearch("delete", "-", "--yes", *index, stdin=name + "\n")
    assert (done.returncode, done.stdout) == (0, "removed 1\n")
    assert name not in documents(photos.index)

    broken.unlink()
    photos.rows.pop(2)
    photos.write()
    done = clipsearch("feed", photos.manifest, *index, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fed"] == 1  # what was deleted came back


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("feed", "none.csv", "--encoder", "{encoder}", "--index", "{index}"), 1, "none.csv"),
        (("feed", "{manifest}", "--encoder", "none", "--index", "{index}"), 1, "none"),
        (("feed", "{manifest}", "--encoder", "{encoder}"), 2, "--index"),
        (("status", "--index", "{index}"), 1, "photos.index"),
        (("get", "x", "--index", "{index}"), 1, "photos.index"),
    ],
)
def test_wrong_input_is_one_sentence(
    photos: Photos, encoder_folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    fill: Callable[[str], str] = lambda text: text.format(  # noqa: E731
        encoder=encoder_folder, index=photos.index, manifest=photos.manifest
    )
    done = clipsearch(*map(fill, arguments))
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not photos.index.exists()


def test_a_picture_that_was_stretched_is_fed_with_a_note(
    photos: Photos, encoder_folder: Path
) -> None:
    values = np.linspace(0, 4095, 40 * 48).reshape(40, 48).astype(np.uint16)
    Image.fromarray(values).save(photos.folder / "deep.png")
    photos.rows.append({"image": "deep.png", "caption": "deep", "split": "train"})
    photos.write()
    report = photos.feed(encoder_folder)
    assert counts(report) == (10, 0, 0, 0, 0) and report.complete
    assert report.report_path is not None
    with report.report_path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["id"], row["kind"]) == ("deep.png", "own range")
    assert any(note.startswith("1 pictures use a part") for note in report.notes)
    again = photos.feed(encoder_folder)
    assert again.complete and again.report_path is None and not again.notes
