"""`clipsearch describe`."""

import click

from clipsearch.cli.image_addresses import image_file, private_addresses_option
from clipsearch.cli.options import (
    UTF8,
    device_option,
    index_option,
    json_option,
    limit_option,
    moved_encoder_option,
)
from finetune.console import printable
from finetune.images.addresses import FetchLimits


@click.command()
@click.argument("image", metavar="IMAGE|ID")
@index_option
@moved_encoder_option
@device_option
@limit_option("Captions shown.", 5)
@click.option(
    "--candidates",
    metavar="N",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Nearest pictures whose captions are compared.",
)
@private_addresses_option
@json_option
def describe(
    image: str,
    index: str,
    encoder: str | None,
    device: str,
    k: int,
    candidates: int,
    limits: FetchLimits,
    as_json: bool,
) -> None:
    """Show the captions of the index that lie nearest to a picture.

    Those of the pictures nearest to it are embedded and compared with it. IMAGE is a picture file;
    where there is none of that name, the id of a picture of the index, whose own captions are left
    out.

    \b
    Examples:
      clipsearch describe picture.jpg --index photos.index
      clipsearch describe beach/0001.jpg --index photos.index -k 3 --json
    """
    # Light path: NumPy and the engines.
    from clipsearch.recognition.describe import describe as captions_near
    from clipsearch.search.answer import json_text
    from clipsearch.search.parts import Part
    from clipsearch.search.search import Search

    file = image_file(image, limits)
    part = Part("id", UTF8.convert(image, None, None)) if file is None else Part("image", file)
    with Search.open(index, encoder=encoder, device=device) as search:
        found = captions_near(search, part, k=k, candidates=candidates)
    if as_json:
        click.echo(json_text({"image": image, "captions": [e.to_json() for e in found]}, indent=2))
        return
    for each in found:
        more = f" and {len(each.ids) - 1} more" if len(each.ids) > 1 else ""
        click.echo(
            f"{each.cosine:z.4f}  {printable(each.caption)}  ({printable(each.ids[0])}{more})"
        )
    if not found:
        click.echo("No picture near it has a caption.")
