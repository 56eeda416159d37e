"""`clipsearch manifest check` through the real entry point, and bounded memory."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[3]


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, "manifest", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images: two sizes, a copy, a file that is no picture, one cut off, one not there."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg")
    Image.fromarray(noise[:20]).save(folder / "b.jpg")
    shutil.copy(folder / "a.jpg", folder / "copy.jpg")
    (folder / "text.jpg").write_text("no picture")
    data = (folder / "a.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    path = tmp_path / "photos.csv"
    path.write_bytes(
        b"image,caption,split\na.jpg,first,train\na.jpg,second,train\nb.jpg,,train\n"
        b"copy.jpg,third,test\ntext.jpg,fourth,train\ncut.jpg,fifth,val\ngone.jpg,sixth,train\n"
        b"a.jpg,caf\xe9,train\n"
    )
    return path


def test_json_counts_everything(photos: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    done = check(photos, "--images", tmp_path / "pictures", "--json", "--report", report)
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    assert answer["format"] == "csv"
    assert (answer["rows"], answer["images"], answer["captions"]) == (7, 5, 5)
    assert answer["images_with_captions"] == {"0": 1, "1": 3, "2": 1}
    assert answer["splits"] == {"train": 3, "val": 1, "test": 1}
    assert answer["width"] == {"minimum": 30, "median": 30, "maximum": 30}
    assert answer["height"] == {"minimum": 20, "median": 40, "maximum": 40}
    assert answer["unreadable"] == 1
    assert (answer["same_content"], answer["same_content_in_two_splits"]) == (1, 1)
    problems = {"empty caption": 1, "not utf-8": 1, "missing file": 1, "unreadable image": 1}
    assert answer["problems"] == problems
    assert answer["notes"] == {"same content in two splits": 1}
    with report.open(newline="", encoding="utf-8") as file:
        rows = [(row["kind"], row["where"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [
        ("empty caption", "photos.csv:4"),
        ("missing file", "photos.csv:8"),
        ("not utf-8", "photos.csv:9"),
        ("same content in two splits", "copy.jpg"),
        ("unreadable image", "text.jpg"),
    ]
    assert {each["kind"] for each in answer["examples"]} == {*problems, *answer["notes"]}


def test_table_strict_and_decode(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    done = check(photos, "--images", images)
    assert done.returncode == 3
    assert "3 with 1" in done.stdout and "photos.csv:8" in done.stdout
    assert "4 problems" in done.stdout
    decoded = check(photos, "--images", images, "--decode", "--json")
    assert json.loads(decoded.stdout)["unreadable"] == 2
    strict = check(photos, "--images", images, "--strict")
    assert strict.returncode == 1
    assert strict.stderr.splitlines()[-1].startswith("Error: ") and "(strict)" in strict.stderr
    unwritable = check(photos, "--images", images, "--report", tmp_path / "no/report.csv")
    assert unwritable.returncode == 1 and "cannot be written" in unwritable.stderr


def test_no_problem_is_no_error(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    for name in ("text.jpg", "cut.jpg"):
        (images / name).unlink()
    done = check(images, "--strict", "--decode")
    assert done.returncode == 0, done.stderr
    assert "no problems" in done.stdout


def test_a_picture_that_was_stretched_is_a_note(tmp_path: Path) -> None:
    for number, most in enumerate((4095, 65_535)):
        values = np.linspace(0, most, 40 * 30).reshape(40, 30).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    done = check(tmp_path, "--strict", "--json", "--report", tmp_path / "report.csv")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["notes"] == {"own range": 1}
    assert "0.png,its samples use only 0 to 4,095" in (tmp_path / "report.csv").read_text().replace(
        '"', ""
    )


def test_wrong_use(tmp_path: Path) -> None:
    missing = check(tmp_path / "none.csv")
    assert missing.returncode == 1
    assert missing.stderr == f"Error: {tmp_path}/none.csv: there is no such file or folder\n"
    assert check().returncode == 2


FULL_DISK = """
import resource, sys
from finetune.manifest.merging import merge as merging
from finetune.manifest.merging.stored_record import CACHE_KIBIBYTES
from finetune.errors import ManifestError
from finetune.manifest import Manifest

merging.SCHEMA = merging.SCHEMA.replace(f"-{CACHE_KIBIBYTES}", "-64")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    Manifest.open(sys.argv[1])
except ManifestError as error:
    print(error)
"""


def test_a_full_temporary_folder_is_one_sentence(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for the full disk."""
    (tmp_path / "a.jpg").touch()
    path = tmp_path / "m.csv"
    lines = (f"a.jpg,caption number {number}\n" for number in range(20_000))
    path.write_text("image,caption\n" + "".join(lines))
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "the temporary folder cannot hold the manifest's rows" in done.stdout
    assert "SQLITE_TMPDIR" in done.stdout and done.stdout.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("captions", [1, 5])
def test_a_million_rows_stay_below_the_stated_memory(captions: int) -> None:
    command = [sys.executable, "benchmarks/manifest.py", "--captions", str(captions)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=900
    )
    lines = done.stdout.splitlines()[2:]
    assert len(lines) == 3
    for line in lines:
        *_, megabytes = line.split()
        assert int(megabytes) < 250, line
