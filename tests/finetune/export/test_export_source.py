"""What goes along from an encoder folder into the next, and what it may be mixed with."""

import json
import shutil

import pytest
import torch
import yaml
from tiny_checkpoints import save_clip, save_siglip

from finetune.encoder_folder import read_description
from finetune.errors import EncoderError, UsageError
from finetune.export.encoder import export_encoder
from finetune.export.source import base_of, load_source
from finetune.models.dual_encoder import load_dual_encoder

RECIPE = {"epochs": 3, "model": "openai/clip"}
METRICS = {"after": [], "split": "val"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The checkpoint that the training run started from."""
    folder = tmp_path_factory.mktemp("base") / "base"
    save_clip(folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    dual = load_dual_encoder(base)
    with torch.no_grad():
        for parameter in dual.parameters():
            parameter.add_(0.1)
    (root / "history.csv").write_text("step,loss\n")
    (root / "loss.png").write_bytes(b"png")
    files = [root / "history.csv", root / "loss.png"]
    export_encoder(dual, root / "encoder", metrics=METRICS, recipe=RECIPE, files=files)
    return root / "encoder"


@pytest.fixture
def encoder(exported, tmp_path):
    """An encoder folder with the reports of a training run, to be changed."""
    return shutil.copytree(exported, tmp_path / "encoder")


def test_reports_go_along_where_embeddings_stay(encoder, base, tmp_path) -> None:
    source = load_source(str(encoder))
    assert (source.recipe, source.metrics) == (RECIPE, METRICS)
    assert [path.name for path in source.files] == ["history.csv", "loss.png"]
    assert source.dual.base_model == str(base)
    export_encoder(
        source.dual, tmp_path / "again",
        recipe=source.recipe, metrics=source.metrics, files=source.files,
    )  # fmt: skip
    first, again = read_description(encoder), read_description(tmp_path / "again")
    assert again.fingerprint == first.fingerprint
    assert again.base_model == first.base_model
    names = [{path.name for path in folder.iterdir()} for folder in (encoder, tmp_path / "again")]
    assert names[0] == names[1]


def test_figures_stay_behind_where_embeddings_change(encoder) -> None:
    cut = load_source(str(encoder), max_tokens=7)
    assert (cut.recipe, cut.metrics, cut.files) == (RECIPE, None, ())
    mixed = load_source(str(encoder), wise_ft=0.5)
    assert (mixed.recipe, mixed.metrics, mixed.files) == (RECIPE | {"wise_ft": 0.5}, None, ())


def test_the_base_is_what_training_started_from(encoder, base) -> None:
    before = load_dual_encoder(base).model.state_dict()
    found = load_source(str(encoder), wise_ft=0.25).dual
    assert found.base_model == str(base)
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, before[name] + 0.025, atol=1e-5, rtol=0)


def test_a_base_that_is_named(encoder, base, tmp_path) -> None:
    save_clip(tmp_path / "named", seed=5)
    found = load_source(str(encoder), wise_ft=0, base=str(tmp_path / "named")).dual
    expected = load_dual_encoder(tmp_path / "named").model.state_dict()
    assert found.base_model == str(tmp_path / "named")
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    # The model need not be an encoder folder then.
    plain = load_source(str(base), wise_ft=1, base=str(tmp_path / "named"))
    assert plain.recipe == {"wise_ft": 1}


def test_a_base_of_another_kind(encoder, tmp_path) -> None:
    save_siglip(tmp_path / "siglip")
    with pytest.raises(UsageError, match=r"another vocabulary|different tensors"):
        load_source(str(encoder), wise_ft=0.5, base=str(tmp_path / "siglip"))


@pytest.mark.parametrize("name", ["tiny", "", "openai/clip + roberta-base"])
def test_a_base_that_cannot_be_loaded_again(encoder, name: str) -> None:
    description = json.loads((encoder / "encoder.json").read_text())
    (encoder / "encoder.json").write_text(json.dumps(description | {"base_model": name}))
    with pytest.raises(UsageError, match="name the model to mix with by --base"):
        base_of(str(encoder))


def test_a_checkpoint_does_not_say_what_it_started_from(base) -> None:
    with pytest.raises(UsageError, match=r"is no encoder folder.* by --base"):
        load_source(str(base), wise_ft=0.5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("recipe.yaml", "a: [", "recipe.yaml: cannot be read"),
        ("recipe.yaml", "- a", "holds no mapping"),
        ("metrics.json", "{", "metrics.json: cannot be read"),
    ],
)
def test_reports_that_cannot_be_read(encoder, file: str, content: str, message: str) -> None:
    (encoder / file).write_text(content)
    with pytest.raises(EncoderError, match=message) as caught:
        load_source(str(encoder))
    assert "\n" not in str(caught.value)


def test_a_recipe_without_figures(encoder) -> None:
    (encoder / "metrics.json").unlink()
    (encoder / "recipe.yaml").write_text(yaml.safe_dump({"epochs": 1}))
    source = load_source(str(encoder))
    assert (source.recipe, source.metrics) == ({"epochs": 1}, None)
