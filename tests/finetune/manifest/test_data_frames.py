"""DataFrames as manifests and out of them, against the files that pandas writes of the same."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from squares import write_squares
from steps_alone import leave_out_what_follows

from finetune.config.resuming import differences
from finetune.config.settings import TrainConfig
from finetune.errors import ManifestError, UsageError
from finetune.frames import FrameManifest, as_manifest
from finetune.manifest.manifest import Manifest, Record
from finetune.training.checks import check_config
from finetune.training.train import train

NAMES = ("a.png", "b.png", "images/c.png", "d.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with pictures in it."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(manifest: object, **options: object) -> list[Record]:
    with Manifest.open(manifest, **options) as opened:  # type: ignore[arg-type]
        return list(opened.records())


def a_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png", "a.png"],
            "caption": ["a red kite", "a dog", None, "the kite"],
            "id": ["A", "B", "C", "A"],
            "split": ["train", "val", "test", "train"],
            "class": pd.Categorical(["kite", "dog", "cat", "kite"]),
            "year": [2001, np.nan, 2003, 2001],
            "score": pd.array([0.5, None, 1.25, 0.5], dtype="Float64"),
            "good": [True, False, True, True],
            "when": pd.to_datetime(
                ["2020-01-01", None, "2021-02-03 04:05", "2020-01-01"], format="mixed"
            ),
            "tags": [["x", "y"], None, np.array(["z"]), ["x", "y"]],
        }
    )


def test_a_frame_is_read_as_the_parquet_file_of_it(folder: Path) -> None:
    frame = a_frame()
    frame.to_parquet("photos.parquet")
    with Manifest.open(frame) as found, Manifest.open("photos.parquet") as expected:
        assert list(found.records()) == list(expected.records())
        assert (len(found), found.columns()) == (3, expected.columns())
        assert found.problems.counts == expected.problems.counts == {"empty caption": 1}
        assert (found.root, found.format) == (folder, "dataframe")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12),
            st.one_of(st.none(), st.integers(0, 10**17), st.floats(allow_nan=False)),
            st.sampled_from(["", "train", "val", "nonsense"]),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_texts_and_numbers_are_as_in_parquet(tmp_path_factory, rows) -> None:
    folder = tmp_path_factory.mktemp("frames")
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    frame = pd.DataFrame(rows, columns=["image", "caption", "number", "split"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        frame.to_parquet("photos.parquet")
        assert read(frame) == read("photos.parquet")


def test_named_levels_of_the_index_are_columns(folder: Path) -> None:
    frame = a_frame()
    assert read(frame.set_index("image")) == read(frame)
    assert read(frame.set_index(["image", "id"])) == read(frame)
    assert read(frame.set_axis(list("wxyz"))) == read(frame)
    with pytest.raises(ManifestError, match="two columns 'image'; rename one"):
        Manifest.open(frame.set_index(frame["image"]))


def test_vectors_of_arrays_and_lists(folder: Path) -> None:
    vectors = [np.array([1, 0], np.float32), [0.0, 1.0], None]
    frame = pd.DataFrame({"id": ["a", "b", "c"], "embedding": vectors})
    with Manifest.open(frame) as manifest:
        found = {record.id: record.embedding for record in manifest.records()}
        assert manifest.problems.counts == {"no image": 1}
    assert {name: vector.tolist() for name, vector in found.items()} == {"a": [1, 0], "b": [0, 1]}


def test_unusual_values(folder: Path) -> None:
    frame = pd.DataFrame(
        {
            "image": [Path("a.png"), "b.png"],
            "caption": ["a kite", "a dog"],
            7: [Decimal("1.50"), pd.NA],
            "day": [date(2020, 1, 2), pd.NaT],
            "raw": [b"bytes", b"more"],
            "mixed": [1, "one"],
        }
    )
    with Manifest.open(frame) as manifest:
        first, second = manifest.records()
        assert manifest.problems.notes == {"column not read": 1}
    assert first.metadata == {"7": "1.50", "day": "2020-01-02", "mixed": 1}
    assert (second.id, second.metadata) == ("b.png", {"mixed": "one"})


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"caption": ["a kite"]}, 'no column "image"'),
        ({"image": [Image.new("RGB", (2, 2))], "caption": ["a"]}, "holds pictures, not paths"),
        ({"image": [{"bytes": b""}], "caption": ["a"]}, "holds pictures, not paths"),
        ({"image": [], "caption": []}, "it has no rows"),
        ({"image": ["missing.png"], "caption": ["a"]}, "none of its rows can be used: .*missing"),
    ],
)
def test_what_is_no_manifest(folder: Path, columns: dict, reason: str) -> None:
    with pytest.raises(ManifestError, match=rf"^DataFrame-[0-9a-f]{{16}}: .*{reason}"):
        Manifest.open(pd.DataFrame(columns))


def test_strict_names_no_command_for_a_frame(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"`Manifest.open\(frame\).problems` names them all"):
        Manifest.open(a_frame(), strict=True)


def test_what_is_neither_path_nor_frame() -> None:
    with pytest.raises(UsageError, match="a path or a pandas DataFrame, not of the type Series"):
        as_manifest(pd.Series(["a.png"]))  # type: ignore[arg-type]


def test_to_pandas_and_back(folder: Path) -> None:
    with Manifest.open(a_frame()) as manifest:
        frame = manifest.to_pandas()
        expected = list(manifest.records())
        assert list(manifest.to_pandas("val")["id"]) == ["B"]
    assert list(frame.columns)[:4] == ["id", "image", "captions", "split"]
    assert frame["captions"].tolist() == [["a red kite", "the kite"], ["a dog"], []]
    assert frame["image"].tolist() == ["a.png", "b.png", "images/c.png"]
    assert frame["year"].dtype == "float64"
    assert frame["year"].tolist()[::2] == [2001, 2003]
    assert frame["class"].tolist() == ["kite", "dog", "cat"]
    assert read(frame, images=folder) == expected


def test_a_csv_file_to_pandas_and_back(folder: Path) -> None:
    Path("photos.csv").write_text(
        "file_name,text,id,number,code\na.png,a kite,1,0.10,012\nb.png,a dog,2,7,9\n"
    )
    with Manifest.open("photos.csv") as manifest, Manifest.open(manifest.to_pandas()) as again:
        frame = manifest.to_pandas()
        assert again.columns() == manifest.columns() == {"number": "number", "code": "tag"}
        assert [each.captions for each in again.records()] == [("a kite",), ("a dog",)]
    assert frame["number"].tolist() == [0.1, 7.0]
    assert frame["code"].tolist() == ["012", "9"]


def test_metadata_of_taken_names_is_kept(folder: Path) -> None:
    Path("photos.jsonl").write_text(
        json.dumps({"image": "a.png", "caption": "a", "Id": "1", "ID": "2", "metadata_id": "3"})
    )
    with Manifest.open("photos.jsonl") as manifest:
        frame = manifest.to_pandas()
        (record,) = manifest.records()
    assert frame["id"].tolist() == [record.id]
    assert {*map(str, record.metadata.values())} <= {*map(str, frame.iloc[0])}


def test_pandas_is_named_where_it_is_missing(folder: Path) -> None:
    code = (
        "import sys; sys.modules['pandas'] = None\n"
        "from finetune.manifest import Manifest\n"
        "try: Manifest.open('.').to_pandas()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "UsageError a DataFrame needs pandas; install it with: pip install '.[pandas]' in a"
        " checkout of clipsearch"
    )


def test_a_name_that_follows_from_the_content() -> None:
    frame = a_frame()
    name = str(FrameManifest(frame))
    assert str(FrameManifest(a_frame())) == name
    assert FrameManifest(a_frame()) == FrameManifest(frame)
    long = pd.DataFrame({"embedding": [np.arange(5000.0)]})
    other = pd.DataFrame({"embedding": [np.where(np.arange(5000) == 2500, 1.0, np.arange(5000.0))]})
    changed = [
        frame.iloc[::-1], frame.rename(columns={"class": "kind"}), frame.drop(columns="year"),
        frame.assign(caption="other"), frame.head(2),
    ]  # fmt: skip
    names = {str(FrameManifest(each)) for each in (*changed, long, other)}
    assert len(names) == 7
    assert name not in names


def test_later_changes_of_a_frame_change_nothing(folder: Path) -> None:
    frame = a_frame()
    config = TrainConfig(manifest=frame, model="tiny")
    expected = read(a_frame())
    frame["caption"] = "changed"
    frame.loc[0, "image"] = "b.png"
    assert read(config.manifests[0]) == expected


def test_a_run_with_an_equal_frame_is_the_same_run(folder: Path) -> None:
    config = TrainConfig(manifest=a_frame(), model="tiny", more_manifests=(a_frame().head(2),))
    asked = config.with_absolute_paths()
    stored = json.loads(json.dumps(asked.as_dict()))
    assert stored["manifest"] == str(FrameManifest(a_frame()))
    assert differences(replace(config, more_manifests=[a_frame().head(2)]).as_dict(), stored) == [
        difference
        for difference in differences(config.as_dict(), stored)
        if "manifest" not in difference
    ]
    (other,) = differences(replace(asked, manifest=a_frame().head(3)).as_dict(), stored)
    assert other.startswith("the manifest DataFrame-")
    check_config(config)


def test_training_from_a_frame_is_training_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_what_follows(monkeypatch)
    manifest = write_squares(tmp_path / "squares", train=12, val=4)
    monkeypatch.chdir(manifest.parent)
    config = TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path / "out", batch_size=6, epochs=1
    )
    expected = train(config, quiet=True)
    found = train(replace(config, manifest=pd.read_csv(manifest)), quiet=True)
    assert found.history == expected.history
