"""The wheel, installed with its extras into an empty environment, runs the demo."""

import os
import shlex
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CLIPSEARCH"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.wheel
@pytest.mark.timeout(1500)
def test_wheel_in_an_empty_environment_runs_the_demo(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("clipsearch/cli/demo.py", "finetune/trainer.py", "clipsearch/py.typed"):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    extra = shlex.split(os.environ.get("CLIPSEARCH_PIP_ARGS", ""))
    constraints = REPOSITORY / "constraints.txt"
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        *extra,
        "-c",
        constraints,
        f"{wheel}[all]",
        cwd=tmp_path,
    )

    clipsearch = tmp_path / "venv" / "bin" / "clipsearch"
    printed = run(clipsearch, "demo", "--out", tmp_path / "demo", cwd=tmp_path)
    assert "recall@1" in printed
    assert (tmp_path / "demo" / "contact-sheet.png").is_file()
