"""What an error recommends is done here, and works."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def done(*arguments: object) -> str:
    ran = clipsearch(*arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def refused(*arguments: object) -> str:
    ran = clipsearch(*arguments)
    assert ran.returncode in (1, 2), ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"id": "a", "caption": "x", "year": 2010, "taken": "2010-05-01", "embedding": [1.0, 0.0]},
        {"id": "b", "caption": "x", "year": 2015, "taken": "2015-05-01", "embedding": [0.0, 1.0]},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def found(index: Path, *arguments: object) -> list[str]:
    answer = json.loads(
        done("query", "x", "--mode", "bm25", "--index", index, "--json", *arguments)
    )
    return sorted(hit["id"] for hit in answer["hits"])


def test_a_range_of_a_column_that_is_kept_as_text(tmp_path: Path, manifest: Path) -> None:
    index, new = tmp_path / "i.index", tmp_path / "new.index"
    done("feed", manifest, "--index", index, "--tag", "year")
    said = refused("query", "x", "--filter", "year>=2012", "--index", index)
    assert "kept as text: use = or !=" in said
    assert "feed a new index with --number year" in said
    assert found(index, "--filter", "year=2010") == ["a"]
    assert found(index, "--filter", "year!=2010") == ["b"]
    # In the same index it is refused, which says where it works.
    again = refused("feed", manifest, "--index", index, "--number", "year")
    assert "so feed a new index" in again
    done("feed", manifest, "--index", new, "--number", "year")
    assert found(new, "--filter", "year>=2012") == ["b"]


def test_a_range_of_dates(tmp_path: Path, manifest: Path) -> None:
    index, new = tmp_path / "i.index", tmp_path / "new.index"
    done("feed", manifest, "--index", index, "--tag", "taken")
    said = refused("query", "x", "--filter", "taken>=2012-01-01", "--index", index)
    assert "feed a new index with --number taken or --date taken" in said
    done("feed", manifest, "--index", new, "--date", "taken")
    assert found(new, "--filter", "taken>=2012-01-01") == ["b"]


def test_a_facet_of_numbers(tmp_path: Path, manifest: Path) -> None:
    index, new = tmp_path / "i.index", tmp_path / "new.index"
    done("feed", manifest, "--index", index)
    said = refused("query", "x", "--facet", "year", "--index", index)
    assert "(year=low..high), or feed a new index with --tag year" in said
    assert found(index, "--filter", "year=2012..2016") == ["b"]
    done("feed", manifest, "--index", new, "--tag", "year")
    told = clipsearch("query", "x", "--facet", "year", "--index", new).stderr
    assert "year: 2010 1, 2015 1" in told


def test_an_index_of_ready_made_vectors(
    tmp_path: Path, manifest: Path, encoder_folder: Path
) -> None:
    index, new = tmp_path / "i.index", tmp_path / "new.index"
    done("feed", manifest, "--index", index)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    images = tmp_path / "pictures.csv"
    images.write_text("image,caption\np.png,x\n")
    said = refused("feed", images, "--index", index)
    assert "takes no others: give some, or feed a new index with --encoder" in said
    said = refused("feed", images, "--index", index, "--encoder", encoder_folder)
    assert "leave --encoder out and give such vectors, or feed a new index" in said
    done("feed", images, "--index", new, "--encoder", encoder_folder)
    said = refused("feed", images, "--index", tmp_path / "third.index")
    assert "name an encoder folder that is here already with --encoder" in said
    done("feed", images, "--index", tmp_path / "third.index", "--encoder", encoder_folder)
    said = refused("query", "--image", tmp_path / "p.png", "--index", index)
    assert "or search for words with --mode bm25" in said
    assert found(index) == ["a", "b"]


def test_the_report_of_a_strict_manifest(tmp_path: Path, manifest: Path) -> None:
    strange = manifest.rename(tmp_path / "my photos.jsonl")
    strange.write_text(strange.read_text() + "\n{}\n")
    said = refused("feed", strange, "--index", tmp_path / "i.index", "--strict")
    command = re.search(r"`clipsearch (.*) --report FILE`", said)
    assert command is not None
    report = tmp_path / "report.csv"
    ran = subprocess.run(
        f"{sys.executable} -m clipsearch {command[1]} --report {report}", shell=True, check=False
    )
    assert ran.returncode == 3
    assert report.is_file()


def test_one_captioned_picture_in_all_splits(tmp_path: Path, encoder_folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    images = tmp_path / "pictures.csv"
    images.write_text("image,caption\np.png,x\n")
    said = refused("evaluate", encoder_folder, images, "--split", "all")
    assert "--split" not in said.replace("the split all", "")
    assert "give more of them captions" in said
