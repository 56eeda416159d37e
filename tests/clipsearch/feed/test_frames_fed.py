"""DataFrames fed, measured and searched: the same as the files that they were read from."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipsearch import Search
from clipsearch.documents import Document
from clipsearch.engine import Hit, Page
from clipsearch.engines import open_engine
from clipsearch.evaluation.evaluate import EvaluateOptions, evaluate
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions
from clipsearch.feed.report import FeedReport
from finetune.errors import UsageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A frame of pictures in the current folder, and photos.csv of the same."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 40)).save(f"{number}.png")
        kind = ("dog", "cat")[number % 2]
        rows.append((f"{number}.png", f"a {kind} {number}", kind, 2010 + number, "test"))
    frame = pd.DataFrame(rows, columns=["image", "caption", "class", "year", "split"])
    frame.to_csv("photos.csv", index=False)
    return frame


def fed(encoder: Path, manifest: object, index: str = "frames.index", **options) -> FeedReport:
    values = {"manifest": manifest, "index": index, "encoder": encoder, "workers": 0, **options}
    return feed(FeedOptions(**values), progress_stream=io.StringIO())


def counts(report: FeedReport) -> tuple[int, ...]:
    return report.fed, report.updated, report.unchanged, report.removed, report.rejected


def held(index: str) -> dict[str, tuple[Document, bytes]]:
    engine = open_engine(index)
    try:
        return {
            each.id: (each.captions, each.tags, each.numbers, each.path, each.embedding.tobytes())
            for each in engine.visit(embeddings=True)
        }
    finally:
        engine.close()


def test_a_frame_is_fed_as_its_file(encoder_folder: Path, photos: pd.DataFrame) -> None:
    assert counts(fed(encoder_folder, photos, data_set="photos")) == (6, 0, 0, 0, 0)
    assert counts(fed(encoder_folder, Path("photos.csv"), "files.index")) == (6, 0, 0, 0, 0)
    assert held("frames.index") == held("files.index")


def test_a_frame_is_known_again_by_its_name(encoder_folder: Path, photos: pd.DataFrame) -> None:
    fed(encoder_folder, photos, data_set="photos")
    assert counts(fed(encoder_folder, photos, data_set="photos")) == (0, 0, 6, 0, 0)
    photos.loc[0, "caption"] = "another dog"
    changed = fed(encoder_folder, photos.head(4), data_set="photos", prune=True)
    assert counts(changed) == (0, 1, 3, 2, 0)
    other = fed(encoder_folder, photos.tail(2), data_set="other", prune=True)
    assert counts(other) == (2, 0, 0, 0, 0)
    assert len(held("frames.index")) == 6


def test_a_frame_without_a_name_is_not_fed(encoder_folder: Path, photos: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match='data_set="photos"'):
        fed(encoder_folder, photos)
    assert not Path("frames.index").exists()


def test_no_file_is_taken_for_the_frame(encoder_folder: Path, photos: pd.DataFrame) -> None:
    fed(encoder_folder, photos, data_set="photos")
    assert counts(fed(encoder_folder, Path("photos.csv")))[3:] == (0, 6)
    taken = fed(encoder_folder, Path("photos.csv"), data_set="photos")
    assert counts(taken) == (0, 0, 6, 0, 0)


def test_a_file_keeps_its_place_when_a_frame_is_fed(
    encoder_folder: Path, photos: pd.DataFrame
) -> None:
    fed(encoder_folder, Path("photos.csv"))
    assert counts(fed(encoder_folder, photos, data_set="photos")) == (0, 0, 6, 0, 0)
    assert counts(fed(encoder_folder, Path("photos.csv"))) == (0, 0, 6, 0, 0)


def test_a_frame_is_measured_as_its_file(encoder_folder: Path, photos: pd.DataFrame) -> None:
    found, expected = (
        evaluate(EvaluateOptions(encoder=encoder_folder, manifest=manifest, workers=0))
        for manifest in (photos, Path("photos.csv"))
    )
    assert [each.as_dict() for each in found.measurements] == [
        each.as_dict() for each in expected.measurements
    ]
    assert str(found.as_dict()["manifest"]).startswith("DataFrame-")


COLUMNS = ["rank", "id", "score", "bm25", "cosine", "image", "path", "captions"]


def test_hits_in_a_frame(encoder_folder: Path, photos: pd.DataFrame) -> None:
    photos["rank"] = "private"
    fed(encoder_folder, photos, data_set="photos")
    with Search.open("frames.index") as search:
        page = search.query("dog", mode="bm25", k=2, page=2)
        by_vector = search.query("dog", mode="vector", k=6).to_pandas()
    frame = page.to_pandas()
    columns = list(frame.columns)
    assert columns[:8] == COLUMNS
    assert sorted(columns[8:]) == ["class", "metadata_rank", "split", "year"]
    assert frame["rank"].tolist() == [3]
    assert frame["id"].tolist() == [hit.document.id for hit in page.hits]
    assert frame["score"].tolist() == [hit.score for hit in page.hits]
    assert frame["cosine"].isna().all()
    assert frame["image"].tolist() == [str(hit.image) for hit in page.hits]
    assert Path(frame["image"][0]).is_absolute() and Path(frame["image"][0]).is_file()
    assert frame["captions"].tolist() == [list(hit.document.captions) for hit in page.hits]
    assert set(frame["class"]) == {"dog"}
    assert set(frame["metadata_rank"]) == {"private"}
    assert by_vector["bm25"].isna().all()
    assert sorted(by_vector["year"]) == [2010, 2011, 2012, 2013, 2014, 2015]


def test_documents_with_other_columns_and_no_hits() -> None:
    hits = (
        Hit(Document("a", tags={"class": "dog"}), 2.0, 1.0, 0.5),
        Hit(Document("b", numbers={"year": 2001.0}), 1.0, 1.0, 0.5),
    )
    frame = Page(hits, 2).to_pandas()
    assert frame["class"].tolist() == ["dog", None]
    assert frame["year"].dtype == "float64"
    assert frame["year"].isna().tolist() == [True, False]
    empty = Page((), 0).to_pandas()
    assert list(empty.columns) == COLUMNS
    assert len(empty) == 0


def test_only_a_frame_needs_pandas(encoder_folder: Path, photos: pd.DataFrame) -> None:
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'pandas': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "from pathlib import Path\n"
        "from clipsearch import Search\n"
        "from clipsearch.feed.feed import feed\n"
        "from clipsearch.feed.options import FeedOptions\n"
        "files = dict(manifest=Path('photos.csv'), index='photos.index')\n"
        "print(feed(FeedOptions(encoder=Path(sys.argv[1]), workers=0, **files)).fed)\n"
        "page = Search.open('photos.index').query('dog', mode='hybrid')\n"
        "print(len(page.hits))\n"
        "try: page.to_pandas()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(encoder_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "6",
        "6",
        "UsageError a DataFrame needs pandas; install it with: pip install '.[pandas]' in a"
        " checkout of clipsearch",
    ]
