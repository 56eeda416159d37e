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


@pytest.mark.parametrize("pattern", ["Caf\xe9/", "Cafe\u0301/"])
@pytest.mark.parametrize("name", ["Caf\xe9/a.jpg", "Cafe\u0301/a.jpg"])
def test_they_mean_names_of_either_unicode_form(tmp_path: Path, pattern: str, name: str) -> None:
    pictures(tmp_path, name, "b.jpg")
    assert [record.id for record in read(tmp_path, exclude=[pattern])[1]] == ["b.jpg"]
    (tmp_path / "t.csv").write_text(f"image,caption\n{name},a\nb.jpg,b\n", encoding="utf-8")
    assert [record.id for record in read(tmp_path / "t.csv", exclude=[pattern])[1]] == ["b.jpg"]


def test_the_captions_of_a_picture_that_is_left_out_are_not_without_a_picture(
    tmp_path: Path,
) -> None:
    pictures(tmp_path, "a.jpg", "below/a.jpg", "b.jpg")
    for name in ("a.txt", "below/a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("a caption")
    manifest, _ = read(tmp_path, exclude=["a.jpg"])
    alone = [each.where for each in manifest.problems if each.kind == "text without picture"]
    assert alone == ["c.txt"]
