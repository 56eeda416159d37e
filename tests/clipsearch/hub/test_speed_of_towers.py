"""The towers that `encoder list --speed` measures are transformers of their shape."""

import json

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from clipsearch.cli import cli
from clipsearch.hub.known import KNOWN, VisionShape
from clipsearch.hub.speed import images_per_second, random_tower

onnx = pytest.importorskip("onnx")


def normed(values: np.ndarray) -> np.ndarray:
    apart = values - values.mean(-1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5)


def naive(
    hidden: np.ndarray, weights: dict[str, np.ndarray], layers: int, heads: int
) -> np.ndarray:
    for _ in range(layers):
        query, key, value = np.split(normed(hidden) @ weights["into"], 3, axis=-1)
        seen = np.zeros_like(hidden)
        for head in range(heads):
            own = slice(head * 64, (head + 1) * 64)
            met = np.exp(query[..., own] @ key[..., own].transpose(0, 2, 1) / 8)
            seen[..., own] = met / met.sum(-1, keepdims=True) @ value[..., own]
        hidden = hidden + seen @ weights["out"]
        wide = normed(hidden) @ weights["wide"]
        hidden = hidden + (wide / (1 + np.exp(-wide))) @ weights["narrow"]
    return hidden


def test_a_random_tower_is_a_transformer_of_its_shape() -> None:
    shape = VisionShape(layers=3, width=128, tokens=7)
    model = random_tower(shape)
    onnx.checker.check_model(model)
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    images = np.random.default_rng(1).standard_normal((2, 7, 128)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"hidden_0": images})
    np.testing.assert_allclose(found, naive(images, weights, 3, 2), rtol=1e-3, atol=1e-3)
    assert images_per_second(shape) > 0


def test_speeds_are_measured_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def list_encoders(*options: str) -> str:
        return CliRunner().invoke(cli, ["encoder", "list", *options], catch_exceptions=False).stdout

    monkeypatch.setattr("clipsearch.hub.speed.images_per_second", lambda shape: 1000 / shape.tokens)
    plain, measured = list_encoders(), list_encoders("--speed")
    assert "images/s" not in plain.lower() and KNOWN[0].id in plain
    assert " 20.0\n" in measured and "random weights" in measured
    assert "images_per_second" not in json.loads(list_encoders("--json"))[0]
    assert json.loads(list_encoders("--json", "--speed"))[0]["images_per_second"] == 20.0
