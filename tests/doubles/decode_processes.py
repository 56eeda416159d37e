"""The processes that decode pictures for this one."""

import contextlib

import psutil


def workers_running(pid: int | None = None) -> list[psutil.Process]:
    """The workers of a process, this one unless told."""
    return [child for child in psutil.Process(pid).children(recursive=True) if _is_worker(child)]


def _is_worker(child: psutil.Process) -> bool:
    # One that another test killed and did not wait for has no command line any more.
    with contextlib.suppress(psutil.NoSuchProcess):
        return "finetune.images.decode_worker" in " ".join(child.cmdline())
    return False
