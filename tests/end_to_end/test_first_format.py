"""What the first release's code wrote (tests/fixtures/first-format) opens, or is converted."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH, without_settings
from PIL import Image

from clipsearch import cli
from clipsearch.encoder.encoder import Encoder
from clipsearch.search.search import Search
from finetune.encoder_folder import check_fingerprint, read_description

KEPT = Path(__file__).resolve().parent.parent / "fixtures" / "first-format"
DOCUMENTS = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of what was kept, to be changed."""
    return shutil.copytree(KEPT, tmp_path / "photos")


def clipsearch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, *arguments],
        cwd=folder,
        env=without_settings(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def kept_answers() -> list[dict[str, Any]]:
    return json.loads((KEPT / "answers.json").read_text(encoding="utf-8"))


def assert_the_same_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--index", str(folder / "index"), "--encoder", str(folder / "encoder")]
    for kept in kept_answers():
        assert cli._run(["query", *kept["arguments"], *places, "--json"], debug=False) == 0
        hits = json.loads(capsys.readouterr().out)["hits"]
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in kept["hits"]]
        for hit, was in zip(hits, kept["hits"], strict=True):
            for part in ("score", "bm25", "cosine"):
                assert hit[part] == pytest.approx(was[part], abs=1e-4)


def test_the_encoder_folder_is_whole_and_encodes() -> None:
    description = read_description(KEPT / "encoder")
    check_fingerprint(KEPT / "encoder", description)
    encoder = Encoder.load(KEPT / "encoder")
    texts = encoder.encode_texts(["a red dog", "a blue car"])
    with Image.open(KEPT / "images" / "00.png") as image:
        images = encoder.encode_images([image])
    assert texts.shape == (2, description.dimension) and images.shape == (1, description.dimension)
    assert np.linalg.norm(np.concatenate([texts, images]), axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_index_answers_as_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = clipsearch(folder, "status", "--index", "index", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == DOCUMENTS
    assert_the_same_answers(folder, capsys)


def test_a_feed_encodes_nothing_anew_and_then_knows_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feed = ("feed", "photos.csv", "--encoder", "encoder", "--index", "index")
    done = clipsearch(folder, *feed)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\bfed 0\b", done.stdout), done.stdout
    done = clipsearch(folder, *feed)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"\bunchanged {DOCUMENTS}\b", done.stdout), done.stdout
    with Search.open(folder / "index") as search:
        assert search.count() == DOCUMENTS
    assert_the_same_answers(folder, capsys)
