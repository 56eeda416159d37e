"""`make bench-check`: what falls is told, and what is kept is what the page shows."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("check")


def test_only_what_fell_by_over_a_fifth_is_told(check: object) -> None:
    kept = {"held": 1.0, "lower": 1.0, "fallen": 1.0, "risen": 1.0, "gone": 1.0}
    found = {"held": 1.0, "lower": 0.81, "fallen": 0.79, "risen": 9.0, "new": 0.1}
    assert check.fallen(kept, found) == ["fallen: 0.79, which was 1"]  # type: ignore[attr-defined]
    assert check.fallen({}, found) == []  # type: ignore[attr-defined]


def test_the_page_shows_what_is_kept(check: object) -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    kept = json.loads((BENCHMARKS / "ratios.json").read_text(encoding="utf-8"))
    assert kept.keys() <= set(check.MEASURED)  # type: ignore[attr-defined]
    for benchmark, found in kept.items():
        for name, value in found.items():
            assert f"| `{benchmark}.py` | {name} | {value:.3g} |" in page
    changed = check.with_table(page, "what stood there")  # type: ignore[attr-defined]
    assert "what stood there" in changed
    assert check.with_table(changed, "another").count("what stood there") == 0  # type: ignore[attr-defined]
    with pytest.raises(SystemExit, match="has no place"):
        check.with_table("no marks", "what stood there")  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["changes.py", "--sizes", "200", "300"],
        ["vespa_feed.py", "--documents", "50", "--rounds", "1", "--stub", "at once"],
    ],
)
def test_a_small_one_ends(arguments: list[str]) -> None:
    """A stand-in that is left behind by what it stands for would be waited for in vain."""
    command = [sys.executable, str(BENCHMARKS / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "feed" in done.stdout
