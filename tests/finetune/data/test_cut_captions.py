"""Captions that are equal to the model, since they differ only behind its last token."""

import csv
import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clipsearch_command import CLIPSEARCH
from squares import write_squares
from steps_alone import leave_out_what_follows

from finetune.config.batch_plan import BatchPlan
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.settings import TrainConfig
from finetune.data.batches import Batch, epoch_batches, positives
from finetune.data.captioned_images import CaptionedImages, captioned_images
from finetune.data.hard_negatives import nearest_neighbours
from finetune.data.tensors import TensorBatch
from finetune.data.tokenized_captions import tokenized
from finetune.data.tokens import tokenize
from finetune.images.source import ImageSource
from finetune.manifest.cut_captions import cut_sentence
from finetune.models.dual_encoder import load_dual_encoder
from finetune.training.loop import Batches
from finetune.training.train import train

START = "a scan of the chest of a patient seen from the front"


def images_with(captions: list[list[str]]) -> CaptionedImages:
    return captioned_images(
        (f"{i}", ImageSource(Path(f"{i}.png")), texts) for i, texts in enumerate(captions)
    )


def test_keys_are_equal_where_the_tokens_are() -> None:
    tokens = tokenized([[1, 2], [1], [1, 2], [], [2], []], pad_token_id=0)
    assert tokens.keys().tolist() == [0, 1, 0, 2, 3, 2]


def test_captions_of_equal_tokens_are_no_negatives() -> None:
    data = images_with([["one A", "two"], ["one B"], ["three"], ["Three"]])
    known = data.with_token_keys(np.array([0, 1, 0, 2, 3]))
    batch = Batch(np.arange(4), data.starts[:-1])
    assert positives(known, batch).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, True],  # equal as texts
        [False, False, True, True],
    ]
    assert data.alike(np.array([0, 1, 0, 2, 3])) == 1
    for epoch in range(3):  # two in each, and never the equal ones
        for two in epoch_batches(known, BatchPlan(2, seed=0), epoch):
            assert not positives(known, two)[~np.eye(2, dtype=bool)].any()
    vectors = np.eye(4, dtype=np.float32)
    neighbours = nearest_neighbours(vectors, np.ones((4, 4), np.float32) / 2, known, k=3)
    assert sorted(neighbours[0].tolist()) == [-1, 2, 3]


def test_the_data_of_earlier_runs_are_the_same_where_no_caption_is_cut() -> None:
    data = images_with([["one"], ["two"], ["One "]])
    same = data.with_token_keys(np.array([0, 1, 0]))
    assert same.fingerprint() == data.fingerprint()
    assert data.with_token_keys(np.array([0, 0, 0])).fingerprint() != data.fingerprint()


def test_cut_captions_are_counted_and_what_is_exported_still_cuts() -> None:
    dual = load_dual_encoder("tiny", [START, "a dog"], max_tokens=8)
    counts = dual.token_counts([START, "a dog"])
    assert counts[0] > 8 >= counts[1]
    tokens = tokenize(dual, (START, "a dog", f"{START} again"))
    assert tokens.cut == 2
    assert tokens.keys().tolist() == [0, 1, 0]
    assert dual.tokenizer.backend_tokenizer.truncation["max_length"] == 8


def long_captions(folder: Path, *, train: int, val: int) -> Path:
    manifest = write_squares(folder, train=train, val=val)
    with manifest.open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        if row[0] in ("0.png", "1.png", f"{train}.png"):
            row[1] = f"{START} {row[1]} {row[0]}"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return manifest


@pytest.mark.parametrize("word_drop", [0.0, 0.1])
def test_training_says_so_and_takes_them_for_positives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word_drop: float
) -> None:
    taken: list[TensorBatch] = []
    real = Batches.next

    def kept(self, state):
        taken.append(real(self, state))
        return taken[-1]

    monkeypatch.setattr(Batches, "next", kept)
    leave_out_what_follows(monkeypatch)
    stream = io.StringIO()
    config = TrainConfig(
        manifest=long_captions(tmp_path / "squares", train=12, val=3), model="tiny",
        out=tmp_path / "out", batch_size=12, epochs=2, threads=1, workers=0, max_tokens=12,
    )  # fmt: skip
    config = replace(config, caption_augment=CaptionAugmentConfig(word_drop=word_drop))
    result = train(config, stream=stream)
    said = "Split train: 4 of 24 captions are longer than the 12 tokens that the model takes"
    assert result.notes[0].startswith(said)
    assert result.notes[1].startswith("Split val: 2 of 6 captions")
    assert said in stream.getvalue()
    equal = 0
    for batch in taken:
        texts = [tuple(row.tolist()) for row in batch.input_ids]
        for a, first in enumerate(texts):
            for b, second in enumerate(texts):
                if first == second:
                    assert batch.positives[a, b], (a, b)
                    equal += a != b
    assert equal or word_drop


def test_nothing_is_said_where_nothing_is_cut() -> None:
    assert cut_sentence(0, 10, 77, alike=3) is None
    assert cut_sentence(1, 10, 77) == (
        "1 of 10 captions is longer than the 77 tokens that the model takes:"
        " it does not see its end"
    )


# Through the real commands. The encoder's tower takes 16 tokens, one a word.

LONG = "red dog on the beach with two cats in a tree of the green house and"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = write_squares(tmp_path / "squares", train=2, val=6)
    text = path.read_text()
    for name, end in (("2.png", "a car"), ("3.png", "a boat")):
        first = next(line for line in text.splitlines() if line.startswith(name))
        text = text.replace(first, f"{name},{LONG} {end},val")
    path.write_text(text)
    return path


def clipsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*CLIPSEARCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_manifest_check_counts_them(encoder_folder: Path, manifest: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    done = clipsearch(
        "manifest", "check", manifest, "--encoder", encoder_folder, "--report", report
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 16 at the 16 tokens" in done.stdout
    with report.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] == "cut caption"]
    assert [row[1] for row in rows] == ["2.png", "3.png"]
    assert rows[0][2].startswith("20 tokens, cut at 16: red dog")
    done = clipsearch("manifest", "check", manifest, "--model", "tiny", "--json")
    answer = json.loads(done.stdout)
    assert (answer["tokens"]["max_tokens"], answer["tokens"]["captions"]) == (77, 16)
    assert answer["tokens"]["cut"] == 0
    assert answer["tokens"]["longest"] > 17
    done = clipsearch("manifest", "check", manifest, "--json")
    assert json.loads(done.stdout)["tokens"] is None
    done = clipsearch("manifest", "check", manifest, "--model", "tiny", "--encoder", encoder_folder)
    assert done.returncode == 2


def test_evaluate_says_so(encoder_folder: Path, manifest: Path) -> None:
    done = clipsearch(
        "evaluate", encoder_folder, manifest, "--split", "val", "--json", "--resamples", "100"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    said = "2 of 12 captions are longer than the 16 tokens that the model takes"
    assert any(said in note for note in answer["notes"]), answer["notes"]
    # Different texts stay different queries: that the model cannot tell them apart is its fault.
    assert answer["distinct_captions"] == 12
