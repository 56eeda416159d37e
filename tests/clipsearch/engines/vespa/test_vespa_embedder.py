"""embed(@text) inside Vespa gives what clipsearch computes: the deployed files, read as Vespa does.

Vespa's hugging-face-embedder tokenizes with tokenizer.json, cuts at max-tokens, sends one text
without padding as input_ids and attention_mask, takes the named output as it is (2-D, no pooling)
and brings it to unit length. https://docs.vespa.ai/en/rag/embedding.html
"""

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from text_tower import embed

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.options import DeployOptions
from clipsearch.encoder.encoder import Encoder
from finetune.export.encoder import export_encoder
from finetune.models.dual_encoder import load_dual_encoder

TEXTS = ["two dogs on a beach", "a red car " * 30, "", "!!!", "Ünseen wörds 123 🙂", "two"]


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
