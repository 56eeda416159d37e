"""The machine: Python, runtimes, memory, disk, write access, the hub, Docker."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

from clipsearch.doctor.extras import is_installed
from clipsearch.doctor.findings import Colour, Finding
from clipsearch.hub.connection import HubConnection
from clipsearch.version import __version__
from finetune.cores import available_cores
from finetune.deadline import GivenUpError, within
from finetune.errors import ClipsearchError
from finetune.files.user_folders import user_cache, user_state
from finetune.installing import install_command

OLDEST_PYTHON = (3, 11)
LITTLE_MEMORY = 2 << 30
LITTLE_DISK = 2 << 30
NO_DISK = 100 << 20
DOCKER_SECONDS = 5.0
TORCH = install_command("finetune")


def python() -> Iterator[Finding]:
    """Look at Python and the system."""
    version = platform.python_version()
    said = f"{version} on {platform.system()} {platform.machine()}, {available_cores()} cores"
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", "red", said, "install Python 3.11 or later")
    else:
        yield Finding("python", "green", said)
    place = Path(__file__).resolve().parents[1]
    yield Finding("clipsearch", "green", f"{__version__} in {place}")


def onnx_runtime() -> Iterator[Finding]:
    """Look at what encodes on the CPU."""
    import onnxruntime  # what is broken in it is to be told, not to keep the rest from running

    providers = ", ".join(onnxruntime.get_available_providers())
    said = f"{onnxruntime.__version__}: {providers}"
    yield Finding("onnx runtime", "green", said)


def torch() -> Iterator[Finding]:
    """Look at what trains, and encodes on a GPU."""
    if importlib.util.find_spec("torch") is None:
        said = "not installed: no fine-tuning, no export, no --device cuda; searching needs none"
        yield Finding("torch", "yellow", said, TORCH)
        return
    import torch as library  # takes seconds

    missing = [name for name in ("transformers", "onnx", "peft") if not is_installed(name)]
    if missing:
        yield Finding("torch", "yellow", f"{library.__version__}, without {missing[0]}", TORCH)
        return
    if not library.cuda.is_available():
        yield Finding("torch", "green", f"{library.__version__}, no CUDA device: the CPU is used")
        return
    of = library.cuda.get_device_properties(0)
    said = f"{library.__version__}, {of.name}, {of.total_memory / 2**30:.0f} GiB"
    yield Finding("torch", "green", said)


def memory() -> Iterator[Finding]:
    """Look at the memory that is free."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # macOS does not say
        return
    # What the system keeps of files is given back when it is asked for.
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        free = int(lines.get("MemAvailable", f"{free >> 10} kB").split()[0]) << 10
    said = f"{free / 2**30:.1f} GiB free"
    if free < LITTLE_MEMORY:
        yield Finding("memory", "yellow", said, "close other programs, or take a small encoder")
    else:
        yield Finding("memory", "green", said)


def disk() -> Iterator[Finding]:
    """Look at the disks of this folder, the cache and temporary files, and whether we may write."""
    places = {"this folder": Path(), "temporary files": Path(tempfile.gettempdir())}
    try:
        places |= {"cache": user_cache(), "state": user_state()}
    except RuntimeError as error:
        mend = "set XDG_CACHE_HOME and XDG_STATE_HOME to folders of yours"
        yield Finding("cache", "yellow", str(error), mend)
    for name, place in places.items():
        folder = next(each for each in (place, *place.absolute().parents) if each.is_dir())
        free = shutil.disk_usage(folder).free
        said = f"{folder.absolute()}: {free / 2**30:,.1f} GiB free"
        if not os.access(folder, os.W_OK):
            mend = "work in another folder" if name == "this folder" else "change its permissions"
            yield Finding(f"disk, {name}", "yellow", f"{said}, but not to be written", mend)
        else:
            colour: Colour = "green" if free >= LITTLE_DISK else "yellow"
            colour = "red" if free < NO_DISK else colour
            yield Finding(f"disk, {name}", colour, said, "" if colour == "green" else "free some")


def hub() -> Iterator[Finding]:
    """Look whether encoders can be fetched."""
    if os.environ.get("HF_HUB_OFFLINE"):
        yield Finding("hub", "yellow", "HF_HUB_OFFLINE is set: nothing is fetched", "unset it")
        return
    connection = HubConnection()
    try:
        connection.json("api/models?limit=1", "its list of models")
    except ClipsearchError as error:
        mend = "needed only to fetch an encoder; behind a proxy set https_proxy"
        said = str(error).partition(";")[0]
        if isinstance(error.__cause__, HTTPError):
            code = error.__cause__.code
            said = f"{connection.endpoint} answers, but lists no models (HTTP {code})"
            mend = "needed only to fetch an encoder; is HF_ENDPOINT right?"
        yield Finding("hub", "yellow", said, mend)
    else:
        yield Finding("hub", "green", f"{connection.endpoint} answers")


def docker() -> Iterator[Finding]:
    """Look whether Docker answers, which `deploy --docker` needs."""
    program = shutil.which("docker")
    if program is None:
        yield Finding("docker", "yellow", "not here: no deploy --docker; nothing else needs it")
        return
    command = [program, "version", "--format", "{{.Server.Version}}"]

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DOCKER_SECONDS, check=False
        )

    try:
        answer = within(DOCKER_SECONDS + 1, ask)
    except (GivenUpError, subprocess.TimeoutExpired):
        mend = "start it again: systemctl restart docker"
        yield Finding("docker", "yellow", f"does not answer in {DOCKER_SECONDS:g} s", mend)
        return
    if answer.returncode:
        said = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        yield Finding("docker", "yellow", said, "start it: systemctl start docker")
    else:
        yield Finding("docker", "green", f"server {answer.stdout.strip()}")
