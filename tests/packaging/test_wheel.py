"""The wheel in an empty environment: searching needs no extras, and with them the demo runs."""

import os
import shlex
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = (
    "clipsearch/cli/demo.py",
    "clipsearch/py.typed",
    "finetune/py.typed",
    "finetune/training/train.py",
    "vespa_app/services.xml",
    "vespa_app/schemas/image.sd",
)
HEAVY = ("torch", "transformers", "matplotlib")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "CLIPSEARCH"))
    }
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python: Path, what: str, cwd: Path) -> None:
    extra = shlex.split(os.environ.get("CLIPSEARCH_PIP_ARGS", ""))
    constraints = ("-c", REPOSITORY / "constraints.txt")
    run(python, "-m", "pip", "install", "-q", *extra, *constraints, what, cwd=cwd)


@pytest.mark.wheel
@pytest.mark.timeout(1500)
def test_wheel_in_an_empty_environment(tmp_path: Path, encoder_folder: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in NEEDED:
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]

    venv.create(tmp_path / "venv", with_pip=True)
    python, clipsearch = (tmp_path / "venv" / "bin" / name for name in ("python", "clipsearch"))
    install(python, str(wheel), tmp_path)
    found = f"import importlib.util as u; print([n for n in {HEAVY!r} if u.find_spec(n)])"
    assert run(python, "-c", found, cwd=tmp_path).strip() == "[]"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "photos.csv").write_text("image,caption\na.png,two dogs on a beach\n")
    feed = ("feed", "photos.csv", "--encoder", encoder_folder, "--index", "photos.index")
    assert "fed 1," in run(clipsearch, *feed, cwd=tmp_path)
    assert "a.png" in run(clipsearch, "query", "dog", "--index", "photos.index", cwd=tmp_path)

    install(python, f"{wheel}[all]", tmp_path)
    printed = run(clipsearch, "demo", "--out", "demo", cwd=tmp_path)
    assert "recall@1" in printed
    assert (tmp_path / "demo" / "contact-sheet.png").is_file()
