"""The towers of an encoder folder on ONNX Runtime."""

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from finetune.arrays import Float32, Int64
from finetune.encoder_folder import IMAGE_TOWER, PATCH_TOWER, TEXT_TOWER, EncoderDescription
from finetune.errors import EncoderError
from finetune.images.pixels import normalize
from finetune.memory import raise_too_little

FATAL = 4


class OnnxTowers:
    """All towers, each loaded at its first use. Runs may overlap, from several threads."""

    def __init__(self, folder: Path, description: EncoderDescription, threads: int) -> None:
        self._folder = folder
        self._preprocessing = description.preprocessing
        outputs = description.tower_outputs
        self._outputs = {TEXT_TOWER: outputs.get("text"), IMAGE_TOWER: outputs.get("image")}
        self._divides = not description.unit_length
        self._threads = threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = threading.Lock()

    def texts(self, input_ids: Int64, attention_mask: Int64) -> Float32:
        """Encode int64[n, t] and int64[n, t] as float32[n, d], unit length."""
        return self._run(TEXT_TOWER, {"input_ids": input_ids, "attention_mask": attention_mask})

    def images(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, d], unit length."""
        return self._run(IMAGE_TOWER, {"pixel_values": normalize(pixels, self._preprocessing)})

    @property
    def gives_patches(self) -> bool:
        """Whether the export wrote a tower for patches."""
        return (self._folder / PATCH_TOWER).is_file()

    def patches(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """Encode uint8[n, h, w, 3] as float32[n, rows, columns, d], each of unit length."""
        return self._run(PATCH_TOWER, {"pixel_values": normalize(pixels, self._preprocessing)})

    @property
    def note(self) -> str | None:
        """Nothing that a user should know of how they ran."""
        return None

    def _run(self, tower: str, inputs: dict[str, npt.NDArray[np.generic]]) -> Float32:
        session = self._session(tower)
        # A SigLIP text tower attends to its padding, and its graph may have no mask at all.
        names = {node.name for node in session.get_inputs()}
        try:
            output_name = self._outputs.get(tower)
            wanted = None if output_name is None else [output_name]
            (output,) = session.run(wanted, {k: v for k, v in inputs.items() if k in names})
        except Exception as error:
            # The runtime's exceptions share no class of their own.
            raise_too_little(error, str(self._folder / tower))
            reason = " ".join(str(error).split())
            raise EncoderError(f"{self._folder / tower}: failed ({reason})") from error
        embeddings: Float32 = output.astype(np.float32, copy=False)
        if self._divides:
            # A vector that is no direction stays as it is, and is refused by its length.
            lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
            lengths[lengths == 0] = 1
            embeddings = embeddings / lengths
        return embeddings

    def _session(self, tower: str) -> onnxruntime.InferenceSession:
        with self._lock:
            if tower not in self._sessions:
                self._sessions[tower] = self._load(tower)
            return self._sessions[tower]

    def _load(self, tower: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Waiting threads sleep: the workers that decode images need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = FATAL
        path = self._folder / tower
        try:
            return onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise_too_little(error, str(path))
            reason = " ".join(str(error).split())
            raise EncoderError(
                f"{path}: ONNX Runtime cannot load it ({reason}); export the encoder again"
            ) from error
