"""A file that is replaced holds its old content or the new, whatever happens meanwhile."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.files.atomic import replace_file, replacing, write_text_atomically

KILLED = """
import os, sys
from pathlib import Path
from finetune.files import atomic
at = sys.argv[2]
if at == "fsync":
    atomic.os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
else:
    Path.replace = lambda *values: os.kill(os.getpid(), 9)
atomic.replace_file(Path(sys.argv[1]), [b"new" * 100_000])
"""


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_a_kill_leaves_the_old_content(tmp_path: Path, at: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), at], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    replace_file(path, [b"n", b"ew"])  # what the kill left is in nobody's way
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(bytes([1 // 0]))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    fsync, rename = os.fsync, Path.replace
    kind = {True: "folder", False: "file"}

    def flush(descriptor: int) -> None:
        told.append(kind[stat.S_ISDIR(os.fstat(descriptor).st_mode)])
        fsync(descriptor)

    def move(path: Path, to: Path) -> Path:
        told.append("rename")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", move)
    write_text_atomically(tmp_path / "file", "text")
    assert told == ["file", "rename", "folder"]
