"""Numbers from the manifest to the answer: none becomes another one."""

import json
import subprocess
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def manifest(path: Path, columns: str, *rows: str) -> Path:
    lines = (f'{row},"[{1 - place % 2},{place % 2}]"' for place, row in enumerate(rows))
    path.write_text("\n".join((f"id,caption,{columns},embedding", *lines, "")))
    return path


def answer(*arguments: object) -> dict[str, object]:
    done = clipsearch(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "n.index"


def test_integers_that_no_double_has_are_kept_apart(tmp_path: Path, index: Path) -> None:
    path = manifest(
        tmp_path / "m.csv",
        "photo_id,code",
        "a,one tile,9007199254740992,12E4",
        "b,two tiles,9007199254740993,120000",
        "c,three tiles,1234567890123456789,120E3",
    )
    assert clipsearch("feed", path, "--index", index).returncode == 0
    for value, id in (
        ("photo_id=9007199254740993", "b"),
        ("photo_id=1234567890123456789", "c"),
        ("code=12E4", "a"),
        ("code=120000", "b"),
    ):
        found = answer("query", "tile", "--mode", "bm25", "--filter", value, "--index", index)
        assert [hit["id"] for hit in found["hits"]] == [id], value  # type: ignore[attr-defined]
    nothing = "photo_id=1234567890123456800"
    assert answer("query", "tile", "--filter", nothing, "--index", index)["total"] == 0


def test_numbers_are_shown_in_full(tmp_path: Path, index: Path) -> None:
    path = manifest(
        tmp_path / "get.csv",
        "ean,population,price",
        "a,x,4006381333931,1234567,19.99",
        "b,y,4006381333932,7654321,0.1",
    )
    assert clipsearch("feed", path, "--index", index).returncode == 0
    shown = clipsearch("get", "a", "b", "--index", index).stdout
    for line in ("ean: 4006381333931", "population: 1234567", "price: 19.99", "price: 0.1"):
        assert f"  {line}\n" in shown + "\n"
    raw = clipsearch("get", "a", "--index", index, "--json").stdout
    assert '"ean": 4006381333931,' in raw
    raw = clipsearch("query", "x", "--mode", "bm25", "--index", index, "--json").stdout
    assert '"population": 1234567' in raw
    bound = clipsearch(
        "query", "x", "--filter", "ean=4006381333932..4006381333931", "--index", index
    )
    assert "4006381333932 is above 4006381333931" in bound.stderr


def test_a_filter_that_no_number_can_equal_is_refused(tmp_path: Path, index: Path) -> None:
    path = manifest(tmp_path / "m.csv", "size", "a,x,9007199254740992")
    assert clipsearch("feed", path, "--index", index).returncode == 0
    done = clipsearch("query", "x", "--filter", "size=9007199254740993", "--index", index)
    assert done.returncode == 2
    assert "no double has that value" in done.stderr


def test_a_later_zip_is_rejected_and_both_mends_work(tmp_path: Path, index: Path) -> None:
    first = manifest(tmp_path / "z1.csv", "zip", "a,x,10115")
    later = manifest(tmp_path / "z2.csv", "zip", "b,x,02134", "c,x,2135")
    assert clipsearch("feed", first, "--index", index).returncode == 0
    done = clipsearch("feed", later, "--index", index)
    assert done.returncode == 3, done.stderr
    report = (index / "feed-report.csv").read_text()
    assert "'02134'" in report
    assert "as a number it would be 2134" in report
    shown = clipsearch("get", "b", "--index", index)
    assert shown.returncode == 1
    assert "zip: 2135" in clipsearch("get", "c", "--index", index).stdout
    # The first mend: the number is meant.
    assert clipsearch("feed", later, "--index", index, "--number", "zip").returncode == 0
    assert "zip: 2134" in clipsearch("get", "b", "--index", index).stdout
    # The second: a new index keeps the text.
    new = tmp_path / "new.index"
    for path in (first, later):
        assert clipsearch("feed", path, "--index", new, "--tag", "zip").returncode == 0
    assert "zip: 02134" in clipsearch("get", "b", "--index", new).stdout


def test_a_later_integer_that_no_double_has_is_rejected_always(tmp_path: Path, index: Path) -> None:
    first = manifest(tmp_path / "1.csv", "size", "a,x,1")
    later = manifest(tmp_path / "2.csv", "size", "b,x,9007199254740993")
    assert clipsearch("feed", first, "--index", index).returncode == 0
    for more in ((), ("--number", "size")):
        assert clipsearch("feed", later, "--index", index, *more).returncode == 3
        assert "no double has that value" in (index / "feed-report.csv").read_text()


def test_whole_floats_are_whole_in_ids_and_tags(tmp_path: Path, index: Path) -> None:
    path = manifest(tmp_path / "ids.csv", "year", "101.0,x,2010.0", "102.0,y,")
    done = clipsearch("feed", path, "--index", index, "--tag", "year")
    assert done.returncode == 0, done.stderr
    assert "  year: 2010\n" in clipsearch("get", "101", "--index", index).stdout
