"""`feed --watch`: what changes is fed, and nothing ends it but Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
from clipsearch_command import CODE

import clipsearch
from clipsearch import cli
from clipsearch.cli.feed import _print
from clipsearch.feed import watching as following
from clipsearch.feed.report import FeedReport
from clipsearch.feed.watching import changes, places

pytest.importorskip("watchfiles")


# What has changed is told ten times a second.
SOON = """
from clipsearch.__main__ import main
from clipsearch.feed import watching
watching.QUIET_MS = watching._LOOK_MS = 100
main()
"""


class Watching:
    """A running `feed --watch` and the lines that it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: Queue[str] = Queue()
        assert process.stdout is not None
        Thread(target=lambda: [self.lines.put(line) for line in process.stdout or ()]).start()

    def wait_for(self, text: str) -> str:
        """Return the next line with a text, within a minute."""
        seen, end = [], time.monotonic() + 60
        while time.monotonic() < end:
            try:
                seen.append(self.lines.get(timeout=0.2))
            except Empty:
                assert self.process.poll() is None, seen
                continue
            if text in seen[-1]:
                return seen[-1]
        raise AssertionError(f"no {text!r} in {seen}")


@contextmanager
def watching(folder: Path, *arguments: str) -> Iterator[Watching]:
    command = [*CODE, SOON, "feed", *arguments, "--watch"]
    process = subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Watching(process)
    finally:
        process.kill()
        process.wait()


def write(folder: Path, names: Sequence[str]) -> None:
    rows = [
        {"id": name, "caption": f"{name} dog", "embedding": [1.0, float(number)]}
        for number, name in enumerate(names)
    ]
    path = folder / "new"
    path.write_text("\n".join(map(json.dumps, rows)))
    path.replace(folder / "m.jsonl")


def test_each_change_is_fed_until_ctrl_c(tmp_path: Path) -> None:
    """The index lies in the folder that is watched: its own writes are no changes."""
    write(tmp_path, ["a", "b"])
    with watching(tmp_path, "m.jsonl", "--index", "i.index", "--prune", "--yes") as feed:
        feed.wait_for("fed 2,")
        feed.wait_for("Watching m.jsonl")
        write(tmp_path, ["a", "b", "c"])
        assert "unchanged 2," in feed.wait_for("fed 1,")
        write(tmp_path, ["a", "c"])
        feed.wait_for("removed 1,")
        (tmp_path / "m.jsonl").unlink()
        feed.wait_for("m.jsonl: there is no such file")
        write(tmp_path, ["a", "c", "d"])
        feed.wait_for("fed 1,")
        time.sleep(0.6)
        assert feed.lines.empty(), "its own files are no changes"
        feed.process.send_signal(signal.SIGINT)
        assert feed.process.wait(20) == 130
        assert "Traceback" not in "".join(feed.lines.queue)
    with clipsearch.open(tmp_path / "i.index") as search:
        assert search.count() == 3


def test_what_changes_during_a_step_is_told_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "QUIET_MS", 50)
    monkeypatch.setattr(following, "_LOOK_MS", 50)
    (tmp_path / "index").mkdir()
    steps = changes([tmp_path], [tmp_path / "index", tmp_path / "ledger.sqlite"])
    assert next(steps) is False
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jpg").write_bytes(b"x")
    assert True in (next(steps) for _ in range(200))
    (tmp_path / "index" / "segment").write_bytes(b"x")
    (tmp_path / "ledger.sqlite-wal").write_bytes(b"x")
    assert [next(steps) for _ in range(8)] == [False] * 8
    steps.close()


def test_notes_and_problems_are_said_once_until_they_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = FeedReport(
        fed=1, updated=0, reused=1, unchanged=0, removed=0, rejected=1, problems={}, blanked=0,
        seconds=1.0, images_per_second=0.0, report_path=Path("r.csv"), notes=("one", "two"),
        first_reasons=("a.jpg: is damaged",),
    )  # fmt: skip
    said = _print(report, None, set(), as_json=False, indent=None)
    out, err = capsys.readouterr()
    assert out.splitlines()[2:] == [
        "  a.jpg: is damaged",
        "Each rejection, problem and note, with its reason: r.csv; --exclude leaves out what is not"
        " wanted",
    ]  # fmt: skip
    assert err.splitlines() == ["Note: one.", "Note: two."]
    said = _print(replace(report, notes=("two", "three")), None, said, as_json=False, indent=None)
    out, err = capsys.readouterr()
    assert (len(out.splitlines()), err) == (2, "Note: three.\n")
    assert "Of these, 1 equal" in out
    _print(report, None, said, as_json=False, indent=None)
    assert capsys.readouterr().err == "Note: one.\n"  # it had gone, and is there again


def test_what_is_followed(tmp_path: Path) -> None:
    (tmp_path / "m.csv").touch()
    assert places(tmp_path, None) == [tmp_path]
    assert places(tmp_path / "m.csv", None) == [tmp_path / "m.csv", tmp_path]
    images = tmp_path / "elsewhere"
    assert places(tmp_path / "m.csv", images) == [tmp_path / "m.csv", images]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{000..002}.tar"], "--watch follows a file or a folder that is there"),
        ([".", "--prune"], "add --yes to prune without a question"),
    ],
)
def test_what_cannot_be_watched(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli._run(["feed", *arguments, "--index", "i", "--watch"], debug=False) == 2
    assert says in capsys.readouterr().err


def test_without_the_extra_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert cli._run(["feed", os.fspath(tmp_path), "--index", "i", "--watch"], debug=False) == 2
    assert "--watch needs watchfiles; install it with: pip install '.[watch]'" in (
        capsys.readouterr().err
    )
