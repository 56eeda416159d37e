"""What a run takes: time, memory, machine and versions, for metrics.json and the model card."""

import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from finetune.cores import available_cores

# Whose versions change what training gives.
PACKAGES = ("clipsearch", "torch", "transformers")
JOULES_OF_A_KWH = 3_600_000
GRAMS_OF_A_KG = 1000


@dataclass(slots=True)
class RunCost:
    """What a run took so far, summed up over its interruptions; it is part of a checkpoint.

    What was done after the last checkpoint before a kill was lost, and is not counted.

    Attributes:
        seconds: By the clock, from the first step to the last, evaluations and checkpoints
            included.
        step_seconds: Of these, in steps.
        pairs: Images with a caption that the steps have seen, of all processes.
        interruptions: How often the run was taken up again.
        since_step: The first step that is counted: not 0 where an earlier version began the run.
        gpu_bytes: Most GPU memory that torch reserved in the first process; 0 on a CPU.
        resident_bytes: Most memory that the first process held.
    """

    seconds: float = 0.0
    step_seconds: float = 0.0
    pairs: int = 0
    interruptions: int = 0
    since_step: int = 0
    gpu_bytes: int = 0
    resident_bytes: int = 0

    def resumed(self, checkpoint: Mapping[str, Any] | None, step: int) -> "RunCost":
        """Return what a checkpoint says, taken up once more.

        Args:
            checkpoint: What `asdict` gave; None in a checkpoint of an earlier version.
            step: Of the checkpoint.
        """
        if checkpoint is None:
            return RunCost(since_step=step, interruptions=1)
        known = {item.name for item in fields(RunCost)}
        cost = RunCost(**{name: value for name, value in checkpoint.items() if name in known})
        cost.interruptions += 1
        return cost

    def note_memory(self, device: torch.device) -> None:
        """Take the memory that was held so far into account."""
        if device.type == "cuda":
            self.gpu_bytes = max(self.gpu_bytes, torch.cuda.max_memory_reserved(device))
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self.resident_bytes = max(self.resident_bytes, most)

    def as_dict(self) -> dict[str, float]:
        """Return the attributes, and `pairs_per_second` of the steps."""
        rate = self.pairs / self.step_seconds if self.step_seconds else 0.0
        return asdict(self) | {"pairs_per_second": rate}


class Laps:
    """Adds time to a cost, lap after lap, from when it is made."""

    def __init__(self, cost: RunCost) -> None:
        self._cost = cost
        self._began = time.monotonic()

    def end(self, *, steps: bool) -> None:
        """Add the time since the lap before; `steps` says whether it was spent in steps."""
        now = time.monotonic()
        self._cost.seconds += now - self._began
        if steps:
            self._cost.step_seconds += now - self._began
        self._began = now


def machine_facts(device: torch.device, processes: int) -> dict[str, Any]:
    """Return `hardware`, `processes` and `versions`, as metrics.json holds them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # clipsearch, run from a checkout that is not installed
            continue
    return {"hardware": _hardware(device), "processes": processes, "versions": versions}


def _hardware(device: torch.device) -> str:
    processor = f"{_processor()}, {available_cores()} cores"
    if device.type != "cuda":
        return processor
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"{torch.cuda.get_device_name(device)} ({memory:.0f} GiB); {processor}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # elsewhere than on Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def estimated_impact(
    seconds: float, watts: float | None, grams_a_kwh: float | None
) -> dict[str, Any]:
    """Return `kwh`, `kg_co2eq`, `seconds` and what they follow from; nothing without the power.

    Emissions are left out where `grams_a_kwh` is None.
    """
    if watts is None:
        return {}
    kwh = watts * seconds / JOULES_OF_A_KWH
    impact: dict[str, Any] = {"kwh": kwh, "seconds": seconds, "watts": watts}
    if grams_a_kwh is not None:
        impact |= {"kg_co2eq": kwh * grams_a_kwh / GRAMS_OF_A_KG, "grams_a_kwh": grams_a_kwh}
    return impact
