"""`clipsearch export` through the real entry point; uploads go to a stub of the hub over HTTP."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from clipsearch_command import CLIPSEARCH
from hub_stub import HubStub, hub_stub
from safetensors.torch import load_file
from tiny_checkpoints import save_clip, save_roberta

from clipsearch.cli.export import export as export_command
from finetune.encoder_folder import check_fingerprint, read_description
from finetune.export.encoder import export_encoder
from finetune.models.dual_encoder import load_dual_encoder

TOKEN = "hf_of_nobody"


@pytest.fixture
def hub():
    with hub_stub() as stub:
        yield stub


@pytest.fixture
def folder(encoder_folder, tmp_path):
    """A copy of the encoder folder, with what a training run leaves in it."""
    copy = tmp_path / "encoder"
    shutil.copytree(encoder_folder, copy)
    recipe = {"manifest": str(tmp_path / "birds.csv"), "model": "openai/clip", "epochs": 3}
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (copy / "rejected.csv").write_text("/home/ann/secret.jpg,unreadable\n")
    (copy / "changes.html").write_text("pictures of ann's")
    (copy / "changes.png").write_bytes(b"pictures of ann's")
    (copy / "README.md").write_text("---\nlibrary_name: transformers\n---\n# Birds\n")
    (copy / ".DS_Store").write_text("rubbish")
    description = json.loads((copy / "encoder.json").read_text())
    description["base_model"] = str(tmp_path / "clip") + " + roberta-base"
    (copy / "encoder.json").write_text(json.dumps(description))
    return copy


def export(*arguments, hub: HubStub | None = None, **environment) -> subprocess.CompletedProcess:
    found = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    if hub is not None:
        found |= {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [*CLIPSEARCH, "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in (found | environment).items() if value is not None},
    )


def assert_refused(done: subprocess.CompletedProcess, message: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_encoder_folder_is_uploaded_as_it_is(folder, hub, tmp_path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = export(folder, "--push", "me/birds", "--private", hub=hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"uploaded: {hub.url}/me/birds\n"
    assert done.stderr == f"Uploading {folder} to me/birds …\n", "no bars where nobody looks"
    assert hub.private == {"me/birds": True}
    assert hub.tokens <= {f"Bearer {TOKEN}", None}
    assert hub.messages == ["Upload encoder with clipsearch"]
    names = {path.relative_to(folder).as_posix() for path in before}
    assert names - set(hub.files) == {"rejected.csv", "changes.html", "changes.png", ".DS_Store"}
    changed = {name for name, content in hub.files.items() if content != before[folder / name]}
    assert changed == {"recipe.yaml", "encoder.json"}
    # Nobody else learns how the folders on this machine are called.
    assert not any(str(tmp_path).encode() in content for content in hub.files.values())
    recipe = yaml.safe_load(hub.files["recipe.yaml"])
    assert recipe == {"manifest": "birds.csv", "model": "openai/clip", "epochs": 3}
    (tmp_path / "downloaded").mkdir()
    for name, content in hub.files.items():
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    description = read_description(tmp_path / "downloaded")
    check_fingerprint(tmp_path / "downloaded", description)
    assert description.base_model == "clip + roberta-base"
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_upload_goes_to_the_same_repository(folder, hub) -> None:
    first = export(folder, "--push", "me/birds", hub=hub)
    again = export(folder, "--push", "me/birds", "--json", hub=hub)
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    answer = json.loads(again.stdout)
    assert answer["pushed"] == f"{hub.url}/me/birds"
    assert (answer["out"], answer["fingerprint"]) == (None, read_description(folder).fingerprint)
    assert hub.private == {"me/birds": False}


@pytest.mark.parametrize(
    ("where", "status", "message", "code"),
    [
        ("/api/repos/create", 401, "refused your token (401); take one that may write to me", 2),
        ("/api/repos/create", 403, "refused your token (403)", 2),
        ("/preupload/", 404, "there is no such owner, or your token may not write there", 2),
        ("/preupload/", 400, "the hub refused (400: no good); ", 1),
        ("/objects/batch", 507, "the hub refused (507: no good)", 1),
        ("/lfs/", 400, "400", 1),
        ("/commit/", 500, "the hub refused (500: no good)", 1),
    ],
)
def test_a_hub_that_refuses(folder, hub, where: str, status: int, message: str, code: int) -> None:
    hub.refuse[where] = (status, "no good")
    done = export(folder, "--push", "me/birds", hub=hub)
    assert_refused(done, message, code)
    assert "--push me/birds: " in done.stderr
    assert TOKEN not in done.stderr
    assert hub.files == {}
    if code == 1:
        assert f"{folder} is whole, so push again" in done.stderr


def test_a_hub_out_of_reach(folder) -> None:
    done = export(
        folder, "--push", "me/birds", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0"
    )
    assert_refused(done, "the hub cannot be reached", 1)


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("birds", "give the owner too, as in me/birds"),
        ("me/my/birds", "is no id of a hub repository"),
        ("me/-birds", "is no id of a hub repository"),
    ],
)
def test_names_that_cannot_be(folder, hub, repo: str, message: str) -> None:
    assert_refused(export(folder, "--push", repo, hub=hub), message)
    assert hub.requests == []


def test_without_a_token_or_a_network_nothing_is_begun(folder, hub, tmp_path) -> None:
    done = export(
        folder, "--push", "me/birds", hub=hub, HF_TOKEN=None, XDG_CACHE_HOME=str(tmp_path)
    )
    assert_refused(done, "--push needs a token that may write; set HF_TOKEN")
    done = export(folder, "--push", "me/birds", hub=hub, HF_HUB_OFFLINE="1")
    assert_refused(done, "HF_HUB_OFFLINE is set; unset it")
    assert hub.requests == []


def test_a_changed_folder_is_not_uploaded(folder, hub) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert_refused(export(folder, "--push", "me/birds", hub=hub), "a file was changed", 1)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "is an encoder folder already; say what to do with it: --push"),
        (["--private", "--out", "x"], "--private says how --push makes a repository"),
        (["--base", "a/b", "--out", "x"], "--base is what --wise-ft mixes with"),
        (["--text-model", "r", "--wise-ft", "0.5"], "--wise-ft cannot be had with --text-model"),
        (["--text-model", "r", "--open-clip", "x"], "--open-clip cannot be had with --text-model"),
        (["--out", "x", "--open-clip", "./x"], "--out and --open-clip are both x"),
        (["--out", "{folder}"], "which is read here; name another place"),
        (["--wise-ft", "1.5"], "--wise-ft must be a number from 0 to 1, not 1.5"),
    ],
)
def test_options_that_cannot_work_together(folder, tmp_path, options: list, message: str) -> None:
    done = export(folder, *[option.format(folder=folder) for option in options])
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


def test_an_open_clip_folder_is_replaced_only_when_told_to(folder, tmp_path) -> None:
    (tmp_path / "oc").mkdir()
    (tmp_path / "oc" / "open_clip_config.json").write_text("{}")
    done = export(folder, "--open-clip", tmp_path / "oc")
    assert_refused(done, "already holds a checkpoint; replace it with --overwrite")


def trained(tmp_path):
    """An encoder folder of other weights than the checkpoint that its training started from."""
    save_clip(tmp_path / "base", seed=1)
    save_clip(tmp_path / "other", seed=2)
    dual = load_dual_encoder(tmp_path / "other")
    dual.base_model = str(tmp_path / "base")
    export_encoder(
        dual, tmp_path / "trained", recipe={"epochs": 3}, metrics={"after": [], "split": "val"}
    )
    return tmp_path / "trained"


def test_weights_mixed_with_the_base_in_both_layouts(tmp_path) -> None:
    encoder, mixed, oc = trained(tmp_path), tmp_path / "mixed", tmp_path / "oc"
    done = export(
        encoder, "--wise-ft", 0.25, "--out", mixed, "--open-clip", oc, "--json", "--license", "mit"
    )
    assert done.returncode == 0, done.stderr
    assert f"Weights: 0.75 × {tmp_path / 'base'} + 0.25 × {encoder}" in done.stderr
    answer = json.loads(done.stdout)
    assert (answer["out"], answer["open_clip"], answer["pushed"]) == (str(mixed), str(oc), None)
    description = read_description(mixed)
    check_fingerprint(mixed, description)
    assert answer["fingerprint"] == description.fingerprint
    assert description.base_model == str(tmp_path / "base")
    assert yaml.safe_load((mixed / "recipe.yaml").read_text()) == {"epochs": 3, "wise_ft": 0.25}
    assert not (mixed / "metrics.json").exists(), "they were those of other weights"
    assert "license: mit" in (mixed / "README.md").read_text()
    assert "license: mit" in (oc / "README.md").read_text()
    base = load_file(tmp_path / "base" / "model.safetensors")
    tuned = load_file(encoder / "model.safetensors")
    for folder in (mixed, oc):
        for name, value in load_dual_encoder(folder).model.state_dict().items():
            expected = 0.75 * base[name].double() + 0.25 * tuned[name].double()
            torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-6)


def test_two_checkpoints_become_one_and_are_uploaded(tmp_path, hub) -> None:
    save_clip(tmp_path / "clip")
    save_roberta(tmp_path / "roberta")
    out = tmp_path / "start"
    done = export(
        tmp_path / "clip", "--text-model", tmp_path / "roberta", "--out", out,
        "--push", "me/start", hub=hub,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "into the common space are from scratch: train the result" in done.stderr
    assert len(done.stderr.splitlines()) == 4, "nothing but our own lines"
    assert read_description(out).family == "vision-text-dual-encoder"
    assert "its projections into the common space are random" in (out / "README.md").read_text()
    assert hub.files["model.safetensors"] == (out / "model.safetensors").read_bytes()
    assert done.stdout.splitlines()[-1] == f"uploaded: {hub.url}/me/start"


def test_an_open_clip_folder_alone_is_what_is_uploaded(tmp_path, monkeypatch) -> None:
    uploaded = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.export.hub.check_push", lambda repo: None)
    monkeypatch.setattr(
        "finetune.export.hub.push", lambda *what, private: uploaded.append(what) or "url"
    )
    save_clip(tmp_path / "clip")
    arguments = ["clip", "--open-clip", "oc", "--name", "Birds", "--push", "me/oc"]
    done = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert uploaded == [(Path("oc"), "me/oc")]
    assert not (tmp_path / "encoder").exists()
    assert done.stdout.startswith("oc: OpenCLIP, 24 dimensions; load it with: open_clip.")
    assert done.stdout.endswith("\nuploaded: url\n")
    assert "# Birds" in (tmp_path / "oc" / "README.md").read_text()
    config = json.loads((tmp_path / "oc" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "me/oc"
