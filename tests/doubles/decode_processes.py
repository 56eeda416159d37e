"""The processes that decode pictures for this one."""

import psutil


def workers_running() -> list[psutil.Process]:
    """The workers of this process."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "finetune.images.decode_worker" in " ".join(child.cmdline())
    ]
