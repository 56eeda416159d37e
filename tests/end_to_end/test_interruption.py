"""Ctrl-C once: the command ends soon after, and so do its workers, whatever is being read."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from clipsearch_command import CODE
from PIL import Image

# In every process: reading a picture takes minutes, in C, where no signal reaches Python.
SLOW = """
import hashlib, os
from finetune.images import open as images

def slow(*arguments):
    open(os.environ["CLIPSEARCH_TEST_READING"], "a").close()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)

images._decode = slow
"""
# Its workers are programs of their own, that find SLOW on the path that they get from it.
PROGRAM = f"""
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
sys.path.insert(1, sys.argv[2])
del sys.argv[1:3]
{SLOW}
from clipsearch.__main__ import main
main()
"""
# Two seconds are promised; the rest is for machines that do other work as well.
SECONDS = 6.0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for number in range(70):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(
            f"{number}.png,caption number {number},{'val' if number % 5 == 0 else 'train'}"
        )
    path = folder / "photos.csv"
    path.write_text("\n".join(lines))
    return path


class Command:
    """A command whose pictures take minutes to read."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        slow = folder / "slow"
        slow.mkdir()
        (slow / "sitecustomize.py").write_text(SLOW)
        self.mark = folder / "reading"
        self.pid = folder / "pid"
        self.process = subprocess.Popen(
            [*CODE, PROGRAM, str(self.pid), str(slow), *map(str, arguments)],
            env={**os.environ, "CLIPSEARCH_TEST_READING": str(self.mark)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.children: list[psutil.Process] = []

    def wait_until_reading(self) -> None:
        end = time.monotonic() + 120
        while not self.mark.exists():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        self.children = psutil.Process(int(self.pid.read_text())).children(recursive=True)

    def interrupt(self, number: int = signal.SIGINT) -> float:
        """Seconds until it has ended."""
        started = time.monotonic()
        # To the command alone: a terminal's Ctrl-C would reach a part of the workers too.
        self.process.send_signal(number)
        self.process.wait(60)
        return time.monotonic() - started

    def workers_left(self) -> list[psutil.Process]:
        _, alive = psutil.wait_procs(self.children, timeout=SECONDS)
        return alive

    def kill(self) -> None:
        for process in (*self.children, self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.communicate()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Command]]:
    commands: list[Command] = []
    yield commands
    for command in commands:
        command.kill()


def arguments(name: str, photos: Path, encoder: Path, tmp_path: Path) -> list[object]:
    feed = ["feed", photos, "--encoder", encoder, "--index", tmp_path / "photos.index"]
    tune = ["finetune", photos, "--model", "tiny", "--out", tmp_path / "out", "--batch-size", 8]
    return {
        "manifest check": ["manifest", "check", photos, "--decode"],
        "feed in workers": [*feed, "--workers", 2],
        "feed here": [*feed, "--workers", 0],
        "finetune in workers": [*tune, "--workers", 2],
        "finetune here": [*tune, "--workers", 0],
        "evaluate in workers": ["evaluate", encoder, photos, "--split", "val", "--workers", 2],
        "evaluate here": ["evaluate", encoder, photos, "--split", "val", "--workers", 0],
    }[name]


QUICK = ("manifest check", "feed in workers", "finetune in workers")
OTHERS = ("feed here", "finetune here", "evaluate in workers", "evaluate here")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
)
def test_one_signal_ends_whatever_is_being_read(
    name: str, photos: Path, encoder_folder: Path, tmp_path: Path, started: list[Command]
) -> None:
    command = Command(tmp_path, *arguments(name, photos, encoder_folder, tmp_path))
    started.append(command)
    command.wait_until_reading()
    assert bool(command.children) == name.endswith("in workers")
    assert command.interrupt() < SECONDS
    assert command.process.returncode == 130
    assert not command.workers_left()
    assert command.process.stderr is not None
    assert command.process.stderr.read().endswith("Stopped.\n")


def test_so_does_one_from_whoever_stops_a_service(
    photos: Path, tmp_path: Path, started: list[Command]
) -> None:
    command = Command(tmp_path, "manifest", "check", photos, "--decode")
    started.append(command)
    command.wait_until_reading()
    assert command.interrupt(signal.SIGTERM) < SECONDS
    assert command.process.returncode == 130


def test_workers_end_with_a_command_that_is_killed(
    photos: Path, encoder_folder: Path, tmp_path: Path, started: list[Command]
) -> None:
    asked = arguments("feed in workers", photos, encoder_folder, tmp_path)
    command = Command(tmp_path, *asked)
    started.append(command)
    command.wait_until_reading()
    assert command.children
    command.interrupt(signal.SIGKILL)
    assert not command.workers_left()
