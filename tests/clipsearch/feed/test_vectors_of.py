"""Vectors of other programs: taken as they are, with the encoder that made them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from other_indexes import clip_retrieval_folder, rclip_database
from PIL import Image

from clipsearch.encoder.encoder import Encoder
from clipsearch.feed.copying import write_parquet
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from clipsearch.search.search import Search
from finetune.errors import EncoderMismatchError, ManifestError, UsageError

NAMES = ("2019/a.png", "2019/b.png", "2020/c.png", "d.png")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "Pictures"
    for seed, name in enumerate(NAMES):
        noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((48, 40)).save(folder / name)
    return folder


@pytest.fixture
def vectors(album: Path, encoder_folder: Path) -> np.ndarray:
    return Encoder.load(encoder_folder).encode_images(album / name for name in NAMES)


def fed(manifest: Path, index: Path, **options: object) -> FeedReport:
    return feed(FeedOptions(manifest=manifest, index=str(index), workers=0, **options))  # type: ignore[arg-type]


def counts(report: FeedReport) -> tuple[int, int, int, int]:
    return report.fed, report.updated, report.unchanged, report.rejected


def test_rclips_vectors_are_searched_with_its_encoder_and_its_folder_is_not_encoded_again(
    tmp_path: Path, album: Path, vectors: np.ndarray, encoder_folder: Path
) -> None:
    database = rclip_database(tmp_path / "db.sqlite3", [album / name for name in NAMES], vectors)
    index = tmp_path / "p.index"
    report = fed(database, index, vectors_of=encoder_folder, data_set="pictures")
    assert counts(report) == (4, 0, 0, 0)
    (note,) = report.notes
    assert note == "rclip made these vectors with ViT-B-32-256 of DataComp (datacomp_s34b_b86k)"
    with Search.open(index) as search:
        assert search.info.encoder_path == str(encoder_folder)
        by_text = search.query("a red dog", mode="vector").hits
        expected = vectors @ search.encoder.encode_texts(["a red dog"])[0]
        assert [hit.document.id for hit in by_text] == [NAMES[at] for at in np.argsort(-expected)]
        best = search.query(image=album / "2020/c.png", k=1).hits[0]
        assert best.document.id == "2020/c.png"
        assert best.image == album / "2020/c.png"
    again = fed(database, index, vectors_of=encoder_folder, data_set="pictures")
    assert counts(again) == (0, 0, 4, 0)
    # The folder itself, with one image more and one of another content.
    shutil.copy(album / "d.png", album / "e.png")
    Image.new("RGB", (48, 40), (200, 30, 30)).save(album / "d.png")
    later = fed(album, index, data_set="pictures")
    assert (later.fed, later.unchanged + later.updated, later.rejected) == (1, 4, 0)
    assert later.images_per_second == 0 or later.reused == 1
    with Search.open(index) as search:
        red = search.encoder.encode_images([album / "d.png"])[0]
        by_id = {each.id: each.embedding for each in search.engine.visit(embeddings=True)}
    np.testing.assert_allclose(by_id["d.png"], red, atol=1e-6)
    np.testing.assert_allclose(by_id["e.png"], vectors[3], atol=1e-6)


def test_float16_vectors_of_clip_retrieval_are_of_the_encoder_they_were_made_with(
    tmp_path: Path, album: Path, vectors: np.ndarray, encoder_folder: Path
) -> None:
    root = clip_retrieval_folder(
        tmp_path / "out", [album / name for name in NAMES], vectors, captions=["one"] * 4
    )
    index = tmp_path / "p.index"
    report = fed(root, index, vectors_of=encoder_folder, images=album)
    assert counts(report) == (4, 0, 0, 0)
    with Search.open(index) as search:
        hit = search.query(image=album / "d.png", k=1).hits[0]
    assert hit.document.id == "d.png" and hit.cosine == pytest.approx(1, abs=1e-3)


def test_a_folder_of_images_that_a_feed_was_told_once_is_remembered_with_the_index(
    tmp_path: Path, album: Path, encoder_folder: Path
) -> None:
    manifest = tmp_path / "photos.csv"
    manifest.write_text("image,caption\na.png,a dog\nb.png,a cat\n")
    index = tmp_path / "p.index"
    assert counts(fed(manifest, index, encoder=encoder_folder, images=album / "2019")) == (
        2,
        0,
        0,
        0,
    )
    assert counts(fed(manifest, index)) == (0, 0, 2, 0)
    manifest.write_text("image,caption\na.png,a red dog\nb.png,a cat\n")
    assert counts(fed(manifest, index)) == (0, 1, 1, 0)
    # Another one that is told takes its place; one that is gone is none.
    (album / "2019").rename(album / "moved")
    with pytest.raises(ManifestError, match="name the folder of the images with --images FOLDER"):
        fed(manifest, index)
    assert fed(manifest, index, images=album / "moved").rejected == 0
    assert counts(fed(manifest, index)) == (0, 0, 2, 0)


def test_vectors_that_the_encoder_did_not_make_are_refused(
    tmp_path: Path, album: Path, vectors: np.ndarray, encoder_folder: Path
) -> None:
    files = [album / name for name in NAMES]
    other = np.random.default_rng(3).normal(size=vectors.shape).astype(np.float32)
    database = rclip_database(tmp_path / "db.sqlite3", files, other)
    index = tmp_path / "p.index"
    with pytest.raises(EncoderMismatchError, match=r"first 4 images have a cosine of -?0"):
        fed(database, index, vectors_of=encoder_folder)
    assert not index.exists()
    short = rclip_database(tmp_path / "short.sqlite3", files, vectors[:, :8])
    with pytest.raises(EncoderMismatchError, match="of 32 values, but the manifest's have 8"):
        fed(short, index, vectors_of=encoder_folder)
    with pytest.raises(UsageError, match="give one of them"):
        fed(database, index, vectors_of=encoder_folder, encoder=encoder_folder)
    with pytest.raises(UsageError, match=r"no ready-made vectors.*leave --vectors-of out"):
        fed(album, index, vectors_of=encoder_folder)


def test_an_index_goes_through_parquet_and_pandas_and_back_with_its_encoder(
    tmp_path: Path, album: Path, encoder_folder: Path
) -> None:
    import pandas as pd

    (album / "d.txt").write_text("a red dog\n")
    first, second = tmp_path / "first.index", tmp_path / "second.index"
    fed(album, first, encoder=encoder_folder)
    table = tmp_path / "photos.parquet"
    assert write_parquet(str(first), table) == 4
    frame = pd.read_parquet(table)
    assert sorted(frame["id"]) == list(NAMES)
    assert frame.set_index("id").loc["d.png", "captions"].tolist() == ["a red dog"]
    report = fed(table, second, vectors_of=encoder_folder, images=album)
    assert counts(report) == (4, 0, 0, 0) and not report.problems
    with Search.open(first) as one, Search.open(second) as two:
        for mode in ("vector", "bm25", "hybrid"):
            asked = [search.query("a red dog", mode=mode).hits for search in (one, two)]
            assert [(hit.document.id, hit.score) for hit in asked[0]] == [
                (hit.document.id, pytest.approx(hit.score, abs=1e-5)) for hit in asked[1]
            ]
