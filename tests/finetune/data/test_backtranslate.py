"""Back-translation with tiny MarianMT models of the published classes, and its cache on disk."""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_marian import save_tiny_marian
from transformers import MarianMTModel, MarianTokenizer

from finetune.console import Progress
from finetune.data import back_translation as backtranslate
from finetune.data.back_translation import (
    Route,
    TranslationCache,
    Translator,
    add_captions,
    back_translate,
    default_cache,
    parse_routes,
    wanted_for_duplicates,
)
from finetune.data.captioned_images import captioned_images, read_split
from finetune.data.splits import merge_datasets
from finetune.errors import TrainingError, UsageError
from finetune.images.source import ImageSource
from finetune.manifest.manifest import Manifest

SENTENCES = [
    f"a {colour} {shape} on a {ground} ground near the {place}."
    for colour in ("red", "green", "blue")
    for shape in ("square", "circle", "boat")
    for ground in ("white", "black")
    for place in ("river", "bridge", "road")
]
CAPTIONS = [*SENTENCES[:3], "a boat", "red", SENTENCES[0], "a white bridge near a black river"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    for seed, name in enumerate(("en-fr", "fr-en", "en-de", "de-en")):
        save_tiny_marian(folder / name, SENTENCES, seed=seed)
    return folder


@pytest.fixture
def routes(models: Path) -> tuple[Route, ...]:
    return parse_routes(
        f"fr={models / 'en-fr'}:{models / 'fr-en'},de={models / 'en-de'}:{models / 'de-en'}"
    )


def quiet(task: str, total: int, unit: str) -> Progress:
    return Progress(task, total, unit=unit, quiet=True)


@cache
def loaded(folder: Path) -> tuple[MarianMTModel, MarianTokenizer]:
    return MarianMTModel.from_pretrained(folder).eval(), MarianTokenizer.from_pretrained(folder)


def translated(folder: Path, text: str, beams: int) -> str:
    """One text, with nothing but transformers; of many languages, with its mark in front."""
    model, tokenizer = loaded(folder)
    tokens = tokenizer([text], return_tensors="pt")
    room = min(63, 2 * tokens["input_ids"].shape[1] + 32)
    with torch.inference_mode():
        written = model.generate(**tokens, num_beams=beams, max_new_tokens=room)
    return tokenizer.decode(written[0], skip_special_tokens=True).strip()


def test_each_text_of_a_batch_is_translated_as_if_alone(models: Path) -> None:
    texts = ["a red square near the road.", "", "a boat on a white ground near the river.", " "]
    translator = Translator.load(str(models / "en-fr"), beams=2)
    batch = translator(texts, "fr")
    assert batch[1] == batch[3] == ""
    assert batch[0] != batch[2]
    # padding changes sums by rounding only; both texts are of one length, so rooms are equal
    for row in (0, 2):
        alone = translator([texts[row]], "fr")
        assert batch[row] == alone[0] == translated(models / "en-fr", texts[row], beams=2)


def test_round_trips_are_the_two_models_one_after_the_other(
    models: Path, routes: tuple[Route, ...], tmp_path: Path
) -> None:
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        found = back_translate(CAPTIONS, routes, cache, progress=quiet, batch_size=1, beams=1)
    for language, caption in (("fr", "a boat"), ("de", SENTENCES[1]), ("fr", SENTENCES[2])):
        pivot = translated(models / f"en-{language}", caption, beams=1)
        assert translated(models / f"{language}-en", pivot, beams=1) in found.captions[caption]
    assert sum(found.counts.values()) == 2 * len(set(CAPTIONS))
    assert found.summary().startswith(f"Back-translation: {found.counts['new']} new captions of 12")


class CountingTranslator:
    """Translates to upper case there and to what a table says back; counts its texts."""

    texts = 0
    table: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str) -> None:
        self.is_forward = "-en-" in name

    def __call__(self, texts: list[str], language: str) -> list[str]:
        if self.is_forward:
            CountingTranslator.texts += len(texts)
            return [text.upper() for text in texts]
        return [self.table.get(text, f"{text} again") for text in texts]


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[CountingTranslator]:
    CountingTranslator.texts = 0
    CountingTranslator.table = {}
    monkeypatch.setattr(
        Translator, "load", classmethod(lambda cls, name, **_: CountingTranslator(name))
    )
    return CountingTranslator


@pytest.fixture(scope="module")
def romance(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("romance")
    there = save_tiny_marian(folder / "en-X", SENTENCES, seed=7, languages=("fr", "pt"))
    return there, save_tiny_marian(folder / "X-en", SENTENCES, seed=8)


def test_a_model_of_many_languages_is_told_which(
    romance: tuple[Path, Path], tmp_path: Path
) -> None:
    """As in CLIP-rsicd's notebook: ">>fr<< " in front of each text, and the language in the key."""
    there, back = romance
    routes = parse_routes(f"fr={there}:{back},pt={there}:{back}")
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        found = {
            route.language: back_translate(
                SENTENCES[:4], [route], cache, progress=quiet, batch_size=1, beams=1
            )
            for route in routes
        }
    compared: list[str] = []
    for language, each in found.items():
        for text in SENTENCES[:4]:
            pivot = translated(there, f">>{language}<< {text}", beams=1)
            if not pivot:
                assert text not in each.captions
                continue
            compared.append(text)
            assert each.captions.get(text, (text,))[0] == translated(back, pivot, beams=1)
    assert len(compared) > 4
    assert found["fr"].captions != found["pt"].captions
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        wrong = parse_routes(f"de={there}:{back}")
        with pytest.raises(UsageError, match="into none named de; write one of fr, pt before the"):
            back_translate(SENTENCES[:2], wrong, cache, progress=quiet)


def test_only_captions_that_an_image_has_twice_are_translated(
    counting: type[CountingTranslator], tmp_path: Path
) -> None:
    """A caption of 5 goes along four languages, as in CLIP-rsicd's notebook, and one stays."""
    source = ImageSource(tmp_path / "x.png")
    rows = [
        ("0", source, ("a plane", "a river")),
        ("1", source, ("a plane", "a bridge")),
        ("2", source, ("a field",)),
    ]
    data = captioned_images(rows, {"0": (4, 1), "1": (2, 3)})
    wanted = wanted_for_duplicates(data)
    assert wanted == {"a plane": 3, "a bridge": 2}
    counting.table = {"A PLANE": "an aircraft", "A BRIDGE": "one bridge"}
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        found = back_translate(
            data.captions, parse_routes("fr,es,it,pt"), cache, progress=quiet, wanted=wanted
        )
    # three and two languages; the same words by the second language are no new caption
    assert counting.texts == 5
    assert found.counts == {"new": 2, "duplicate": 3}
    more = {"a plane": ("one", "two", "three"), "a bridge": ("four", "five", "six")}
    joined = add_captions(data, more, duplicates_only=True)
    assert [
        joined.captions[a:b] for a, b in zip(joined.starts, joined.starts[1:], strict=False)
    ] == [
        ("a plane", "a river", "one", "two", "three"),
        ("a plane", "a bridge", "one", "four", "five"),
        ("a field",),
    ]


def test_the_manifest_says_how_often_an_image_has_a_caption(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    texts = ["x", "y", "x", "x"]
    images = [
        {"filename": "a.png", "split": "train", "sentences": [{"raw": text} for text in texts]},
        {"filename": "b.png", "split": "train", "sentences": [{"raw": "x"}, {"raw": "y"}]},
    ]
    (tmp_path / "d.json").write_text(json.dumps({"images": images}))
    with Manifest.open(tmp_path / "d.json") as manifest:
        records = list(manifest.records())
        data = read_split(manifest, "train")
    assert [(each.captions, each.repeats) for each in records] == [
        (("x", "y"), (3, 1)),
        (("x", "y"), ()),
    ]
    merged = merge_datasets([data, data], ["one", "two"])
    assert merged.repeats.tolist() == [3, 1, 1, 1] * 2
    assert merged.without([0]).repeats.tolist() == [1, 1, 3, 1, 1, 1]


def test_what_is_no_new_caption_is_dropped_and_counted(
    counting: type[CountingTranslator], tmp_path: Path
) -> None:
    counting.table = {
        "A RED BOAT": "A red  boat.",
        "TWO DOGS": "",
        "A MAP": " ! ",
        "A CAR": "one car",
    }
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        found = back_translate(
            ["a red boat", "two dogs", "a map", "a car", "a car"],
            parse_routes("fr,de"),
            cache,
            progress=quiet,
        )
    assert found.captions == {"a car": ("one car",)}
    assert found.counts == {"unchanged": 2, "empty": 4, "new": 1, "duplicate": 1}
    assert found.summary() == (
        "Back-translation: 1 new captions of 8 round trips"
        " (dropped: 2 unchanged, 1 duplicate, 4 empty)"
    )


def test_a_killed_run_keeps_its_batches_and_translates_only_the_rest(
    counting: type[CountingTranslator], tmp_path: Path
) -> None:
    captions = [f"caption {number}" for number in range(50)]
    path = tmp_path / "deeper" / "cache.sqlite"

    class Killed(Progress):
        def advance(self, count: int = 1, note: str | None = None) -> None:
            super().advance(count, note)
            if self.done >= 24:
                # as others see the file at this moment
                with sqlite3.connect(path) as seen:
                    rows = seen.execute("select count(*) from round_trips").fetchone()
                assert rows == (24,)
                raise KeyboardInterrupt

    with TranslationCache(path) as cache, pytest.raises(KeyboardInterrupt):
        back_translate(
            captions, parse_routes("es"), cache, batch_size=8,
            progress=lambda task, total, unit: Killed(task, total, quiet=True),
        )  # fmt: skip
    assert counting.texts == 24
    shown = io.StringIO()
    with TranslationCache(path) as cache:
        found = back_translate(
            captions, parse_routes("es"), cache, batch_size=8,
            progress=lambda task, total, unit: Progress(task, total, unit=unit, stream=shown),
        )  # fmt: skip
        assert counting.texts == 50
        assert "Translating es and back  26/26 captions" in shown.getvalue()
        assert found.captions["caption 7"] == ("CAPTION 7 again",)
        # other models or another width of search are other round trips
        back_translate(captions[:3], parse_routes("es"), cache, progress=quiet, beams=1)
        assert counting.texts == 53
        back_translate(captions[:3], parse_routes("es=x-en-y:other"), cache, progress=quiet)
        assert counting.texts == 56


def test_where_all_is_cached_no_model_is_loaded_and_torch_not_imported(
    routes: tuple[Route, ...], tmp_path: Path
) -> None:
    path = tmp_path / "cache.sqlite"
    with TranslationCache(path) as cache:
        found = back_translate(CAPTIONS, routes, cache, progress=quiet)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from finetune.data.back_translation import *\n"
        "from finetune.data.back_translation import TranslationCache\n"
        f"routes = {routes!r}\n"
        f"with TranslationCache(Path({str(path)!r})) as cache:\n"
        f"    found = back_translate({CAPTIONS!r}, routes, cache, progress=None)\n"
        "print(sorted(found.captions.items()))\n"
        "assert not {'torch', 'transformers', 'sentencepiece'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(sorted(found.captions.items()))


def test_a_model_that_cannot_be_had_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TranslationCache(tmp_path / "cache.sqlite") as cache:
        with pytest.raises(UsageError, match=r"opus-mt-en-fr: the translation model is not in"):
            back_translate(["a boat"], parse_routes("fr"), cache, progress=quiet)
        incomplete = shutil.copytree(models / "en-fr", tmp_path / "incomplete")
        (incomplete / "source.spm").unlink()
        with pytest.raises(UsageError, match=r"incomplete: no MarianMT checkpoint"):
            back_translate(["a boat"], (Route("fr", str(incomplete), "x"),), cache, progress=quiet)
        monkeypatch.setattr(backtranslate, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"sentencepiece; pip install '\.\[backtr"):
            back_translate(["a boat"], parse_routes("fr"), cache, progress=quiet)


def test_a_broken_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(TrainingError, match=r"cache\.sqlite: the cache of back-translations"):
        TranslationCache(path)
    with pytest.raises(TrainingError, match="--back-translation-cache"):
        TranslationCache(path / "below" / "a.sqlite")


def test_the_shared_cache_lies_in_the_users_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "clipsearch" / "back-translations.sqlite"


def test_routes() -> None:
    assert parse_routes("fr, de") == (
        Route("fr", "Helsinki-NLP/opus-mt-en-fr", "Helsinki-NLP/opus-mt-fr-en"),
        Route("de", "Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en"),
    )
    assert parse_routes("zh=./there:./back") == (Route("zh", "./there", "./back"),)
    romance = "Helsinki-NLP/opus-mt-en-ROMANCE", "Helsinki-NLP/opus-mt-ROMANCE-en"
    assert parse_routes("pt") == (Route("pt", *romance),), "there is no opus-mt-en-pt"


def test_a_language_without_known_models_is_refused_with_a_mend_that_works() -> None:
    with pytest.raises(UsageError, match="for af no models are known; name them") as caught:
        parse_routes("fr,af")
    mend = str(caught.value).split("such as ")[1].split(";")[0]
    (route,) = parse_routes(mend)
    assert (route.language, route.forward) == ("af", "Helsinki-NLP/opus-mt-en-af")


@pytest.mark.parametrize("text", ["", "fr,", "fr=only-one", "fr=:b", "1", "fr de", "a/b"])
def test_what_is_no_list_of_languages_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write fr,de,es"):
        parse_routes(text)


def test_a_language_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="fr is there twice"):
        parse_routes("fr,de,fr")


def test_new_captions_join_their_image_and_share_their_sources_key() -> None:
    source = ImageSource(Path("x.png"))
    data = captioned_images(
        [
            ("0", source, ("a plane", "many houses")),
            ("1", source, ("A  plane",)),
            ("2", source, ("an aircraft",)),
            ("3", source, ("a bridge",)),
        ]
    )
    new = {
        "a plane": ("an airplane", "many houses"),
        "A  plane": ("one plane",),
        "an aircraft": ("An airplane",),
    }
    joined = add_captions(data, new)
    assert joined.repeats.tolist() == [1] * len(joined.captions)
    assert joined.ids == data.ids
    assert [
        joined.captions[a:b] for a, b in zip(joined.starts, joined.starts[1:], strict=False)
    ] == [
        ("a plane", "many houses", "an airplane"),
        ("A  plane", "one plane"),
        ("an aircraft", "An airplane"),
        ("a bridge",),
    ]
    keys = dict(zip(joined.captions, joined.keys.tolist(), strict=True))
    # "a plane" of 0 and 1, what was made of them, and what was made the same from "an aircraft"
    assert len({keys[text] for text in ("a plane", "A  plane", "one plane", "an airplane")}) == 1
    assert keys["an aircraft"] == keys["An airplane"] == keys["an airplane"]
    assert len({keys["a plane"], keys["many houses"], keys["a bridge"]}) == 3


def test_without_new_captions_all_stays_as_it_is() -> None:
    source = ImageSource(Path("x.png"))
    data = captioned_images([("0", source, ("a", "b")), ("1", source, ("B", "c"))])
    joined = add_captions(data, {})
    assert joined.captions == data.captions
    assert joined.fingerprint() == data.fingerprint()
    np.testing.assert_array_equal(joined.starts, data.starts)
    np.testing.assert_array_equal(joined.keys, data.keys)
