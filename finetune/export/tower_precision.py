"""ONNX towers in fewer bits: int8 weights, or half precision throughout."""

import logging
from pathlib import Path

import onnxruntime

from finetune.errors import ClipsearchError
from finetune.towers import INT8

# Matrix products and the table of tokens: nearly all of the weights. ONNX Runtime's quantised
# convolution, of the patches alone, is slower than that in float32.
QUANTIZED = ["MatMul", "Gemm", "Gather"]


def lower_precision(tower: Path, precision: str) -> None:
    """Rewrite an ONNX tower in "fp16" or "int8"; inputs and outputs stay what they are.

    int8 is ONNX Runtime's dynamic quantisation: weights in 7 of 8 bits, a scale a channel, since
    processors without VNNI overflow in silence with all 8; activations are quantised while it
    runs. A quarter of the size. fp16 is half of the size, for runtimes that compute in it; the CPU
    computes most of it in float32.

    Raises ClipsearchError where the tower has something in it that cannot be converted.
    """
    smaller = tower.with_suffix(".smaller")
    try:
        if precision == INT8:
            _quantize(tower, smaller)
        else:
            _halve(tower, smaller)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ClipsearchError(
            f"{tower.name}: cannot be brought to {precision} ({error}) with onnxruntime"
            f" {onnxruntime.__version__}; export it without --precision"
        ) from error
    smaller.replace(tower)


def _quantize(tower: Path, smaller: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # onnx, and --precision alone

    disabled = logging.root.manager.disable
    # Of a preparation that folds batch norms and reshapes, which towers traced by torch have not.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(
            tower,
            smaller,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=QUANTIZED,
        )
    finally:
        logging.disable(disabled)


def _halve(tower: Path, smaller: Path) -> None:
    import onnx  # seconds, and --precision alone
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(onnx.load(tower), keep_io_types=True)
    onnx.save(halved, smaller)
