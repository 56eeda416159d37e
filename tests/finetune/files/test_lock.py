"""One process at a time, whatever becomes of the holder, of its file, and of who finds it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.files.lock import HeldElsewhereError, hold

HOLD_FOR_EVER = """
import sys, time
from pathlib import Path
from finetune.files.lock import hold
lock = hold(Path(sys.argv[1]), "feed")
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_holder_is_named_until_it_is_gone_and_then_holds_no_more(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for _ in range(2):  # who is refused takes nothing away
            with pytest.raises(HeldElsewhereError) as refused:
                hold(path, "delete")
            assert refused.value.holder == "feed"
        holder.send_signal(signal.SIGKILL)
    with hold(path, "delete"):
        assert path.read_text() == "delete"


def test_two_in_one_process_are_told_apart(tmp_path: Path) -> None:
    with hold(tmp_path / "lock", "4711"), pytest.raises(HeldElsewhereError) as refused:
        hold(tmp_path / "lock", "4712")
    assert refused.value.holder == "4711"


@pytest.mark.parametrize("content", ["my own notes", "x" * 65, "Feed"])
def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    with pytest.raises(OSError, match="another file has the name of the lock"):
        hold(tmp_path / "lock", "feed")
    assert (tmp_path / "lock").read_text() == content


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_file_system_may_refuse_in_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "lock").write_text("feed")

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(HeldElsewhereError, match="feed"):
        hold(tmp_path / "lock", "delete")


def test_a_file_system_without_locks_is_an_error_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="ocks"):
        hold(tmp_path / "lock", "feed")
