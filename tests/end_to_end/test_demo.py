"""`clipsearch demo`, whole, through the real entry point."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from clipsearch_command import CLIPSEARCH, FRESH_CLIPSEARCH
from PIL import Image

from clipsearch.modes import MODES
from finetune.errors import UsageError

HEAVY = ("torch", "transformers", "pandas", "matplotlib")
# Twice what is promised on two quiet cores: the suite shares them with whatever else runs.
MOST_SECONDS = 180


def clipsearch(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def walk(root: Path, *command: str) -> tuple[Path, str, float]:
    """(folder, what was printed, seconds) of one whole demo."""
    start = time.monotonic()
    words = [*command, "--out", "the demo"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "the demo", done.stdout, time.monotonic() - start


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """A demo that trains for a third of its time."""
    root = tmp_path_factory.mktemp("with a space")
    return walk(root, *CLIPSEARCH, "demo", "--epochs", "4")


def check_figures(folder: Path, printed: str, least: float) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["after"]["pool"] >= 100
    assert metrics["after"]["recall@1"] >= least
    assert metrics["before"]["recall@1"] <= 0.05
    assert f"pool of {metrics['after']['pool']} pictures" in printed


def test_held_out_combinations_are_found(walked: tuple[Path, str, float]) -> None:
    folder, printed, _ = walked
    check_figures(folder, printed, 0.15)


@pytest.mark.slow
def test_held_out_combinations_are_found_well_in_the_promised_time(tmp_path: Path) -> None:
    folder, printed, seconds = walk(tmp_path, *FRESH_CLIPSEARCH, "demo")
    check_figures(folder, printed, 0.70)
    assert seconds <= MOST_SECONDS


def test_every_mode_and_a_search_by_picture_are_shown(walked: tuple[Path, str, float]) -> None:
    folder, printed, _ = walked
    for mode in MODES:
        assert f"--mode {mode} " in printed
    assert "--image" in printed
    for name in ("contact-sheet.png", "by-picture.png"):
        with Image.open(folder / name) as sheet:
            assert min(sheet.size) > 300
            assert len(set(sheet.convert("RGB").resize((64, 64)).get_flattened_data())) > 30


def test_it_is_served_at_once(walked: tuple[Path, str, float]) -> None:
    folder, printed, _ = walked
    assert "$ clipsearch serve --index" in printed
    command = [*FRESH_CLIPSEARCH, "demo", "--out", folder, "--serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+?(?= \()", process.stderr.readline())
        assert found
        answer = requests.get(f"{found.group()}/?q=red+star", timeout=60)
        process.terminate()
        assert process.wait(60) == 0
    assert "images/red-star" in unquote(answer.text)


def test_a_cold_query_on_the_demo_imports_nothing_heavy(walked: tuple[Path, str, float]) -> None:
    folder, _, _ = walked
    program = (
        "import sys; from clipsearch.cli import cli;"
        " cli.main(['query', 'two red stars', '--index', sys.argv[1]], standalone_mode=False);"
        f" print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder / "pictures.index"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_encoder_ranks_what_no_caption_says(walked: tuple[Path, str, float]) -> None:
    folder, _, _ = walked
    words = ("query", "three rings", "--mode", "vector", "-k", "5", "--json")
    done = clipsearch(*words, "--index", folder / "pictures.index", cwd=folder)
    hits = json.loads(done.stdout)["hits"]
    assert sum(hit["tags"]["shape"] == "ring" for hit in hits) >= 3


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = clipsearch("demo", "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "other files" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    from clipsearch.demo.demo import make_folder
    from finetune.files.ownership import MARK_FILE

    out = tmp_path / "demo"
    make_folder(out)
    (out / "captions.csv").touch()  # of a demo that was killed
    make_folder(out)
    assert [path.name for path in out.iterdir()] == [MARK_FILE]
    (out / "captions.csv").touch()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt was not written by clipsearch"):
        make_folder(out)
    assert {path.name for path in out.iterdir()} == {MARK_FILE, "captions.csv", "mine.txt"}


def test_a_demo_of_an_earlier_version_is_replaced_after_yes(tmp_path: Path) -> None:
    from clipsearch.demo.demo import OLD_MARKER, make_folder
    from finetune.files.ownership import MARK_FILE

    for name in (OLD_MARKER, "captions.csv", "encoder/encoder.json", "pictures.index/index.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="add --yes"):
        make_folder(tmp_path)
    make_folder(tmp_path, yes=True)
    assert [path.name for path in tmp_path.iterdir()] == [MARK_FILE]
