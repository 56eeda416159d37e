"""Processes as where clipsearch is installed: what Python has compiled is there."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import clipsearch
import finetune


@cache
def as_installed() -> dict[str, str]:
    """The environment of such a process; compiles our own packages first.

    With PYTHONDONTWRITEBYTECODE, and in a fresh checkout, each start would compile them anew: that
    is up to half of the time that imports take.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folders = [str(Path(str(package.__file__)).parent) for package in (clipsearch, finetune)]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True, env=kept)
    return kept
