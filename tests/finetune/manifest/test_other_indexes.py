"""Indexes of rclip and clip-retrieval as manifests with vectors."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from other_indexes import clip_retrieval_folder, rclip_database
from small_manifests import captions, kinds, pictures, problems, read

from finetune.errors import ManifestError

NAMES = ("2019/a.jpg", "2020/b.jpg", "2020/sub/c.jpg")


def unit_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rclip_has_each_image_by_its_path_from_the_folder_of_all(tmp_path: Path) -> None:
    album = tmp_path / "Pictures"
    pictures(album, *NAMES)
    vectors = unit_vectors(3)
    path = rclip_database(tmp_path / "db.sqlite3", [album / name for name in NAMES], vectors)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE images SET deleted = 1 WHERE id = 1")
    manifest, records = read(path)
    assert manifest.format == "rclip"
    assert [record.id for record in records] == ["b.jpg", "sub/c.jpg"]
    assert manifest.root == album / "2020"
    for record, vector in zip(records, vectors[1:], strict=True):
        assert record.embedding is not None
        np.testing.assert_array_equal(record.embedding, vector)
        assert record.image is not None and record.image.path == album / "2020" / record.id
    (note,) = [each.reason for each in problems(manifest)]
    assert note == "rclip made these vectors with ViT-B-32-256 of DataComp (datacomp_s34b_b86k)"


def test_an_image_that_rclip_has_not_seen_as_it_is_now_is_left_out(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    files = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg", "gone.jpg")]
    vectors = unit_vectors(4)
    path = rclip_database(tmp_path / "db.sqlite3", files, vectors)
    files[0].write_bytes(files[0].read_bytes() + b"more")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE images SET vector = x'0102' WHERE id = 2")
    manifest, records = read(path)
    assert [record.id for record in records] == ["c.jpg", "gone.jpg"]
    assert kinds(manifest) == {"bad embedding": 2}
    reasons = [each.reason for each in problems(manifest) if each.kind == "bad embedding"]
    assert "a.jpg has changed since rclip encoded it" in reasons[0]
    assert "b.jpg: the vector is no float32 values" in reasons[1]


def cut(path: Path) -> None:
    # Its schema is still there, its pages are not.
    path.write_bytes(path.read_bytes()[:4096])


def emptied(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE images SET deleted = 1")


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE cookies (id)")


@pytest.mark.parametrize(
    ("change", "message"),
    [(cut, "damaged or in use"), (emptied, "indexed no images"), (foreign, "not rclip's")],
)
def test_another_database_is_refused(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    pictures(tmp_path, "a.jpg")
    path = rclip_database(tmp_path / "db.sqlite3", [tmp_path / "a.jpg"], unit_vectors(1))
    change(path)
    with pytest.raises(ManifestError, match=message):
        read(path)


def test_clip_retrieval_has_vectors_captions_and_columns(tmp_path: Path) -> None:
    pictures(tmp_path / "Pictures", *NAMES)
    files = [tmp_path / "Pictures" / name for name in NAMES]
    vectors = unit_vectors(3)
    root = clip_retrieval_folder(
        tmp_path / "out", files, vectors, captions=["one", "two", "three"], per_part=2
    )
    manifest, records = read(root, images=tmp_path / "Pictures")
    assert manifest.format == "clip-retrieval"
    assert captions(records) == dict(zip(NAMES, [("one",), ("two",), ("three",)], strict=True))
    assert [dict(record.metadata) for record in records] == [{"width": 8}] * 3
    for record, vector in zip(records, vectors, strict=True):
        assert record.embedding is not None
        # float16, as clip-retrieval writes it
        np.testing.assert_array_equal(record.embedding, vector.astype(np.float16))
    assert not kinds(manifest)


def test_of_two_vectors_of_one_image_the_first_is_taken(tmp_path: Path) -> None:
    vectors = unit_vectors(2)
    root = clip_retrieval_folder(tmp_path / "out", ["000000001"] * 2, vectors, captions=["x", "y"])
    _, (record,) = read(root)
    assert record.captions == ("x", "y")
    np.testing.assert_array_equal(record.embedding, vectors[0].astype(np.float16))


def fewer_vectors(root: Path) -> None:
    np.save(root / "img_emb/img_emb_0.npy", unit_vectors(1))


def more_vectors(root: Path) -> None:
    np.save(root / "img_emb/img_emb_0.npy", unit_vectors(3))


def whole_numbers(root: Path) -> None:
    np.save(root / "img_emb/img_emb_0.npy", np.ones((2, 4), np.int8))


def no_vectors(root: Path) -> None:
    (root / "img_emb/img_emb_1.npy").write_bytes((root / "img_emb/img_emb_0.npy").read_bytes())


def no_images(root: Path) -> None:
    (root / "img_emb").rename(root / "text_emb")
    (root / "text_emb/img_emb_0.npy").rename(root / "text_emb/text_emb_0.npy")


def cut_table(root: Path) -> None:
    path = root / "metadata/metadata_0.parquet"
    path.write_bytes(path.read_bytes()[:-10])


def no_paths(root: Path) -> None:
    pq.write_table(pa.table({"caption": ["x", "y"]}), root / "metadata/metadata_0.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_vectors, "holds 1 vectors for the rows of metadata_0.parquet, which are more"),
        (more_vectors, "holds 3 vectors for the rows of metadata_0.parquet, which are 2"),
        (whole_numbers, r"holds int8\[2, 4\]; needed are floats of shape"),
        (no_vectors, r"img_emb_1.npy: its part in metadata/ is missing"),
        (no_images, "vectors of texts alone"),
        (cut_table, "damaged or cut off, no valid Parquet"),
        (no_paths, "--image-column image_path: there is no such column"),
    ],
)
def test_a_broken_part_of_clip_retrieval_is_named(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    root = clip_retrieval_folder(tmp_path / "out", ["a.jpg", "b.jpg"], unit_vectors(2))
    change(root)
    with pytest.raises(ManifestError, match=message):
        read(root)


def test_a_vector_that_is_not_finite_is_a_problem_of_its_row(tmp_path: Path) -> None:
    vectors = unit_vectors(2)
    vectors[0, 0] = np.nan
    manifest, records = read(clip_retrieval_folder(tmp_path / "out", ["a.jpg", "b.jpg"], vectors))
    assert [record.id for record in records] == ["b.jpg"]
    assert kinds(manifest) == {"bad embedding": 1}
