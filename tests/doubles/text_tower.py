"""What Vespa's embedder does with a text and an ONNX tower."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


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
