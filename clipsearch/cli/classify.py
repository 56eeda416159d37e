"""`clipsearch classify`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli.completion import complete_labels
from clipsearch.cli.image_addresses import image_file, private_addresses_option
from clipsearch.cli.messages import note
from clipsearch.cli.options import (
    UTF8,
    device_option,
    index_of_encoder_option,
    json_option,
    limit_option,
    moved_encoder_option,
    templates_option,
)
from finetune.console import printable
from finetune.errors import ImageError, UsageError
from finetune.images.addresses import FetchLimits

if TYPE_CHECKING:
    from clipsearch.encoder.encoder import Encoder
    from clipsearch.recognition.classify import Classified
    from clipsearch.search.search import Search
    from finetune.arrays import Float32


@click.command()
@click.argument("images", metavar="IMAGE|ID…", nargs=-1, required=True)
@click.option(
    "--labels",
    metavar="FILE|COLUMN",
    shell_complete=complete_labels,
    type=UTF8,
    required=True,
    help="What to choose among: a file with a label a line; a list that ships"
    " (rsicd-classes.txt); or a tag column of the index, all its values.",
)
@templates_option
@index_of_encoder_option
@moved_encoder_option
@device_option
@limit_option("Labels shown of each picture; --csv has all.", 5)
@click.option(
    "--csv",
    "table",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a row a picture: the likeliest label, and the probability of every one.",
)
@private_addresses_option
@json_option
def classify(
    images: tuple[str, ...],
    labels: str,
    templates: tuple[str, ...],
    index: str | None,
    encoder: str | None,
    device: str,
    k: int,
    table: Path | None,
    limits: FetchLimits,
    as_json: bool,
) -> None:
    """Say which of several labels a picture has: how likely each is.

    By prompts, without training: the label whose description lies nearest is the likeliest. The
    probabilities are among these labels, so they sum to 1 also where none fits. IMAGE is a picture
    file; where there is none of that name, the id of a picture of the index.

    \b
    Examples:
      clipsearch classify a.jpg b.jpg --labels labels.txt --encoder encoder
      clipsearch classify a.jpg --labels class --index photos.index --csv classes.csv
      clipsearch classify air.jpg --labels rsicd-classes.txt --encoder encoder \\
          --template "An aerial photograph of {category}"
    """
    from clipsearch.recognition.classify import check_table, write_table  # light path: NumPy
    from finetune.evaluation.zero_shot import TEMPLATES, check_templates

    templates = templates or TEMPLATES
    check_templates(templates)
    if table is not None:
        files = [Path(each) for each in (*images, labels) if os.path.isfile(each)]  # noqa: PTH113
        check_table(table, "--csv", [*files, encoder])
    named = [image_file(image, limits) or image for image in images]
    found = _classified(named, labels, templates, index, encoder, device)
    _show(images, found, k, as_json)
    if table is not None:
        rows = zip(images, [""] * len(images), found.probabilities, strict=True)
        write_table(table, "--csv", found.labels, rows, with_own=False)
        click.echo(f"Wrote {table}", err=True)


def _classified(
    images: Sequence[str | Path],
    labels: str,
    templates: tuple[str, ...],
    index: str | None,
    encoder: str | None,
    device: str,
) -> "Classified":
    """Read the labels, embed the pictures, and classify them."""
    # Light path: NumPy, Pillow, the engines.
    from dataclasses import replace

    from clipsearch.encoder.encoder import Encoder
    from clipsearch.recognition.classify import classify as classify_embeds
    from clipsearch.recognition.labels import read_labels
    from clipsearch.search.search import Search

    if index is None:
        if encoder is None:
            raise UsageError(
                "nothing says which encoder looks: give --encoder FOLDER or --index TARGET"
            )
        names, _ = read_labels(labels)
        loaded = Encoder.load(encoder, device=device)
        embeds = _embedded(images, loaded, None)
        return classify_embeds(loaded, embeds, names, templates)
    with Search.open(index, encoder=encoder, device=device) as search:
        names, notes = read_labels(labels, search)
        embeds = _embedded(images, search.encoder, search)
        found = classify_embeds(search.encoder, embeds, names, templates)
        return replace(found, notes=(*notes, *found.notes))


def _embedded(
    images: Sequence[str | Path], encoder: "Encoder", search: "Search | None"
) -> "Float32":
    """Return the embeddings, float32[n, d]: files are encoded, ids are read from the index."""
    import numpy as np

    from clipsearch.search.parts import Part

    is_file = [isinstance(image, Path) for image in images]
    embeds = np.empty((len(images), encoder.dimension), np.float32)
    for row, (image, is_one) in enumerate(zip(images, is_file, strict=True)):
        if not is_one and search is None:
            raise ImageError(
                f"{image}: no such picture file; give the path of one, or --index TARGET for an id"
            )
        if not is_one and search is not None:
            embeds[row] = search.vector_of([Part("id", UTF8.convert(image, None, None))])
    files = [Path(image) for image, is_one in zip(images, is_file, strict=True) if is_one]
    embeds[is_file] = encoder.encode_images(files)
    return embeds


def _show(images: tuple[str, ...], found: "Classified", k: int, as_json: bool) -> None:
    from clipsearch.search.answer import json_text  # light path: NumPy

    if as_json:
        click.echo(json_text(found.to_json(images, k), indent=2))
        return
    for row, image in enumerate(images):
        click.echo(printable(image))
        for label, probability in found.best(row, k):
            click.echo(f"  {probability:.4f}  {printable(label)}")
    for told in found.notes:
        note(told)
