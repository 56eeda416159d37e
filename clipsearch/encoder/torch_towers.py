"""The towers of an encoder folder on torch, for machines with a GPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finetune.arrays import Float32, Int64
from finetune.errors import UsageError
from finetune.installing import install_command
from finetune.memory import raise_too_little
from finetune.towers import BF16, FP32

if TYPE_CHECKING:
    import torch

# Embeddings in another precision may be so far from those in float32, and no farther.
LEAST_COSINE = 0.9999


class TorchTowers:
    """The folder's transformers checkpoint in float32; equal to the ONNX towers to 1e-3.

    Runs may overlap, from several threads: one's images are on their way to the GPU while
    another's are embedded. With `precision` "bf16" the image tower's matrices, and what they are
    multiplied with, are in bfloat16; the first images are embedded both ways, and where an
    embedding is too far from that in float32 the tower stays in float32.

    Attributes:
        gives_patches: Whether the image tower is of a kind whose patches can be embedded.
    """

    def __init__(self, folder: Path, device: str, precision: str = FP32) -> None:
        try:
            # The extra may be missing, which is said in one sentence.
            import torch

            from finetune.data.tensors import Normalizer
            from finetune.models.dual_encoder import load_dual_encoder
            from finetune.models.patches import embed_patches, gives_patches
        except ImportError as error:
            raise UsageError(
                f"--device {device} needs torch and transformers ({error});"
                f" install them with: {install_command('finetune')}"
            ) from error
        on_gpu = device.startswith("cuda")
        if on_gpu and not torch.cuda.is_available():
            raise UsageError(
                f"--device {device}: torch finds no CUDA device; take --device cpu, or install the"
                f" driver and a build of torch for CUDA"
            )
        if on_gpu and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            raise UsageError(
                f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices, counted"
                f" from 0; take one of them"
            )
        if on_gpu and precision == BF16 and not torch.cuda.is_bf16_supported():
            raise UsageError(f"--precision {BF16}: this GPU has no bfloat16; take {FP32}")
        self._device = torch.device(device)
        self._torch = torch
        with self._memory():
            self._model = load_dual_encoder(folder.resolve()).to(device).eval()
        self.gives_patches = gives_patches(self._model)
        self._embed_patches = partial(embed_patches, self._model)
        self._normalizer = Normalizer(self._model.preprocessing, self._device)
        if on_gpu:
            # The threads' own streams know nothing of the one that the weights came on.
            torch.cuda.synchronize(self._device)
        self._precision = FP32
        self._wanted = precision
        self._least_cosine: float | None = None
        self._measured = 0
        self._lock = threading.Lock()
        self._of_thread = threading.local()

    def texts(self, input_ids: Int64, attention_mask: Int64) -> Float32:
        """Encode int64[n, t] and int64[n, t] as float32[n, d], unit length."""
        torch = self._torch
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        made = self._model.mask_on_host(ids, mask)
        with torch.inference_mode(), self._memory():
            moved = None if made is None else made.to(self._device)
            return _array(self._model.embed_texts(ids.to(self._device), moved))

    def images(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, d], unit length.

        The pixels become floats on the device.
        """
        with self._torch.inference_mode(), self._memory(), self._own_stream():
            moved = self._normalizer.moved(pixels)
            # Work is queued by one thread at a time, and waited for by each on its own.
            with self._lock:
                if self._wanted != self._precision:
                    self._change_precision(moved)
                embedded = self._embed(moved, self._precision)
            return _array(embedded)

    def patches(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, rows, columns, d], each of unit length."""
        with self._torch.inference_mode(), self._memory(), self._own_stream():
            moved = self._normalizer.moved(pixels)
            with self._lock:
                embedded = self._embed(moved, self._precision, self._embed_patches)
            return _array(embedded)

    @property
    def note(self) -> str | None:
        """A sentence for the user about the precision; None in float32, and before any image."""
        if self._least_cosine is None:
            return None
        measured = (
            f"the least cosine of an embedding in {BF16} to the same in {FP32} is"
            f" {self._least_cosine:.6f}, of the first {self._measured:,} images"
        )
        if self._precision == BF16:
            return measured
        return f"{measured}, below {LEAST_COSINE}: all are embedded in {FP32}"

    def _embed(
        self,
        moved: "torch.Tensor",
        precision: str,
        embed: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
    ) -> "torch.Tensor":
        torch = self._torch
        # The patches are cut by a convolution, which torch would do in TF32 (10 bits) on a GPU.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        half = torch.autocast(self._device.type, torch.bfloat16, enabled=precision == BF16)
        with exact, half:
            return (embed or self._model.embed_images)(self._normalizer.normalized(moved))

    def _change_precision(self, moved: "torch.Tensor") -> None:
        """Bring the image tower to bfloat16, unless these images show that it must not be."""
        from finetune.models.speed import cast_layers

        expected = self._embed(moved, FP32)
        weights = cast_layers(self._model.model.vision_model, self._torch.bfloat16)
        found = self._embed(moved, BF16)
        # Both are of unit length.
        self._least_cosine = float((expected.double() * found.double()).sum(dim=1).min())
        self._measured = len(moved)
        self._precision = self._wanted
        # Written so that NaN fails too.
        if not self._least_cosine >= LEAST_COSINE:
            self._precision = self._wanted = FP32
            for parameter, value in weights:
                parameter.data = value

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Name it where the memory of the device is too little: torch's own error is a page."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            raise_too_little(error, f"device {self._device}")
            raise

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Use a stream of this thread, so that its copies and its waiting are beside the others'
        work.
        """
        with ExitStack() as stack:
            if self._device.type == "cuda":
                cuda = self._torch.cuda
                if not hasattr(self._of_thread, "stream"):
                    self._of_thread.stream = cuda.Stream(self._device)
                stack.enter_context(cuda.stream(self._of_thread.stream))
            yield


def _array(embeddings: "torch.Tensor") -> Float32:
    array: Float32 = embeddings.float().cpu().numpy()
    return array
