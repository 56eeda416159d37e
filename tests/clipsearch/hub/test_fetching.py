"""Encoders of the hub without torch, against a server that serves tiny towers in its layout."""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from model_hub import ModelHub, model_hub
from PIL import Image

from clipsearch.encoder.encoder import Encoder
from clipsearch.hub import fetching
from clipsearch.hub.download import HubFile, HubModel
from clipsearch.hub.fetching import differences, fetched_folder, get_encoder
from clipsearch.hub.fetching import encoder_folder as encoder_of
from clipsearch.hub.folder import TowerFiles
from clipsearch.hub.known import DEFAULT
from clipsearch.hub.license import told_license
from finetune.encoder_folder import check_fingerprint, read_description
from finetune.errors import EncoderError, HubError, UsageError

MODEL = "somebody/tiny-clip"
VISION = "onnx/vision_model.onnx"


@pytest.fixture
def hub(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelHub]:
    with model_hub(somebody__tiny_clip=encoder_folder) as served:
        served.models[MODEL] = served.models.pop("somebody/tiny_clip")
        served.models[DEFAULT.id] = served.models[MODEL]
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield served


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def leftovers(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "clipsearch" / "downloads"
    return sorted(path.name for path in folder.glob("*") if path.name != "lock")


def test_a_fetched_encoder_gives_the_vectors_of_its_towers(
    hub: ModelHub, tmp_path: Path, encoder_folder: Path
) -> None:
    got = Encoder.load(get_encoder(MODEL, tmp_path / "got"))
    own = Encoder.load(encoder_folder)
    texts = ["two dogs on a beach", "a", "", "red circle"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(got.encode_texts(texts), own.encode_texts(texts), atol=1e-6)
    np.testing.assert_allclose(got.encode_pixels(pixels), own.encode_pixels(pixels), atol=1e-6)
    description = read_description(tmp_path / "got")
    assert description.base_model == MODEL and not description.unit_length
    assert description.tower_outputs == {"text": "text_embeds", "image": "image_embeds"}
    assert "license: mit" in (tmp_path / "got" / "README.md").read_text()
    assert leftovers(tmp_path) == []
    # The token goes to the hub, not to where it redirects.
    assert hub.tokens == {"hub": {"Bearer hf_secret"}, "cdn": {None}}
    # What is there is not asked for again.
    asked = len(hub.requests)
    assert get_encoder(MODEL, tmp_path / "got") == tmp_path / "got" and len(hub.requests) == asked
    with pytest.raises(UsageError, match="holds another encoder"):
        get_encoder(DEFAULT.id, tmp_path / "got")


def test_a_download_goes_on_where_it_broke_off(hub: ModelHub, tmp_path: Path) -> None:
    hub.cut[VISION] = [1000, 500]
    get_encoder(MODEL, tmp_path / "got")
    asked = [line.rpartition(" ")[2] for line in hub.downloads if VISION in line]
    assert asked == [f"/cdn/{MODEL}/{'1' * 40}/{VISION}", "bytes=1000-", "bytes=1500-"]


def test_a_hub_that_sends_nothing_more_is_given_up_and_gone_on_with(
    hub: ModelHub, tmp_path: Path
) -> None:
    hub.cut[VISION] = [1000, 0, 0, 0]
    with pytest.raises(HubError, match="cannot be reached"):
        get_encoder(MODEL, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert sum(name.endswith(".partial") for name in leftovers(tmp_path)) == 1
    before = len(hub.downloads)
    get_encoder(MODEL, tmp_path / "got")
    # The text tower was there whole, of the other one the rest was missing.
    assert [line.rpartition(" ")[2] for line in hub.downloads[before:]] == ["bytes=1000-"]


def test_another_content_than_the_hub_names_is_thrown_away(hub: ModelHub, tmp_path: Path) -> None:
    for path in ("tokenizer.json", VISION):
        hub.spoilt = {path}
        with pytest.raises(HubError, match=f"{path} came with another content"):
            get_encoder(MODEL, tmp_path / "got")
        assert not (tmp_path / "got").exists()
        assert not any(name.endswith(".partial") for name in leftovers(tmp_path))
    hub.spoilt = set()
    get_encoder(MODEL, tmp_path / "got")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "has no such model, or it is private"),
        (401, "RepoNotFound", "has no such model, or it is private"),
        (401, "GatedRepo", "its owner lets in only who has asked"),
        (403, "GatedRepo", "its owner lets in only who has asked"),
        (429, "", "too many requests"),
        (500, "", "answers 500"),
    ],
)
def test_a_refusal_is_one_sentence(
    hub: ModelHub, tmp_path: Path, status: int, code: str, said: str
) -> None:
    hub.refuse[MODEL] = (status, code)
    with pytest.raises(HubError, match=said):
        get_encoder(MODEL, tmp_path / "got")


def test_without_network_it_is_said_at_once(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    start = time.monotonic()
    with pytest.raises(HubError, match=r"http://hub.invalid: cannot be reached"):
        get_encoder(MODEL)
    assert time.monotonic() - start < 5
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        get_encoder(MODEL)


def test_a_model_without_towers_is_exported_or_says_what_that_takes(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict(hub.models[MODEL])
    del files[VISION]
    hub.models["somebody/weights"] = files
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HubError, match=r"takes torch: pip install '\.\[finetune\]' in a"):
        get_encoder("somebody/weights")


def test_a_model_of_another_kind_is_refused(hub: ModelHub, tmp_path: Path) -> None:
    settings = json.loads(hub.models[MODEL]["config.json"]) | {"model_type": "blip"}
    hub.models[MODEL]["config.json"] = json.dumps(settings).encode()
    with pytest.raises(EncoderError, match="type 'blip'; clip, siglip"):
        get_encoder(MODEL, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_a_folder_goes_before_an_id(hub: ModelHub, tmp_path: Path) -> None:
    assert encoder_of(tmp_path) == tmp_path
    assert encoder_of("no/such/folder") == Path("no/such/folder")
    assert hub.requests == []
    with pytest.raises(UsageError, match="is no id"):
        get_encoder("tiny")


def test_a_folder_of_pictures_and_a_query_and_nothing_else_to_know(
    hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, index = tmp_path / "Pictures", tmp_path / "pictures.index"
    pictures.mkdir()
    for name, colour in (("sky", "blue"), ("grass", "green"), ("night", "black")):
        Image.new("RGB", (40, 40), colour).save(pictures / f"{name}.png")
    fed = clipsearch("feed", pictures, "--index", index)
    assert fed.returncode == 0, fed.stderr
    assert f"taking {DEFAULT.id} (English, licence MIT, about 605 MB, fetched once" in fed.stderr
    assert f"New index: {index}\n" in fed.stderr and "no known encoder" not in fed.stderr
    assert f"fetch {DEFAULT.id}" in fed.stderr and "fed 3," in fed.stdout
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # from here on nothing is asked
    asked = len(hub.requests)
    found = clipsearch("query", "sunset", "--index", index, "--json")
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["hits"]) == 3
    # The original's id means the same towers.
    again = clipsearch(
        "feed", pictures, "--index", index, "--encoder", "openai/clip-vit-base-patch32"
    )
    assert "unchanged 3" in again.stdout, again.stderr
    assert len(hub.requests) == asked
    shown = clipsearch("encoder", "show", read_place(index))
    assert f"{DEFAULT.id}, clip, 32 dimensions" in shown.stdout


def read_place(index: Path) -> str:
    told = json.loads(clipsearch("status", "--index", index, "--json").stdout)
    return str(next(value for key, value in told.items() if key == "encoder_path"))


def test_what_was_fetched_is_named_by_its_id_and_copied(hub: ModelHub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match=f"was not fetched; .* clipsearch encoder get {MODEL}"):
        fetched_folder(MODEL)
    cached = get_encoder(MODEL)
    asked = len(hub.requests)
    out = get_encoder(MODEL, tmp_path / "new" / "encoder")
    assert fetched_folder(MODEL) == cached
    assert read_description(out) == read_description(cached)
    check_fingerprint(out, read_description(out))
    assert [path.name for path in out.parent.iterdir()] == ["encoder"]
    assert len(hub.requests) == asked, "fetched again"


def test_where_the_hub_says_another_licence_or_size_than_our_list_it_is_the_hubs_that_is_told(
    hub: ModelHub, tmp_path: Path
) -> None:
    hub.license = "cc-by-nc-4.0"
    done = clipsearch("encoder", "get", DEFAULT.id, "--out", tmp_path / "got")
    assert done.returncode == 0, done.stderr
    assert (
        f"Note: the hub says of {DEFAULT.id}: licence cc-by-nc-4.0; clipsearch's own list says MIT"
    ) in done.stderr
    assert f"MB of towers; clipsearch's own list says {DEFAULT.megabytes} MB" in done.stderr
    told = "licence: cc-by-nc-4.0, as the hub said; clipsearch's own list says MIT\n"
    assert told in done.stdout
    shown = clipsearch("encoder", "show", tmp_path / "got")
    assert told in shown.stdout
    shown = clipsearch("encoder", "show", tmp_path / "got", "--json")
    assert json.loads(shown.stdout)["license"] == "cc-by-nc-4.0"


def test_what_the_hub_does_not_say_is_no_difference(hub: ModelHub, tmp_path: Path) -> None:
    towers = TowerFiles.of("fp32")
    sizes = {towers.text: 505, towers.image: 110}
    files = {path: HubFile(path, 10**6 * size, "", "") for path, size in sizes.items()}
    model = HubModel(DEFAULT.id, "1", "", files)
    assert differences(model, towers) == []
    assert differences(replace(model, license="mit")) == []
    assert len(differences(replace(model, license="other"))) == 1
    assert differences(replace(model, id="a/b", license="other")) == []
    assert told_license(tmp_path, DEFAULT.id) == "MIT, by its maker's card of November 2026"
    assert told_license(tmp_path, "a/b") == "not told"
