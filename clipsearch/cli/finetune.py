"""`clipsearch finetune`: train an encoder on one's own captions."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
import yaml

from clipsearch.cli import EXIT_FAILED, EXIT_SOME_REJECTED
from clipsearch.cli.completion import complete_recipes
from clipsearch.cli.finetune_options import CAPTION_OPTIONS, settings_given, training_options
from clipsearch.cli.groups import GroupedCommand
from clipsearch.cli.messages import note
from clipsearch.cli.options import NamedPath, json_option
from finetune.config.caption_augmentation import CaptionAugmentConfig
from finetune.config.mapping import config_from_mapping
from finetune.config.reading import Reading
from finetune.config.recipes import load_recipe
from finetune.config.run_parts import BaseModel, Translation
from finetune.config.settings import TrainConfig
from finetune.errors import UsageError
from finetune.figures import Measurement
from finetune.optimization.precisions import resolve_device
from finetune.text.strict_json import dumps
from finetune.training.checks import check_config, check_paths
from finetune.training.data_check import NOT_KNOWN, check_data

if TYPE_CHECKING:
    from finetune.training.train import Result


# No path: where something is shown that needs none.
NO_MANIFEST = Path(os.devnull)
SHAPES_SHOWN = 24


@click.command(cls=GroupedCommand, short_help="Train an encoder on your own captions.")
@click.argument("manifests", nargs=-1, metavar="MANIFEST...", type=NamedPath())
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    shell_complete=complete_recipes,
    help="Settings of a published system, or of a YAML file; options override them, and the value"
    " none takes one away.",
)
@click.option("--print-config", is_flag=True, help="Show as YAML what would run, and stop.")
@click.option(
    "--find-batch-size",
    is_flag=True,
    help="Find the largest batch that fits in memory, and stop.",
)
@click.option(
    "--show-augmentation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a contact sheet (.png or .html) of varied pictures and captions, and stop.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Compare MANIFEST with what the recipe expects (counts, splits, classes, captions an"
    " image), and stop; exit code 1 where something differs.",
)
@training_options
@json_option
def finetune(
    manifests: tuple[str, ...],
    recipe: str | None,
    print_config: bool,
    find_batch_size: bool,
    show_augmentation: Path | None,
    check: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Train a CLIP on the images and captions of MANIFEST and write an encoder folder.

    Images of the split train are learned from. After every epoch all images of the split val
    are ranked for each of their captions (MRR@10 over the whole pool); training stops when that
    no longer improves, and the best weights are written. Several manifests are trained on
    together.

    Checkpoints lie in FOLDER.training until the encoder is finished: after a crash, a kill or
    Ctrl-C the same command goes on where it was, to the same numbers. Started by torchrun, the
    processes share each batch with all of its negatives.

    \b
    Examples:
      clipsearch finetune photos.csv --model openai/clip-vit-base-patch32 --out encoder
      clipsearch finetune photos.csv --model encoder --out better --learning-rate 5e-6
      clipsearch finetune photos.csv --model tiny --out encoder --epochs 20 --batch-size 128
      clipsearch finetune --recipe article --print-config
      clipsearch finetune rsicd.json ucm.json sydney.json --recipe rsicd --check

    \b
    Exit codes: 0 done, 3 done but some rows or pictures could not be used (FOLDER/rejected.csv
    names them; not where torchrun started several processes), 130 stopped by Ctrl-C.
    """
    # what only shows something replaces nothing
    only_shows = print_config or find_batch_size or check or show_augmentation is not None
    can_do_without = print_config or show_augmentation is not None
    config = build_config(manifests, recipe, options, without_manifest=can_do_without)
    check_config(config, with_device=False, writes=not only_shows)
    if config.manifest != NO_MANIFEST and not print_config:
        check_paths(config)
    if not print_config and not check:
        if os.environ.get("RANK", "0") == "0":
            click.echo("Loading torch …", err=True)
        resolve_device(config.device, config.precision)  # imports torch
    if check:
        return _check_data(config, recipe, as_json)
    if print_config:
        shown = config.as_dict()
        if config.manifest == NO_MANIFEST:
            del shown["manifest"]
        click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
        return 0
    if show_augmentation is not None:
        if config.manifest == NO_MANIFEST:
            _show_augmentation_of_shapes(config, show_augmentation, recipe)
        else:
            _show_augmentation(config, show_augmentation, recipe)
        return 0
    if find_batch_size:
        # Takes seconds to import: --help and a wrong option must not wait for it.
        from finetune.training.batch_size import report_largest_batch

        click.echo(report_largest_batch(config))
        return 0
    from finetune.training.train import train

    result = train(config)
    if os.environ.get("RANK", "0") != "0":
        return 0  # of several processes the first one talks
    if as_json:
        click.echo(dumps(asdict(result), default=str, indent=2, ensure_ascii=True))
    else:
        _print(result)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return 0  # torchrun takes any other code for a crash
    return EXIT_SOME_REJECTED if result.rejected else 0


def build_config(
    manifests: tuple[str, ...],
    recipe: str | None,
    options: dict[str, Any],
    *,
    without_manifest: bool = False,
) -> TrainConfig:
    """Join the defaults, then the recipe's settings, then the options that were given.

    `without_manifest` takes NO_MANIFEST where none is named.
    """
    values: dict[str, object] = {}
    if recipe is not None:
        loaded = load_recipe(recipe)
        values = dict(loaded.settings) | {"recipe": loaded.name}
    images = options.pop("augment")
    captions = {field: options.pop(name) for name, field in CAPTION_OPTIONS.items()}
    given = settings_given(options, note)
    if manifests:
        values |= {"manifest": manifests[0], "more_manifests": manifests[1:]}
    if without_manifest:
        values.setdefault("manifest", NO_MANIFEST)
    config = config_from_mapping(values | given)
    kept = asdict(config.caption_augment)
    chosen = {name: value for name, value in captions.items() if value is not None}
    return replace(
        config,
        augment=config.augment.override(images),
        caption_augment=CaptionAugmentConfig.from_mapping(kept | chosen),
    )


def _inputs(config: TrainConfig, recipe: str | None) -> list[str | os.PathLike[str] | None]:
    """Return the files and folders that a run reads."""
    models = [config.model, config.text_model]
    return [*config.manifests, *models, config.zero_shot_classes, recipe]


def _check_data(config: TrainConfig, recipe: str | None, as_json: bool) -> int:
    if recipe is None:
        raise UsageError("--check compares with what a recipe expects; name one with --recipe")
    found = check_data(config, load_recipe(recipe))
    if as_json:
        click.echo(dumps(found.as_dict(), indent=2, ensure_ascii=True))
        return 0 if found.is_met else EXIT_FAILED
    width = max(len(each.found) for each in found.comparisons)
    for each in found.comparisons:
        verdict = "as expected" if each.is_met else f"expected {each.expected}"
        if each.expected == NOT_KNOWN:
            verdict = "(not told by the source)"
        click.echo(f"{each.what:<18}{each.found:>{width}}  {verdict}")
    click.echo(f"{'steps':<18}{found.steps:>{width},}  in {config.epochs:,} epochs")
    if found.note:
        note(found.note)
    for warning in found.warnings:
        click.echo(f"Warning: {warning}")
    return 0 if found.is_met else EXIT_FAILED


def _show_augmentation_of_shapes(config: TrainConfig, path: Path, recipe: str | None) -> None:
    from clipsearch.demo.shapes import write_shapes  # light path: Pillow

    with TemporaryDirectory(prefix="clipsearch-") as folder:
        shapes = write_shapes(Path(folder), count=SHAPES_SHOWN)
        own = replace(config, manifest=shapes, split_shares=(1.0, 0.0), batch_size=2)
        _show_augmentation(own, path, recipe)
    click.echo("The pictures are made up; name a MANIFEST to see your own.")


def _show_augmentation(config: TrainConfig, path: Path, recipe: str | None) -> None:
    # numpy, Pillow, torch: `--help` must not wait for them
    from finetune.console import Progress
    from finetune.data.augmentation_sheet import write_augmentation_sheet
    from finetune.data.back_translation import add_captions
    from finetune.data.splits import TrainingManifests
    from finetune.manifest.inputs import check_sheet
    from finetune.training.gradients.distributed import join_world
    from finetune.training.prepare import load_model
    from finetune.training.train import translated

    check_sheet(path, inputs=_inputs(config, recipe), what="--show-augmentation")
    with (
        TrainingManifests.open(Reading.of(config)) as manifests,
        join_world(resolve_device(config.device, config.precision)) as world,
    ):
        splits = manifests.splits(config.batch_plan, evaluates=False)
        dual = load_model(BaseModel.of(config), splits.train.captions)
        data = add_captions(
            splits.train,
            translated(splits.train, Translation.of(config), world, Progress),
            duplicates_only=config.back_translate_duplicates,
        )
        write_augmentation_sheet(
            path,
            data,
            dual.preprocessing,
            config.augment,
            config.caption_augment,
            seed=config.seed,
        )
    click.echo(f"Contact sheet: {path}")


def _print(result: "Result") -> None:
    for when, metrics in (("before", result.baseline), ("after", result.metrics)):
        for each in map(Measurement.from_flat_dict, metrics.values()):
            shown = "  ".join(
                f"{figure.name} {figure.estimate.value:.3f}"
                for figure in each.figures
                if figure.name.startswith(("mrr@10", "recall@1", "hits@"))
            )
            click.echo(
                f"{when:<8}{each.task}  {shown}"
                f"  ({each.scope}, pool of {each.pool:,}, {each.queries:,} queries)"
            )
    if result.stopped_early:
        click.echo(
            f"Stopped early after step {result.steps:,}; step {result.best_step:,} was best."
        )
    if result.metrics and result.best_step == 0:
        click.echo("No step was better than the model that training started from; that is kept.")
    click.echo(f"Encoder: {result.out}")
    if result.rejected:
        click.echo(
            f"{result.rejected:,} rows or pictures could not be used:"
            f" see {result.out / 'rejected.csv'}"
        )
