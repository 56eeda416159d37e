"""`clipsearch export`: any checkpoint as an encoder folder, without training."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from clipsearch.cli.options import json_option
from finetune.encoder_folder import DESCRIPTION_FILE
from finetune.errors import ClipsearchError, UsageError


@click.command()
@click.argument("model")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("encoder"),
    show_default=True,
    help="The encoder folder to write.",
)
@click.option("--name", help="The encoder's name for people; the folder's name unless given.")
@click.option("--max-tokens", type=int, help="Cut texts earlier than the model does.")
@click.option("--license", help="Of the weights, for the model card, as the hub writes it: mit.")
@click.option("--overwrite", is_flag=True, help="Replace an encoder that is already in --out.")
@json_option
def export(
    model: str,
    out: Path,
    name: str | None,
    max_tokens: int | None,
    license: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn MODEL into an encoder folder without training it.

    MODEL is the id of a CLIP or SigLIP checkpoint on the Hugging Face hub, or a folder that
    transformers can load. The folder that comes out is what feed, query and serve take; its ONNX
    towers are compared with torch before anything is replaced.

    \b
    Examples:
      clipsearch export openai/clip-vit-base-patch32
      clipsearch export google/siglip-base-patch16-224 --out encoders/siglip
      clipsearch export ./my-checkpoint --out encoder --overwrite
    """
    if (out / DESCRIPTION_FILE).is_file() and not overwrite:
        raise UsageError(
            f"--out {out} already holds an encoder; replace it with --overwrite,"
            f" or give another folder"
        )
    try:
        # torch and transformers, which `clipsearch --help` must not load
        from finetune.export import check_out, export_encoder
        from finetune.model import TINY, load_dual_encoder
    except ModuleNotFoundError as error:
        raise ClipsearchError(
            f"export needs {error.name}; install it with: pip install 'clipsearch[finetune]'"
        ) from error
    if model == TINY:
        raise UsageError(
            'the model "tiny" is made by training; use: clipsearch finetune MANIFEST --model tiny'
        )
    check_out(out)
    click.echo(f"Loading {model} …", err=True)
    dual = load_dual_encoder(model, max_tokens=max_tokens)
    click.echo(f"Writing {out} and comparing its ONNX towers with torch …", err=True)
    description = export_encoder(dual, out, name=name, license=license)
    if as_json:
        click.echo(json.dumps({"out": str(out), **asdict(description)}))
        return
    differences = ", ".join(
        f"{tower} {value:.1e}" for tower, value in description.onnx_max_difference.items()
    )
    click.echo(
        f"{out}: {description.family}, {description.dimension} dimensions,"
        f" {description.preprocessing.width}×{description.preprocessing.height} pixels,"
        f" {description.max_tokens} tokens\n"
        f"largest difference of ONNX to torch: {differences}\n"
        f"fingerprint: {description.fingerprint}"
    )
