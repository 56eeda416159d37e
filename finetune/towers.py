"""The two towers of a dual encoder, and the precisions in which they are kept and run."""

import re
from typing import Literal, get_args

TowerName = Literal["image", "text"]
TOWERS: tuple[TowerName, ...] = get_args(TowerName)
# Between the two names of a dual encoder's base models.
TWO_TOWERS = " + "
FP32, FP16, BF16, INT8 = "fp32", "fp16", "bf16", "int8"
ONNX_PRECISIONS = (FP32, FP16, INT8)
ENCODING_PRECISIONS = (FP32, BF16)

# Where towers run: auto is a GPU where torch finds one, else the CPU.
AUTO_DEVICE = "auto"
DEVICE_FORMS = "auto|cpu|cuda|cuda:N"


def is_device(name: str) -> bool:
    """Return whether a device's name has one of the forms of DEVICE_FORMS."""
    return re.fullmatch(r"auto|cpu|cuda(:\d+)?", name, re.ASCII) is not None
