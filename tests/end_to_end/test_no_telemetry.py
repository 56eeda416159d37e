"""Feed, query and finetune look no host up and leave no identifier of the machine behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from finetune.telemetry import SILENT, silence

REPOSITORY = Path(__file__).resolve().parents[2]
# Loaded by python before anything else: notes what is looked up and where is connected to.
HOOK = """
import os, socket

def note(what):
    with open(os.environ["LOOKUPS"], "a") as file:
        file.write(f"{what}\\n")

def watched(name, call):
    def watching(*arguments, **options):
        note(f"{name} {arguments}")
        return call(*arguments, **options)
    return watching

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, watched(name, getattr(socket, name)))

class Socket(socket.socket):
    def connect(self, address):
        note(f"connect {address}")
        return super().connect(address)

    def connect_ex(self, address):
        note(f"connect {address}")
        return super().connect_ex(address)

socket.socket = Socket
"""
# A library may be silent because it takes these for a test, or because tests set them.
HELD_BACK = {
    *SILENT,
    "CI",
    "GITHUB_ACTIONS",
    "TF_BUILD",
    "HF_HUB_OFFLINE",
    "XDG_CACHE_HOME",
    "DO_NOT_TRACK",
}


def strace_works() -> bool:
    """It is there, and this machine lets a process be watched."""
    command = ["strace", "-f", "-o", os.devnull, "true"]
    return bool(shutil.which("strace")) and subprocess.run(command, check=False).returncode == 0


def run(folder: Path, *arguments: str) -> list[str]:
    """Run a command; what it looked up, by python or by any library."""
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    environment = {key: value for key, value in os.environ.items() if key not in HELD_BACK}
    environment |= {
        "HOME": str(folder / "home"),
        "LOOKUPS": str(folder / "lookups"),
        "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
    }
    watch = []
    if strace_works():
        calls = "trace=connect,sendto,sendmmsg,sendmsg"
        watch = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(folder / "calls")]
    done = subprocess.run(
        [*watch, sys.executable, "-m", "clipsearch", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = []
    for name, mark in (("lookups", ""), ("calls", "AF_INET")):
        if (folder / name).exists():
            lines = (folder / name).read_text(errors="replace").splitlines()
            found += [line for line in lines if mark in line]
            (folder / name).unlink()
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    rows = []
    for number in range(12):
        name = f"{number}.png"
        Image.new("RGB", (32, 32), (20 * number, 255 - 20 * number, 90)).save(tmp_path / name)
        rows.append(json.dumps({"image": name, "captions": [f"colour number {number}"]}))
    (tmp_path / "photos.jsonl").write_text("\n".join(rows))
    return tmp_path


def assert_nothing_is_kept_for_others(folder: Path) -> None:
    written = [path.relative_to(folder / "home") for path in (folder / "home").rglob("*")]
    assert not [path for path in written if "Microsoft" in path.parts or "telemetry" in path.name]


def test_a_feed_and_a_query_report_to_nobody(photos: Path, encoder_folder: Path) -> None:
    feed = ("feed", "photos.jsonl", "--encoder", str(encoder_folder), "--index", "photos.index")
    assert run(photos, *feed) == []
    assert run(photos, "query", "colour number 3", "--index", "photos.index") == []
    assert_nothing_is_kept_for_others(photos)


@pytest.mark.slow
def test_a_finetune_reports_to_nobody(photos: Path) -> None:
    small = ("--epochs", "1", "--batch-size", "4", "--workers", "0")
    assert (
        run(photos, "finetune", "photos.jsonl", "--model", "tiny", "--out", "tuned", *small) == []
    )
    assert_nothing_is_kept_for_others(photos)


def test_the_hook_sees_a_lookup(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    with pytest.raises(AssertionError, match=r"hub\.invalid: cannot be reached"):
        run(photos, "encoder", "get", "somebody/model")
    assert "hub.invalid" in (photos / "lookups").read_text()


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SILENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    silence()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert all(
        os.environ[name] == SILENT[name] for name in SILENT if name != "ORT_DISABLE_TELEMETRY"
    )


@pytest.mark.parametrize(
    "module", ["clipsearch", "clipsearch.encoder.onnx_towers", "finetune.manifest"]
)
def test_it_is_set_before_a_library_is_imported(module: str) -> None:
    code = f"import os, {module}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if key not in SILENT}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr
