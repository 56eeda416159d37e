"""An encoder folder of a few hundred kilobytes: a CLIP of seeded random weights, not trained.

Made directly with torch and transformers, apart from finetune.export.encoder, so that the two can
be
tested against each other. Like texts and like pictures have like embeddings; a text and a
picture have nothing to do with each other.
"""

import json
import warnings
from pathlib import Path

from finetune.encoder_folder import (
    IMAGE_TOWER,
    TEXT_TOWER,
    EncoderDescription,
    fingerprint,
    write_description,
)
from finetune.images.preprocessing import Preprocessing
from finetune.images.processor_config import preprocessor_config

DIMENSION = 32
MAX_TOKENS = 16
PREPROCESSING = Preprocessing(
    height=32,
    width=32,
    resize="shortest-edge",
    resize_to=32,
    resample="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
WORDS = """
a an the of on in with and two three four red green blue yellow black white grey circle
square triangle star dog dogs cat cats beach airport plane planes car boat tree house
river
"""
PAD, UNKNOWN, START, END = range(4)


def build_encoder(folder: Path, *, seed: int = 0, name: str = "tiny") -> EncoderDescription:
    """Write the folder (made where it is missing); another seed gives another fingerprint."""
    # Heavy, and only tests that ask for an encoder need them.
    import torch
    from transformers import CLIPModel

    torch.set_num_threads(1)
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = CLIPModel(_config()).eval()
    model.save_pretrained(folder)
    with warnings.catch_warnings():
        # The tracer warns of every branch on a shape, and the exporter of its own age.
        warnings.simplefilter("ignore")
        _export_towers(model, folder)
    _write_tokenizer(folder)
    config = preprocessor_config(PREPROCESSING, "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    description = EncoderDescription(
        family="clip",
        name=name,
        dimension=DIMENSION,
        max_tokens=MAX_TOKENS,
        pad_to_max=False,
        pad_token_id=PAD,
        preprocessing=PREPROCESSING,
        onnx_max_difference={"text": 0.0, "image": 0.0},
        fingerprint=fingerprint(folder),
        base_model="tiny",
    )
    write_description(folder, description)
    return description


def _config():
    from transformers import CLIPConfig

    # initializer_factor: with the default weights, all pictures have nearly the same embedding.
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": DIMENSION,
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_factor": 4.0,
    }
    text = {
        "vocab_size": END + 1 + len(WORDS.split()),
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    vision = {"image_size": PREPROCESSING.height, "patch_size": 8}
    return CLIPConfig(
        text_config=shape | text, vision_config=shape | vision, projection_dim=DIMENSION
    )


def _export_towers(model, folder: Path) -> None:
    import torch
    from torch.nn.functional import normalize

    class TextTower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            output = self.model.get_text_features(input_ids, attention_mask=attention_mask)
            return normalize(output.pooler_output, dim=-1)

    class ImageTower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return normalize(self.model.get_image_features(pixel_values).pooler_output, dim=-1)

    ids = torch.tensor([[START, 5, 6, END], [START, 7, END, PAD]])
    text_axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        TextTower(),
        (ids, (ids != PAD).long()),
        str(folder / TEXT_TOWER),
        input_names=["input_ids", "attention_mask"],
        output_names=["text_embeds"],
        dynamic_axes={
            "input_ids": text_axes,
            "attention_mask": text_axes,
            "text_embeds": {0: "batch"},
        },
        opset_version=17,
        dynamo=False,
    )
    torch.onnx.export(
        ImageTower(),
        (torch.zeros(2, 3, PREPROCESSING.height, PREPROCESSING.width),),
        str(folder / IMAGE_TOWER),
        input_names=["pixel_values"],
        output_names=["image_embeds"],
        dynamic_axes={"pixel_values": {0: "batch"}, "image_embeds": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["<pad>", "<unk>", "<start>", "<end>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", START), ("<end>", END)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_TOKENS,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<start>",
        "eos_token": "<end>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
