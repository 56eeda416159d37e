"""`benchmarks/gpu.sh`: the whole of it on the CPU, and what it says where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "gpu.sh"


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(SCRIPT), *arguments], capture_output=True, text=True, env=environment
    )


def test_every_test_that_needs_a_gpu_is_in_the_script() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    named = set(re.findall(r"tests/\S+\.py", script))
    needing = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        if re.search(r"torch\.cuda\.is_available\(\)", path.read_text(encoding="utf-8"))
        and re.search(r"needs (a GPU|CUDA)\"", path.read_text(encoding="utf-8"))
    } - {str(Path(__file__).relative_to(REPOSITORY))}
    assert needing and needing == named


def test_its_parts_end_within_eight_minutes() -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    with_gpu = script[script.index('part "tests"') :].partition("else")[0]
    assert sum(map(int, re.findall(r'part "[^"]+" (\d+)', with_gpu))) <= 480


def test_without_a_gpu_it_says_what_to_do(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "finds no CUDA device; try the road with --dry-run" in done.stderr
    assert not list(tmp_path.iterdir())
    assert run(tmp_path, "--fast").returncode == 2


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_dry_run_goes_the_whole_road(tmp_path) -> None:
    done = run(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = tmp_path.iterdir()
    kept = table.read_text(encoding="utf-8")
    for part in ("tests", "training", "GradCache", "encoding"):
        assert f"== {part}" in kept
    for row in ("ours / bare", "GradCache       8", "files / min", "least cosine of bf16"):
        assert row in kept
    assert kept in done.stdout
