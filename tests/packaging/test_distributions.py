"""Wheel and source archive: what is in them, whether an index takes them, and that they repeat."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("clipsearch", "finetune", "vespa_app")
# In 2023; any fixed moment will do.
MOMENT = "1700000000"


def tracked(*folders: str) -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *folders], cwd=REPOSITORY, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs git, which tells what belongs to a release")
    return {name for name in done.stdout.decode().split("\0") if name}


def built(folder: Path) -> tuple[Path, Path]:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": MOMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


@pytest.mark.wheel
def test_both_hold_what_belongs_in_them_pass_twines_check_and_are_the_same_each_time(
    tmp_path: Path,
) -> None:
    wheel, archive = built(tmp_path / "one")
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in in_wheel if ".dist-info/" not in name}
    assert own == tracked(*PACKAGES)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in in_wheel)
    with tarfile.open(archive) as tar:
        in_archive = {each.name.partition("/")[2] for each in tar.getmembers() if each.isfile()}
    beside = {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "pyproject.toml"}
    wanted = tracked(*PACKAGES, "tests", "docs", "benchmarks", "deploy") | beside
    assert wanted <= in_archive
    assert not {name for name in in_archive if "__pycache__" in name or ".venv" in name}
    check = [sys.executable, "-m", "twine", "check", "--strict", wheel, archive]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    again = built(tmp_path / "two")
    for first, second in zip((wheel, archive), again, strict=True):
        hashes = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (first, second)]
        assert hashes[0] == hashes[1], first.name


def test_nothing_tells_people_to_install_from_an_index_that_has_it_not() -> None:
    """`finetune/installing.py` says how; pages say it for a checkout."""
    places = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")]
    places += [
        path for room in ("clipsearch", "finetune") for path in (REPOSITORY / room).rglob("*.py")
    ]
    wrong = re.compile(r"pip install (-U )?['\"]?clipsearch\b")
    assert [path for path in places if wrong.search(path.read_text(encoding="utf-8"))] == []
