"""Manifests: merging rows, where images lie, ids and splits."""

from pathlib import Path

import pytest
from small_manifests import captions, pictures, problems, read, write_csv

from finetune.errors import UsageError
from finetune.manifest.manifest import Manifest

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


def test_columns_are_numbers_only_where_nothing_is_lost(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    numbers = {
        "plain": ("1", "2.5"),
        "signed": ("-1e+3", "-.5"),
        "zero": ("0", "0.5"),
        "price": ("19.90", "0.1"),
        "small": ("1e-05", "1"),
        "large": ("9007199254740992", "1"),
    }
    tags = {
        "postcode": ("007", "1"),
        "code": ("12E4", "1"),
        "too large": ("9007199254740993", "1"),
        "phone": ("+49301234567", "1"),
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
    from finetune.manifest.splits import HashedSplit

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
