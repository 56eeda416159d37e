"""The largest batch that fits in memory, found by trying.

Sizes double until one is too much, then the gap to the last good one is halved until it is an
eighth. On the CPU going over the limit would end the process, so a size is tried only where a
line through the last two measurements stays below it.
"""

import ctypes
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from finetune.config.reading import Reading
from finetune.config.run_parts import BaseModel, Gradients, Preparation
from finetune.config.settings import TrainConfig
from finetune.data.pixel_store import available_memory
from finetune.data.splits import TrainingManifests
from finetune.data.tensors import TensorBatch
from finetune.data.world import World
from finetune.errors import UsageError
from finetune.models.dual_encoder import DualEncoder
from finetune.optimization.precisions import resolve_device
from finetune.training.gradients.gradcache import RandomState
from finetune.training.prepare import load_model, prepare
from finetune.training.train import backward_of

MEGABYTE = 1 << 20
# Of the memory that is free: batches differ, and allocators leave gaps.
SHARE = 0.9
# AdamW keeps two moments of each parameter, from its first step on.
OPTIMIZER_STATES = 2


def find_batch_size(
    dual: DualEncoder,
    backward: Callable[[TensorBatch], object],
    *,
    largest: int,
    reserved: int = 0,
) -> int:
    """Find the largest batch whose forward and backward pass fit in memory, at most `largest`.

    Batches of made-up images and texts of full length are tried. Weights, gradients and random
    state are afterwards as if nothing had happened.

    Args:
        dual: The model, on its device, in training mode.
        backward: Adds a batch's gradients to the parameters'.
        largest: No more is tried.
        reserved: Bytes that training will need besides: a large batch's pixels, for example.

    Raises UsageError where not even one image fits.
    """
    device = dual.logit_scale.device
    random_state = RandomState.now(device)
    trained = [parameter for parameter in dual.parameters() if parameter.requires_grad]

    # gradients and optimizer states, whatever the batch
    fixed = (1 + OPTIMIZER_STATES) * sum(p.numel() * p.element_size() for p in trained)

    def step(size: int) -> None:
        states = [torch.ones_like(p) for p in trained for _ in range(OPTIMIZER_STATES)]
        try:
            backward(made_up_batch(dual, size))
        finally:
            states.clear()
            for parameter in trained:
                parameter.grad = None

    try:
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            limit = int(SHARE * (free + unused)) - reserved
            return largest_batch(lambda size: cuda_peak(device, step, size), limit, largest, fixed)
        # what libraries keep from their first use on is no part of a step
        step(1)
        limit = int(SHARE * available_memory()) - reserved
        before = process_memory("VmRSS")
        return largest_batch(lambda size: cpu_peak(before, step, size), limit, largest, fixed)
    finally:
        random_state.restore()


def largest_batch(peak: Callable[[int], int], limit: int, largest: int, fixed: int = 0) -> int:
    """Return the largest size, to an eighth, whose peak is within the limit.

    Args:
        peak: Runs a batch of a size and returns the bytes that it took; it may raise
            torch.OutOfMemoryError.
        limit: In bytes.
        largest: No more is tried.
        fixed: Bytes that a batch of size 0 would take.

    Raises UsageError where size 1 is over the limit.
    """
    measured = [(0, fixed)]

    def fits(size: int) -> bool:
        last, high = measured[-1]
        slope = 0.0
        if len(measured) > 1:
            first, low = measured[-2]
            slope = max((high - low) / (last - first), 0.0)
        if high + slope * (size - last) > limit:
            return False
        try:
            taken = peak(size)
        except torch.OutOfMemoryError:
            return False
        measured.append((size, taken))
        return taken <= limit

    good, size = 0, 1
    while good < largest and fits(size):
        good, size = size, min(2 * size, largest)
    if good == 0:
        raise UsageError(
            f"not even one picture and text fit in {max(limit, 0) // MEGABYTE:,} MB of memory;"
            f" take a smaller model, or --gradient-checkpointing"
        )
    bad = size
    while good < largest and bad - good > max(good // 8, 1):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def cuda_peak(device: torch.device, step: Callable[[int], None], size: int) -> int:
    """Return the most bytes that a step takes on the GPU. Raises torch.OutOfMemoryError."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        step(size)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    finally:
        torch.cuda.empty_cache()


def cpu_peak(before: int, step: Callable[[int], None], size: int) -> int:
    """Return bytes of the process while a step runs, at most, beyond the `before` at the start.

    Not beyond what it has just before the step: of earlier steps' memory some stays with the
    process. Without Linux's resettable mark it is the peak since the process began.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM to VmRSS
    step(size)
    peak = process_memory("VmHWM")
    with suppress(AttributeError):  # glibc alone has it, and it alone keeps much freed memory
        ctypes.CDLL(None).malloc_trim(0)
    return peak - before


def process_memory(field: str) -> int:
    """Return bytes in memory: now ("VmRSS") or at most ("VmHWM").

    Elsewhere than on Linux it is always the most.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


def made_up_batch(dual: DualEncoder, size: int) -> TensorBatch:
    """Return images of noise with texts of full length, on the model's device."""
    device = dual.logit_scale.device
    shape = (size, 3, dual.preprocessing.height, dual.preprocessing.width)
    ids, mask = dual.tokenize(["word " * dual.max_tokens])
    made = dual.mask_on_host(ids, mask)
    return TensorBatch(
        torch.randn(shape, device=device),
        ids.expand(size, -1).to(device),
        None if made is None else made.expand(size, *made.shape[1:]).to(device),
        torch.eye(size, dtype=torch.bool, device=device),
    )


def report_largest_batch(config: TrainConfig) -> str:
    """Say in one sentence the largest --batch-size whose step fits in memory, with these settings.

    Raises UsageError where not even one pair fits.
    """
    device = torch.device(resolve_device(config.device, config.precision))
    # neither --batch-size nor the split val matters here, and must not stand in the way
    plan = replace(config, batch_size=2).batch_plan
    with TrainingManifests.open(Reading.of(config)) as manifests:
        train = manifests.splits(plan, evaluates=False).train
    dual = load_model(BaseModel.of(config), train.captions).to(device)
    prepared = prepare(dual, Preparation.of(config))
    backward = backward_of(Gradients.of(config), prepared, World(0, 1, device))
    dual.train()
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    found = find_batch_size(
        dual, lambda batch: backward(dual, batch, scaler=scaler), largest=len(train)
    )
    limit = "all images" if found == len(train) else "the largest that fits, to an eighth"
    # of the separate batches of a step each is so large, and all pixels are there together
    each = max(found // config.accumulate_separate_batches, 1)
    return f"--batch-size {each} on {device} ({limit})"
