"""The towers of an encoder folder on torch, for machines with a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.errors import UsageError
from finetune.memory import raise_too_little

if TYPE_CHECKING:
    import torch


class TorchTowers:
    """The folder's transformers checkpoint in float32; equal to the ONNX towers to 1e-3."""

    def __init__(self, folder: Path, device: str) -> None:
        try:
            # The extra may be missing, which is said in one sentence.
            import torch

            from finetune.models.dual_encoder import load_dual_encoder
        except ImportError as error:
            raise UsageError(
                f"--device cuda needs torch and transformers ({error});"
                f' install them with: pip install "clipsearch[finetune]"'
            ) from error
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                "--device cuda: torch finds no CUDA device; take --device cpu, or install the"
                " driver and a build of torch for CUDA"
            )
        self._device = device
        self._torch = torch
        with self._memory():
            self._model = load_dual_encoder(folder.resolve()).to(device).eval()

    def texts(self, input_ids: Int64, attention_mask: Int64) -> Float32:
        """int64[n, t] and int64[n, t] to float32[n, d], unit length."""
        with self._torch.inference_mode(), self._memory():
            return self._array(
                self._model.embed_texts(self._move(input_ids), self._move(attention_mask))
            )

    def images(self, pixel_values: npt.NDArray[np.float32]) -> Float32:
        """float32[n, 3, h, w] to float32[n, d], unit length."""
        # The patches are cut by a convolution, which torch would do in TF32 (10 bits) on a GPU.
        exact = self._torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with self._torch.inference_mode(), self._memory(), exact:
            return self._array(self._model.embed_images(self._move(pixel_values)))

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Name it where the memory of the device is too little: torch's own error is a page."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            raise_too_little(error, f"device {self._device}")
            raise

    def _move(self, values: npt.NDArray[np.generic]) -> "torch.Tensor":
        return self._torch.from_numpy(values).to(self._device)

    def _array(self, embeddings: "torch.Tensor") -> Float32:
        array: Float32 = embeddings.float().cpu().numpy()
        return array
