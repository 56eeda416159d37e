"""One step's tensors, and how pixels get to the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from finetune.arrays import Pixels
from finetune.images.preprocessing import Preprocessing

# Images [k, 3, h, w], uint8, of these rows of a batch to float32 in 0..1, varied.
Vary = Callable[[torch.Tensor, slice], torch.Tensor]


class PixelValues(Protocol):
    """Normalised images of a batch, whole or made when asked for: a tensor is one."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Return float32[k, 3, h, w] of some of them."""
        ...


@dataclass(frozen=True, slots=True)
class TensorBatch:
    """One step's tensors on the device.

    Attributes:
        pixel_values: float32[b, 3, h, w], or what gives it for a slice.
        input_ids: int64[b, t].
        attention_mask: What `DualEncoder.embed_texts` takes, a row a text; None where it needs
            none.
        positives: bool[b, b], true where the text (column) describes the image (row). Of the
            joint batch where several processes share one.
    """

    pixel_values: PixelValues
    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    positives: torch.Tensor

    def texts(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return token ids and mask of some of the texts."""
        mask = self.attention_mask
        return self.input_ids[rows], None if mask is None else mask[rows]

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield all that are on the device."""
        pixels = self.pixel_values
        yield pixels.pixels if isinstance(pixels, PixelsOnDevice) else pixels[:]
        yield self.input_ids
        yield self.positives
        if self.attention_mask is not None:
            yield self.attention_mask


class Normalizer:
    """uint8[b, h, w, 3] to float32[b, 3, h, w] on the device, as
    `finetune.images.pixels.normalize`."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        std = np.array(preprocessing.std)
        scale, shift = 1 / (255 * std), np.array(preprocessing.mean) / std
        self.device = device
        self._scale = torch.tensor(scale, dtype=torch.float32, device=device)[:, None, None]
        self._shift = torch.tensor(shift, dtype=torch.float32, device=device)[:, None, None]

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """Move and normalise; a quarter of the bytes move that floats would need."""
        return self.normalized(self.moved(pixels))

    def moved(self, pixels: Pixels) -> torch.Tensor:
        """Return uint8[b, 3, h, w] on the device."""
        return to_device(pixels, self.device).permute(0, 3, 1, 2)

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn uint8[b, 3, h, w] into float32."""
        return pixels.contiguous().float().mul_(self._scale).sub_(self._shift)

    def normalized_shares(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the same of float32 in 0..1, in place."""
        return pixels.mul_(255 * self._scale).sub_(self._shift)


@dataclass(frozen=True, slots=True)
class PixelsOnDevice:
    """uint8[b, 3, h, w] that become floats, varied, only where they are needed.

    A large batch whose gradients are taken chunk by chunk never is in memory as floats.
    """

    pixels: torch.Tensor
    normalizer: Normalizer
    vary: Vary | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Return float32[k, 3, h, w], the same for the same rows each time."""
        if self.vary is None:
            return self.normalizer.normalized(self.pixels[rows])
        return self.normalizer.normalized_shares(self.vary(self.pixels[rows], rows))


def to_device(values: npt.NDArray[np.generic] | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device; the copy to a GPU does not wait for it."""
    tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
