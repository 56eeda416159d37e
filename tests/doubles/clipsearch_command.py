"""How tests start `clipsearch`: as a process of its own, which need not import all anew."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
VARIABLE = "CLIPSEARCH_TEST_COMMANDS"
_CLIENT = [sys.executable, "-S", "-I", str(FOLDER / "command_client.py")]
# Followed by the arguments. Without a server it is `python -m clipsearch` (see command_server).
CLIPSEARCH = [*_CLIENT, "-m", "clipsearch"]
# Followed by code that needs our modules, and its arguments: `python -c`.
CODE = [*_CLIENT, "-c"]
# Always a new interpreter: for what looks at imports, memory, or dies at a moment.
FRESH_CLIPSEARCH = [sys.executable, "-m", "clipsearch"]


def without_settings() -> dict[str, str]:
    """The environment but for the settings of commands in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if "CLIPSEARCH" not in name or name == VARIABLE
    }


def start_command_server() -> subprocess.Popen[bytes]:
    """Start the server whose forks `CLIPSEARCH` runs, for this process and those it starts."""
    path = Path(tempfile.mkdtemp(prefix="clipsearch-commands-")) / "socket"
    server = subprocess.Popen(
        [sys.executable, str(FOLDER / "command_server.py"), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    os.environ[VARIABLE] = str(path)
    return server


def stop_command_server(server: subprocess.Popen[bytes]) -> None:
    """End the server and what it still runs."""
    server.communicate()
    path = Path(os.environ.pop(VARIABLE))
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def write_clipsearch(folder: Path) -> Path:
    """Write a program `clipsearch` there, for shells that look for it; return the folder."""
    program = folder / "clipsearch"
    folder.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(CLIPSEARCH)} "$@"\n')
    program.chmod(0o755)
    return folder
