"""`clipsearch encoder`: fetch ready encoders, and look into encoder folders."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from clipsearch.cli.completion import complete_encoder_ids, complete_encoders
from clipsearch.cli.options import NamedPath, json_option
from clipsearch.hub.known import DEFAULT, KNOWN, VisionShape
from clipsearch.hub.license import license_of, told_license
from finetune.encoder_folder import (
    DESCRIPTION_FILE,
    EncoderDescription,
    check_fingerprint,
    read_description,
)
from finetune.text.strict_json import dumps
from finetune.towers import FP32, ONNX_PRECISIONS


@click.group()
def encoder() -> None:
    """Fetch ready encoders from the Hugging Face hub, and look into encoder folders.

    They need no torch: the models of `clipsearch encoder list` have ONNX towers on the hub.
    """


@encoder.command()
@click.argument("model", metavar="ID", shell_complete=complete_encoder_ids)
@click.option(
    "--out",
    metavar="FOLDER",
    type=NamedPath(path_type=Path),
    help="The encoder folder to write; one in your cache unless given.",
)
@click.option(
    "--precision",
    type=click.Choice(ONNX_PRECISIONS),
    default=FP32,
    show_default=True,
    help="Of the towers, where the hub has them so: fp16 is half as large, int8 a quarter.",
)
@click.option("--overwrite", is_flag=True, help="Fetch anew what is there already.")
@json_option
def get(model: str, out: Path | None, precision: str, overwrite: bool, as_json: bool) -> None:
    """Fetch the encoder ID (OWNER/NAME) from the Hugging Face hub.

    The hub is the one that HF_ENDPOINT names, or the public one; HF_TOKEN is sent to it. A
    download that broke off goes on, and every file is checked by the hash that the hub names. A
    model without ONNX towers is exported from its weights, which needs the extra finetune.

    \b
    Examples:
      clipsearch encoder get Xenova/clip-vit-base-patch32
      clipsearch encoder get openai/clip-vit-base-patch32 --out encoder
      clipsearch encoder get Xenova/clip-vit-base-patch16 --precision int8
    """
    # light path: onnxruntime
    from clipsearch.hub.fetching import encoder_place, get_encoder

    was_there = (encoder_place(model, out, precision) / DESCRIPTION_FILE).is_file()
    folder = get_encoder(model, out, precision=precision, overwrite=overwrite)
    if was_there and not overwrite:
        click.echo("It is there already; --overwrite fetches it anew.", err=True)
    _tell(folder, read_description(folder), as_json)


@encoder.command("list", short_help="List encoders of the hub that fit; the first is the default.")
@click.option(
    "--speed", is_flag=True, help="Measure how fast towers of these shapes are here: half a minute."
)
@json_option
def list_(speed: bool, as_json: bool) -> None:
    """List encoders of the hub that are known to fit; the first is the default.

    Licences and sizes are as their makers' model cards said in November 2026, and are not asked for
    here; sizes are of the towers in float32. With --speed, images a second of a tower of each shape
    with random weights, run by ONNX Runtime as a feed runs towers, on this machine now; images are
    not read for it. It needs the extra finetune.

    \b
    Examples:
      clipsearch encoder list
      clipsearch encoder list --speed
    """
    measure: Callable[[VisionShape], float] | None = None
    if speed:
        import onnx  # noqa: F401  # is missed at once, not after the first row

        from clipsearch.hub.speed import images_per_second  # light path: onnxruntime

        measure = images_per_second

    if as_json:
        rows: list[dict[str, object]] = []
        for each in KNOWN:
            row = {**asdict(each), "default": each is DEFAULT}
            if measure is not None:
                row["images_per_second"] = round(measure(each.shape), 1)
            rows.append(row)
        click.echo(dumps(rows, indent=2))
        return
    width = max(len(each.id) for each in KNOWN) + 2
    last = "" if measure is None else f"{'images/s':>10}"
    click.echo(f"{'id':{width}}{'licence':12}{'size':>9}{'dim':>6}  {'languages':9}{last}")
    for each in KNOWN:
        size = f"{each.megabytes:,} MB"
        row_text = f"{each.id:{width}}{each.license:12}{size:>9}{each.dimension:>6}  "
        click.echo(row_text + f"{each.languages:{9 if last else 0}}", nl=False)
        if measure is not None:
            sys.stdout.flush()  # at once: the speed takes a moment
            click.echo(f"{measure(each.shape):>10.1f}", nl=False)
        click.echo()
    said = (
        f"Taken where a first feed names none: {DEFAULT.id}. Licences and sizes by the model cards"
        f" of November 2026."
    )
    if measure is not None:
        said += (
            " Images/s: of towers of these shapes with random weights, in ONNX Runtime, here and"
            " now, without reading pictures."
        )
    click.echo(said)


@encoder.command(short_help="Show what an encoder is, and check its files.")
@click.argument(
    "folder",
    metavar="FOLDER|ID",
    type=NamedPath(path_type=Path),
    shell_complete=complete_encoders,
)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show what an encoder is, and check its files against its fingerprint.

    FOLDER is its folder; ID one of the hub that was fetched into your cache.

    \b
    Examples:
      clipsearch encoder show encoder
      clipsearch encoder show Xenova/clip-vit-base-patch32
    """
    from clipsearch.hub.fetching import fetched_folder  # light path: onnxruntime

    folder = fetched_folder(folder)
    description = read_description(folder)
    check_fingerprint(folder, description)
    _tell(folder, description, as_json)


def _tell(folder: Path, description: EncoderDescription, as_json: bool) -> None:
    if as_json:
        told = {"folder": str(folder), **asdict(description), "license": license_of(folder) or None}
        click.echo(dumps(told, ensure_ascii=True))
        return
    preprocessing = description.preprocessing
    bytes_in_all = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    click.echo(
        f"{folder}: {description.name}, {description.family}, {description.dimension} dimensions,"
        f" {preprocessing.width}×{preprocessing.height} pixels, {description.max_tokens} tokens,"
        f" {description.precision}, {bytes_in_all / 1e6:,.0f} MB\n"
        f"base model: {description.base_model or 'unknown'}\n"
        f"licence: {told_license(folder, description.base_model)}\n"
        f"fingerprint: {description.fingerprint}"
    )
