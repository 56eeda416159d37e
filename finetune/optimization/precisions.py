"""Precisions of training by name, and the device that can do them; torch is imported when asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune.errors import UsageError
from finetune.towers import AUTO_DEVICE, is_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """How the activations of a training step are computed.

    Attributes:
        type: Torch's name of autocast's numbers; "float32" is without autocast.
        needs_cuda: Whether the CPU cannot train so.
        scales_loss: Whether gradients would vanish without loss scaling.
    """

    type: str
    needs_cuda: bool = False
    scales_loss: bool = False

    @property
    def dtype(self) -> "torch.dtype":
        """Autocast's numbers."""
        import torch  # heavy, and the names are needed without

        found: torch.dtype = getattr(torch, self.type)
        return found


AUTO = "auto"
_KNOWN: Mapping[str, Precision] = {
    "fp32": Precision("float32"),
    "bf16": Precision("bfloat16"),
    "fp16": Precision("float16", needs_cuda=True, scales_loss=True),
}
PRECISIONS = (AUTO, *_KNOWN)


def resolve_device(device: str, precision: str) -> str:
    """Return the device that "auto" means here.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: One of PRECISIONS, which the device must be able to do.

    Raises UsageError where the device is absent or unfit.
    """
    import torch  # as above

    if not is_device(device):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, not {device}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == AUTO_DEVICE:
        device = "cuda" if count else "cpu"
    if device.startswith("cuda"):
        wanted = int(device.partition(":")[2] or 0)
        if wanted >= count:
            raise UsageError(
                f"--device {device} is not there: this torch ({torch.__version__}) sees"
                f" {count} CUDA devices; use --device cpu, or install torch for CUDA"
            )
    elif precision in _KNOWN and _KNOWN[precision].needs_cuda:
        others = [name for name, each in _KNOWN.items() if not each.needs_cuda]
        raise UsageError(
            f"--precision {precision} needs CUDA, but the device is {device};"
            f" use {' or '.join(others)}"
        )
    return device


def resolve_precision(name: str, device: str) -> Precision:
    """Return the precision of that name, one of PRECISIONS.

    "auto" is bf16 where CUDA has it, else fp32.

    `device` is torch's name of it, or of its type.
    """
    if name == AUTO:
        import torch  # as above

        has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        name = "bf16" if has_bf16 else "fp32"
    return _KNOWN[name]
