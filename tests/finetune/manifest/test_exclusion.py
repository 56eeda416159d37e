"""Patterns of what is left out, held against git itself."""

import shutil
import subprocess
from pathlib import Path

import pytest
from small_manifests import pictures, read

PATTERNS = ("*.png", "/drafts/", "2019/**/raw", "!keep.png", "[ab]?.jpg")
NAMES = (
    "x.png", "below/x.png", "keep.png", "drafts/a.jpg", "below/drafts/a.jpg", "2019/raw/a.jpg",
    "2019/may/raw/b.jpg", "raw/a.jpg", "a1.jpg", "b12.jpg", "2019/a2.jpg", "2019/c.jpg",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="compared with git's own reading")
def test_they_mean_what_they_mean_to_git(tmp_path: Path) -> None:
    pictures(tmp_path, *NAMES)
    manifest, records = read(tmp_path, exclude=PATTERNS)
    (tmp_path / ".gitignore").write_text("\n".join(PATTERNS))
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-o", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    kept = set(listed.stdout.split()) - {".gitignore"}
    assert {record.id for record in records} == kept and 0 < len(kept) < len(NAMES)
    left_out = {each.where for each in manifest.problems if each.kind == "left out"}
    assert {"x.png", "drafts/", "2019/raw/", "2019/may/raw/"} <= left_out
