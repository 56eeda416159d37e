"""What the options of a run do to it, each end to end on the CPU."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from squares import write_squares
from steps_alone import leave_out_what_follows

from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.image_augmentation import AugmentConfig
from finetune.config.settings import TrainConfig
from finetune.data.captioned_images import read_split
from finetune.data.loader import check_shares
from finetune.data.world import World
from finetune.encoder_folder import read_description
from finetune.errors import TrainingError, UsageError
from finetune.manifest.manifest import Manifest
from finetune.training.train import Result, train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), train=48, val=12)


@pytest.fixture
def config(manifest: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path / "out", batch_size=12, epochs=2,
        threads=1, workers=0, keep_checkpoints=True,
    )  # fmt: skip


def losses(result: Result) -> list[float]:
    return [row["loss"] for row in result.history if "loss" in row]


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Of the last step."""
    state = torch.load(config.work_folder / "checkpoint.pt", weights_only=True)
    found: dict[str, torch.Tensor] = state["model"]
    return found


@pytest.fixture(scope="module")
def plain(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict]:
    """Losses and weights of the run without any option."""
    config = TrainConfig(
        manifest=manifest, model="tiny", out=tmp_path_factory.mktemp("plain") / "out",
        batch_size=12, epochs=2, threads=1, workers=0, keep_checkpoints=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        leave_out_what_follows(patch)
        return losses(train(config, quiet=True)), weights(config)


@pytest.mark.parametrize("changes", [{"chunk_size": 5}, {"gradient_checkpointing": True}])
def test_saving_memory_changes_no_loss(config, no_export, plain, changes) -> None:
    expected, _ = plain
    assert losses(train(replace(config, **changes), quiet=True)) == pytest.approx(
        expected, rel=2e-3
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "sigmoid"},
        {"label_smoothing": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "adafactor"},
        {"schedule": "linear", "warmup": 2},
        {"schedule": "cosine-restarts", "cycles": 2},
        {"schedule": "inverse-sqrt"},
        {"text_learning_rate": 1e-4, "layer_decay": 0.7},
        {"freeze": ("text",)},
        {"train_last_image_layers": 1},
    ],
    ids=",".join,
)
def test_each_option_changes_the_run(config, no_export, plain, changes) -> None:
    result = train(replace(config, **changes), quiet=True)
    assert all(loss == loss for loss in losses(result))
    assert losses(result) != plain[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"hard_negative_beta": 0.2},
        {"accumulate_separate_batches": 2, "batch_size": 6},
        {"lora": 2},
        {"augment": AugmentConfig(horizontal_flip=0.5, color_jitter=(0.2, 0.2, 0.1, 0.0))},
        {"caption_augment": CaptionAugmentConfig(word_drop=0.3)},
        {"samples_per_epoch": 24},
        {"captions": "all"},
    ],
    ids=",".join,
)
def test_each_option_that_draws_changes_the_run_and_a_second_run_is_equal(
    config, no_export, plain, changes
) -> None:
    changed = replace(config, **changes)
    result = train(changed, quiet=True)
    assert all(loss == loss for loss in losses(result))
    assert losses(result) != plain[0]
    assert losses(train(replace(changed, restart=True), quiet=True)) == losses(result)


def test_frozen_weights_stay_and_the_others_move(config, no_export) -> None:
    start = replace(config, epochs=1, learning_rate=1e-12)
    train(start, quiet=True)
    before = weights(start)
    train(replace(config, freeze=("text",), restart=True), quiet=True)
    after = weights(config)
    for name, tensor in before.items():
        if "text" in name:
            assert torch.allclose(after[name], tensor, atol=1e-9), name
    assert not torch.allclose(
        after["model.visual_projection.weight"], before["model.visual_projection.weight"]
    )


def test_epochs_have_as_many_steps_as_the_plan_says(config, no_export) -> None:
    subsample = train(replace(config, samples_per_epoch=24), quiet=True)
    assert subsample.steps == 4
    accumulated = train(replace(config, accumulate_separate_batches=2, restart=True), quiet=True)
    assert accumulated.steps == 4


def test_several_manifests_are_trained_on_together(config, no_export, tmp_path) -> None:
    other = write_squares(tmp_path / "other", train=12, val=4)
    joined = replace(config, more_manifests=(other,))
    result = train(joined, quiet=True)
    assert result.metrics["text-to-image"]["pool"] == 16
    assert result.steps == 2 * 5
    weighted = replace(joined, dataset_weights=(1.0, 1.0), samples_per_epoch=24, restart=True)
    assert train(weighted, quiet=True).steps == 4
    with pytest.raises(UsageError, match="--dataset-weights has 1 weight"):
        train(replace(joined, dataset_weights=(1.0,), restart=True), quiet=True)


def test_the_average_is_what_is_measured_and_kept(config, no_export) -> None:
    # so many that those of the last step are among them
    train(replace(config, ema=0.9, keep_best=9), quiet=True)
    state = torch.load(config.work_folder / "checkpoint.pt", weights_only=True)
    last = state["step"]
    kept = torch.load(config.work_folder / f"best-{last}.pt", weights_only=True)
    name = "model.visual_projection.weight"
    assert not torch.equal(kept[name], state["model"][name])
    assert torch.equal(kept[name], state["average"]["averages"][name])


@pytest.mark.parametrize("metric", ["val_loss", "i2t_mrr@5", "t2i_mean_rank"])
def test_any_figure_can_say_what_is_best(config, no_export, metric) -> None:
    result = train(replace(config, metric=metric, eval_every=2), quiet=True)
    evaluations = [row for row in result.history if metric in row]
    pick = min if metric in ("val_loss", "t2i_mean_rank") else max
    assert result.best_step == pick(evaluations, key=lambda row: row[metric])["step"]


def test_classes_are_evaluated_and_can_say_what_is_best(config, no_export, tmp_path) -> None:
    manifest = write_squares(tmp_path / "classed", train=48, val=12)
    # two rows an image
    lines = manifest.read_text().splitlines()
    classed = [lines[0] + ",colour"]
    # two rows an image
    classed += [f"{row},{('warm', 'cold')[i // 2 % 2]}" for i, row in enumerate(lines[1:])]
    manifest.write_text("\n".join(classed) + "\n")
    result = train(
        replace(
            config, manifest=manifest, zero_shot_classes="colour", metric="hits@1",
            zero_shot_template=("a {category} square", "a photo of a {category} one"),
        ),
        quiet=True,
    )  # fmt: skip
    figures = result.metrics["zero-shot"]
    assert (figures["pool"], figures["queries"]) == (2, 12)
    best = max(row["hits@1"] for row in result.history if "hits@1" in row)
    assert figures["hits@1"] == pytest.approx(best)


def test_a_metric_of_classes_needs_classes(config) -> None:
    with pytest.raises(UsageError, match="--zero-shot"):
        train(replace(config, metric="hits@1"), quiet=True)


def test_figures_within_batches_are_named_so(config, no_export) -> None:
    result = train(replace(config, batches_of=4), quiet=True)
    figures = result.metrics["text-to-image in batches of 4"]
    assert figures["pool"] == 4
    assert figures["mrr@10 in batches of 4"] >= result.metrics["text-to-image"]["mrr@10"]


def test_hard_negatives_are_resumed_to_the_same_numbers(config, no_export, monkeypatch) -> None:
    mined = replace(config, hard_negatives=3, epochs=3, checkpoint_minutes=0)
    whole = losses(train(mined, quiet=True))
    expected = weights(mined)
    import finetune.training.loop as fit

    real, done = fit.training_step, 0

    def failing(*values, **named):
        nonlocal done
        done += 1
        if done == 7:
            raise RuntimeError("power cut")
        return real(*values, **named)

    again = replace(mined, restart=True)
    with monkeypatch.context() as patch:
        patch.setattr("finetune.training.loop.training_step", failing)
        with pytest.raises(RuntimeError):
            train(again, quiet=True)
    assert losses(train(replace(again, restart=False), quiet=True)) == whole
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(mined).items())


def test_the_best_so_many_weights_become_encoders(config, no_plots) -> None:
    result = train(
        replace(config, keep_best=2, lora=2, wise_ft=None, keep_checkpoints=False), quiet=True
    )
    assert read_description(result.out).base_model == "tiny"
    others = [path for path in result.out.parent.iterdir() if ".step-" in path.name]
    assert len(others) == 1
    assert read_description(others[0]).dimension == read_description(result.out).dimension
    recipe = yaml.safe_load((result.out / "recipe.yaml").read_text())
    assert recipe["keep_best"] == 2
    about = json.loads((result.out / "metrics.json").read_text())
    assert about["manifests"] == [{"name": "squares.csv", "images": 48, "captions": 96}]
    # adapters are merged: a plain checkpoint
    assert not any("lora" in path.name for path in result.out.iterdir())


def test_a_run_killed_between_two_encoders_writes_all(config, no_plots, monkeypatch) -> None:
    import finetune.training.finish

    kept = replace(config, keep_best=2, keep_checkpoints=False)
    real, written = finetune.training.finish.export_encoder, []

    def failing(dual, out, **named):
        if written:
            raise RuntimeError("power cut")
        written.append(real(dual, out, **named))

    with monkeypatch.context() as patch:
        patch.setattr("finetune.training.finish.export_encoder", failing)
        with pytest.raises(RuntimeError):
            train(kept, quiet=True)
    result = train(kept, quiet=True)
    names = {path.name for path in result.out.parent.iterdir()}
    assert result.out.name in names
    assert len([name for name in names if ".step-" in name]) == 1


def test_halfway_to_the_base_model_lies_between(config, no_plots, tmp_path) -> None:
    base = train(replace(config, epochs=1, keep_checkpoints=False), quiet=True).out
    tuned = replace(
        config, model=str(base), out=tmp_path / "tuned", learning_rate=1e-3, wise_ft=0.0
    )
    result = train(tuned, quiet=True)
    # nothing of the fine-tuning is left
    assert result.metrics["text-to-image"] == pytest.approx(result.baseline["text-to-image"])


def test_an_exploding_loss_stops_with_step_and_ids(config, no_export, monkeypatch) -> None:
    import finetune.training.loop as fit

    real, done = fit.training_step, 0

    def worse(*values, **named):
        nonlocal done
        done += 1
        loss, norm = real(*values, **named)
        return (loss * 100 if done > 30 else loss), norm

    monkeypatch.setattr("finetune.training.loop.training_step", worse)
    # all twelve of the batch
    images = r"images (\d+\.png, ){11}\d+\.png;"
    with pytest.raises(TrainingError, match=rf"explodes.* in step \d+, with the {images}"):
        train(replace(config, epochs=20, eval_every="never", patience=0), quiet=True)


def run_processes(config: TrainConfig, count: int, *options: str) -> Path:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={count}", "-m", "clipsearch", "finetune", str(config.manifest),
        "--model", "tiny", "--out", str(config.out), "--batch-size", "12", "--epochs", "2",
        "--threads", "1", "--workers", "0", "--keep-checkpoints", *options,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Encoder:") == 1
    return Path(config.out)


SEPARATE = {
    "batch_size": 7, "accumulate_separate_batches": 2, "augment": AugmentConfig(grayscale=0.5),
    "caption_augment": CaptionAugmentConfig(word_drop=0.2),
}  # fmt: skip
SEPARATE_OPTIONS = (
    "--batch-size", "7", "--accumulate-separate-batches", "2", "--augment", "grayscale=0.5",
    "--word-drop", "0.2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "options"),
    [(SEPARATE, SEPARATE_OPTIONS), ({}, ())],
    ids=["separate batches, varied", "plain"],
)
def test_two_processes_train_as_one(config, tmp_path, no_export, changes, options) -> None:
    alone = replace(config, out=tmp_path / "alone", **changes)
    expected_losses = losses(train(alone, quiet=True))
    out = run_processes(config, 2, *options)
    state = torch.load(config.work_folder / "checkpoint.pt", weights_only=True)
    for name, tensor in weights(alone).items():
        assert torch.allclose(state["model"][name], tensor, atol=1e-4), name
    rows = (out / "history.csv").read_text().splitlines()[1:]
    found = [float(row.split(",")[2]) for row in rows if row.split(",")[2]]
    assert found == pytest.approx(expected_losses, rel=1e-3)


def test_each_process_needs_pairs(config, manifest) -> None:
    data = read_split(Manifest.open(manifest), "train")
    plan = replace(config, batch_size=5, accumulate_separate_batches=2).batch_plan
    check_shares(plan, 2, data, World(0, 4, torch.device("cpu")))
    with pytest.raises(UsageError, match="smallest batch has 4 pairs, too few for 5 processes"):
        check_shares(plan, 2, data, World(0, 5, torch.device("cpu")))
