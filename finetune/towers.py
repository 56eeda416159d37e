"""The two towers of a dual encoder, and the precisions in which they are kept and run."""

from typing import Literal, get_args

TowerName = Literal["image", "text"]
TOWERS: tuple[TowerName, ...] = get_args(TowerName)
# Between the two names of a dual encoder's base models.
TWO_TOWERS = " + "
FP32, FP16, BF16, INT8 = "fp32", "fp16", "bf16", "int8"
ONNX_PRECISIONS = (FP32, FP16, INT8)
ENCODING_PRECISIONS = (FP32, BF16)
