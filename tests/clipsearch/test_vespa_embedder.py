"""embed(@text) inside Vespa gives what clipsearch computes: the deployed files, read as Vespa does.

Vespa's hugging-face-embedder tokenizes with tokenizer.json, cuts at max-tokens, sends one text
without padding as input_ids and attention_mask, takes the named output as it is (2-D, no pooling)
and brings it to unit length. https://docs.vespa.ai/en/rag/embedding.html
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny_checkpoints
from tokenizers import Tokenizer

from clipsearch.deploy import deploy
from clipsearch.deploy_options import DeployOptions
from clipsearch.encoder import Encoder
from finetune.export import export_encoder
from finetune.model import load_dual_encoder

TEXTS = ["two dogs on a beach", "a red car " * 30, "", "!!!", "Ünseen wörds 123 🙂", "two"]


def embed(package: Path, text: str) -> np.ndarray:
    """As Vespa's embedder of the package's services.xml."""
    component = ElementTree.parse(package / "services.xml").find("container/component")
    assert component is not None
    settings = {one.tag: one.get("path") or one.text for one in component}
    assert (settings["pooling-strategy"], settings["normalize"]) == ("none", "true")
    tokenizer = Tokenizer.from_file(str(package / str(settings["tokenizer-model"])))
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(str(settings["max-tokens"])))
    encoding = tokenizer.encode(text)
    session = onnxruntime.InferenceSession(package / str(settings["transformer-model"]))
    assert {one.name for one in session.get_inputs()} == {"input_ids", "attention_mask"}
    (vector,) = session.run(
        [settings["transformer-output"]],
        {
            "input_ids": np.asarray([encoding.ids], np.int64),
            "attention_mask": np.asarray([encoding.attention_mask], np.int64),
        },
    )[0]
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_embed_is_encode_texts(family: str, tmp_path: Path) -> None:
    getattr(tiny_checkpoints, f"save_{family}")(tmp_path / "checkpoint")
    export_encoder(load_dual_encoder(tmp_path / "checkpoint"), tmp_path / "encoder")
    package = tmp_path / "package"
    options = DeployOptions(encoder=tmp_path / "encoder", render=package)
    assert deploy(options, consent=lambda changes: True, say=print) is not None
    encoder = Encoder.load(tmp_path / "encoder")
    assert encoder.description.pad_to_max == (family == "siglip"), "both kinds are looked at"
    for text in TEXTS:
        wanted = encoder.encode_texts([text])[0]
        assert np.abs(embed(package, text) - wanted).max() < 1e-5, text
