"""How many processors there are for us, and for what."""

import os

# One queues the GPU's work and one takes in images, while the others decode.
BESIDE_A_GPU = 2


def available_cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decoding_cores(device: str = "cpu") -> int:
    """Count the cores that decoding may keep busy, at least 1.

    All of them where the towers run on the CPU, since neither stage knows which is the slower; on
    a GPU all but BESIDE_A_GPU. Processes that torchrun started on this machine have equal shares.

    Args:
        device: Where the towers run: "cpu", or what begins with "cuda".
    """
    own = available_cores() // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    return max(own - (BESIDE_A_GPU if device.startswith("cuda") else 0), 1)
