import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipsearch.cli.finetune import finetune
from finetune.config.resuming import OPERATIONAL, differences
from finetune.config.run_parts import warmup_steps
from finetune.config.setting import Group
from finetune.config.settings import SETTINGS, TrainConfig, option
from finetune.errors import UsageError
from finetune.ranges import Range
from finetune.training.checks import check_config


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(manifest=tmp_path / "m.csv", model="tiny", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 1}, "--batch-size"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"weight_decay": -0.1}, "--weight-decay"),
        ({"beta2": 1.0}, "--beta2"),
        ({"eps": 0.0}, "--eps"),
        ({"warmup": -1}, "--warmup"),
        ({"warmup": 2.5}, "--warmup"),
        ({"schedule": "square"}, "--schedule"),
        ({"precision": "fp8"}, "--precision"),
        ({"precision": "fp16", "device": "cpu"}, "fp16 needs CUDA"),
        ({"max_grad_norm": -1.0}, "--max-grad-norm"),
        ({"eval_every": "0"}, "--eval-every"),
        ({"eval_every": "day"}, "--eval-every"),
        ({"eval_every": "never", "patience": 3}, "--patience 3 needs evaluations"),
        ({"patience": -1}, "--patience"),
        ({"min_delta": -0.1}, "--min-delta"),
        ({"max_tokens": 2}, "--max-tokens"),
        ({"seed": -1}, "--seed"),
        ({"threads": 0}, "--threads"),
        ({"workers": -1}, "--workers"),
        ({"cache_images": "lots"}, "--cache-images"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes"),
        ({"device": "tpu"}, "--device"),
        ({"device": "cuda:99"}, "cuda:99 is not there"),
        ({"model": ""}, "--model"),
        ({"images": "/no/such/folder"}, "--images"),
    ],
)
def test_wrong_values_and_combinations_are_named(config, changes, named) -> None:
    with pytest.raises(UsageError) as caught:
        check_config(replace(config, **changes))
    assert named in str(caught.value)


def test_defaults_pass(config: TrainConfig) -> None:
    check_config(config)
    check_config(replace(config, eval_every="never"))
    check_config(replace(config, eval_every="25", cache_images="100", warmup=0, max_grad_norm=0))


def test_a_finished_encoder_is_replaced_only_when_asked(config: TrainConfig) -> None:
    out = Path(config.out)
    out.mkdir()
    check_config(config)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no encoder folder"):
        check_config(replace(config, overwrite=True))
    (out / "encoder.json").write_text("{}")
    with pytest.raises(UsageError, match="--overwrite"):
        check_config(config)
    check_config(replace(config, overwrite=True))


def test_out_may_not_be_a_file(config: TrainConfig) -> None:
    Path(config.out).write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_config(config)


def test_warm_up_is_a_share_below_one(config: TrainConfig) -> None:
    assert warmup_steps(0.1, 200) == 20
    assert warmup_steps(7, 200) == 7
    assert warmup_steps(0, 200) == 0


def test_every_field_that_changes_weights_counts_as_a_difference(config: TrainConfig) -> None:
    before = json.loads(json.dumps(config.as_dict()))
    assert differences(config.as_dict(), before) == []
    for item in fields(TrainConfig):
        changed = before | {item.name: "something else"}
        assert bool(differences(config.as_dict(), changed)) == (item.name not in OPERATIONAL)
    assert differences(replace(config, epochs=3).as_dict(), before) == ["--epochs 3 (was 10)"]


def test_every_field_is_an_option_whose_help_tells_the_default() -> None:
    options = {option.name: option for option in finetune.params}
    unset = finetune.make_context("finetune", ["photos.csv"]).params
    # these have several options or an argument
    others = {"manifest", "more_manifests", "caption_augment"}
    for item in fields(TrainConfig):
        if item.name in others:
            continue
        option = options[item.name]
        assert option.help
        assert not unset[item.name]  # so that a recipe's value can stand
        is_plain = isinstance(item.default, str | int | float) and item.default is not False
        if is_plain:
            assert f"[default: {item.default}]" in option.help, item.name
    more = options.keys() - {item.name for item in fields(TrainConfig)}
    assert more == {
        "manifests", "print_config", "find_batch_size", "show_augmentation", "word_drop",
        "caption_case", "caption_punctuation", "as_json", "check",
        "earlier_zero_shot_classes", "earlier_zero_shot_template",
        "earlier_batches_of", "earlier_batches_in_file_order",
    }  # fmt: skip


def test_help_shows_every_option_once_under_the_heading_of_its_group() -> None:
    shown = CliRunner().invoke(finetune, ["--help"], terminal_width=200).output
    headings = dict(re.findall(r"^(\S[^\n]*):\n((?: +[^\n]+\n)+)", shown, re.MULTILINE))
    assert list(headings)[-len(Group) - 1 :] == ["Options", *Group]
    for name, declared in SETTINGS.items():
        if declared.flag is None:
            assert len(re.findall(rf"[ ,] {option(name)} ", headings[declared.group])) == 1
            assert len(re.findall(rf"^  (?:-\w, )?{option(name)} ", shown, re.MULTILINE)) == 1
    assert shown.count("  --caption-case ") == 1


def test_a_setting_is_declared_once(config: TrainConfig, monkeypatch) -> None:
    """Option, help, check and resuming follow from the field alone."""
    assert SETTINGS["epochs"].range == Range(least=1)
    monkeypatch.setitem(
        SETTINGS, "epochs", replace(SETTINGS["epochs"], range=Range(above=10, below=20))
    )
    with pytest.raises(UsageError, match="--epochs must be above 10 and below 20, not 10"):
        check_config(config)
    check_config(replace(config, epochs=11))
    assert "epochs: Times that every training image is seen. Default: 10." in TrainConfig.__doc__
    assert {name for name in fields(TrainConfig) if name.name not in SETTINGS} == set()


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from clipsearch.cli import main\n"
        "try: main(['finetune', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
