"""How fast an image tower of a shape is on this machine, without its weights.

A transformer of that shape is made with random weights, the same for each of its layers, and run by
ONNX Runtime as a feed runs towers. How patches are cut, and images read, is not counted: products
of matrices are nearly all of a tower's time.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from clipsearch.hub.known import VisionShape
from finetune.arrays import Float32

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_HEAD_WIDTH = 64
_IMAGES = 2
_RUNS = 2
# Seconds after which no further run is waited for.
_ENOUGH = 1.0
# Old enough for every ONNX Runtime that may be installed, and with LayerNormalization.
_OPSET, _IR = 17, 8
_INPUT = "hidden_0"


@cache
def images_per_second(shape: VisionShape) -> float:
    """Return images a second of a random tower of this shape: the better of two short runs.

    Raises ModuleNotFoundError where onnx is not installed.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        random_tower(shape).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    made = np.random.default_rng(0)
    images = made.standard_normal((_IMAGES, shape.tokens, shape.width), np.float32)
    session.run(None, {_INPUT: images[:1]})  # the first run makes room
    best, started = math.inf, time.perf_counter()
    for _ in range(_RUNS):
        start = time.perf_counter()
        session.run(None, {_INPUT: images})
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - started > _ENOUGH:
            break
    return _IMAGES / best


def random_tower(shape: VisionShape) -> "ModelProto":
    """Return a transformer of this shape, from float32[n, tokens, width] to the same."""
    from onnx import TensorProto, helper, numpy_helper  # of the extra finetune

    size = ("n", shape.tokens, shape.width)
    nodes = [node for number in range(shape.layers) for node in _layer(number)]
    graph = helper.make_graph(
        nodes,
        "random_tower",
        [helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(f"hidden_{shape.layers}", TensorProto.FLOAT, size)],
        [numpy_helper.from_array(value, name) for name, value in _weights(shape).items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, ir_version=_IR, opset_imports=opsets)


def _weights(shape: VisionShape) -> Mapping[str, Any]:
    """Return the weights of all layers, scaled so that values stay of the size of a trained one."""
    made, width = np.random.default_rng(0), shape.width

    def matrix(rows: int, columns: int) -> Float32:
        drawn: Float32 = made.standard_normal((rows, columns), np.float32)
        return drawn / np.float32(math.sqrt(rows))

    return {
        "scale": np.ones(width, np.float32),
        "into": matrix(width, 3 * width),
        "out": matrix(width, width),
        "wide": matrix(width, 4 * width),
        "narrow": matrix(4 * width, width),
        "of_heads": np.array([0, 0, width // _HEAD_WIDTH, _HEAD_WIDTH], np.int64),
        "of_tokens": np.array([0, 0, width], np.int64),
        "temper": np.float32(1 / math.sqrt(_HEAD_WIDTH)),
    }


def _layer(number: int) -> "list[NodeProto]":
    """Return the nodes of a layer: attention, then two products with a bend between them."""
    from onnx import helper

    def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **how: Any) -> "NodeProto":
        return helper.make_node(
            kind, [own(name) for name in inputs], list(map(own, outputs)), **how
        )

    def own(name: str) -> str:
        return name if name in _SHARED else f"{name}_{number}"

    after = f"hidden_{number + 1}"
    nodes = [
        node("LayerNormalization", ["hidden", "scale"], ["normed"]),
        node("MatMul", ["normed", "into"], ["joined"]),
        node("Split", ["joined"], ["q", "k", "v"], axis=2),
    ]
    for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            node("Reshape", [name, "of_heads"], [f"{name}_cut"]),
            node("Transpose", [f"{name}_cut"], [f"{name}_heads"], perm=order),
        ]
    nodes += [
        node("MatMul", ["q_heads", "k_heads"], ["met"]),
        node("Mul", ["met", "temper"], ["tempered"]),
        node("Softmax", ["tempered"], ["attention"], axis=-1),
        node("MatMul", ["attention", "v_heads"], ["seen"]),
        node("Transpose", ["seen"], ["seen_tokens"], perm=(0, 2, 1, 3)),
        node("Reshape", ["seen_tokens", "of_tokens"], ["seen_whole"]),
        node("MatMul", ["seen_whole", "out"], ["attended"]),
        node("Add", ["hidden", "attended"], ["between"]),
        node("LayerNormalization", ["between", "scale"], ["normed_between"]),
        node("MatMul", ["normed_between", "wide"], ["widened"]),
        node("Sigmoid", ["widened"], ["gate"]),
        node("Mul", ["widened", "gate"], ["bent"]),
        node("MatMul", ["bent", "narrow"], ["narrowed"]),
    ]
    last = helper.make_node("Add", [own("between"), own("narrowed")], [after])
    return [*nodes, last]


_SHARED = ("scale", "into", "out", "wide", "narrow", "of_heads", "of_tokens", "temper")
