"""The factor by which an encoder multiplies cosines before a softmax, from its checkpoint.

Read from the header of the safetensors file (https://huggingface.co/docs/safetensors), without
torch and without the weights.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np

from finetune.errors import EncoderError

CHECKPOINT = "model.safetensors"
NAME = "logit_scale"

_MAX_HEADER = 100 << 20  # the format's own limit
_DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def read_logit_scale(folder: Path) -> float | None:
    """Return exp(logit_scale) of the checkpoint in an encoder folder; None where it has none.

    Raises EncoderError for a checkpoint that cannot be read, or a factor that is no number.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        logarithm = _logarithm(path)
    except (OSError, ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise EncoderError(f"{path}: cannot be read ({error}); export the encoder again") from error
    if logarithm is None:
        return None
    if not -100 < logarithm < 100:
        raise EncoderError(
            f"{path}: its {NAME} is {logarithm:g}, which makes no probabilities; train or export"
            f" the encoder again"
        )
    return math.exp(logarithm)


def _logarithm(path: Path) -> float | None:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > _MAX_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        header = json.loads(file.read(size))
        if NAME not in header:
            return None
        start, end = header[NAME]["data_offsets"]
        file.seek(8 + size + start)
        data = file.read(end - start)
    if header[NAME]["dtype"] == "BF16":  # the upper half of a float32
        return float(np.frombuffer(b"\0\0" + data, "<f4")[0])
    return float(np.frombuffer(data, _DTYPES[header[NAME]["dtype"]])[0])
