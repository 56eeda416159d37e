"""`clipsearch locate`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli.image_addresses import image_file, private_addresses_option
from clipsearch.cli.messages import note
from clipsearch.cli.options import (
    UTF8,
    device_option,
    index_of_encoder_option,
    json_option,
    moved_encoder_option,
    moved_images_option,
)
from clipsearch.localization.methods import DEFAULT_METHOD, DENSE, METHODS, WINDOWS
from finetune.console import printable
from finetune.errors import ImageError, UsageError
from finetune.images.addresses import FetchLimits

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipsearch.localization.heat_map import FoundBox, HeatMap
    from clipsearch.search.standing import Standing

_BOXES_SHOWN = 5
# Of the picture: a box that is larger says nothing of where.
_NEARLY_ALL = 0.8
_HOW = {
    DENSE: "all patches of the picture at once (--method dense)",
    WINDOWS: "parts of three sizes, each as if it were a picture (--method windows)",
}


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was found in a picture.

    Attributes:
        picture: As it was looked at.
        found: How strongly each part answers.
        whole: The cosine of the picture as a whole.
        standing: How many images of the index are nearer; None where there is none.
    """

    picture: "Image"
    found: "HeatMap"
    whole: float
    standing: "Standing | None" = None


@click.command()
@click.argument("image", metavar="IMAGE|ID")
@click.argument("text", type=UTF8)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the picture with the heat map over it, a .png.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Encode parts of several sizes like pictures (windows), or all patches at once (dense)."
    f" [default: {DEFAULT_METHOD}]",
)
@index_of_encoder_option
@moved_encoder_option
@device_option
@moved_images_option
@private_addresses_option
@json_option
def locate(
    image: str,
    text: str,
    out: Path | None,
    method: str | None,
    index: str | None,
    encoder: str | None,
    device: str,
    images: Path | None,
    limits: FetchLimits,
    as_json: bool,
) -> None:
    """Show where in a picture TEXT is: how strongly each part of it answers.

    IMAGE is a picture file; where there is none of that name, the id of a picture of the index.
    A file needs no index where --encoder says what looks. How good a cosine is, the picture as a
    whole tells, and with --index how many of its images are nearer to TEXT. The method dense needs
    an encoder with onnx/patches.onnx, as finetune and export write it of CLIP and SigLIP towers.

    \b
    Examples:
      clipsearch locate picture.jpg "a red circle" --encoder encoder --out map.png
      clipsearch locate beach/0001.jpg "two dogs" --index photos.index --json
    """
    file = image_file(image, limits)
    if file is None:
        UTF8.convert(image, None, None)
    if not text.strip():
        raise UsageError("TEXT is empty, which is nothing to look for; give some")
    if out is not None:
        _check_out(out, [file, encoder])
    if index is not None:
        looked = _by_index(image, file, text, method, index, encoder, device, images)
    elif file is None:
        raise ImageError(
            f"{image}: no such picture file; give the path of one, or --index TARGET for an id"
        )
    elif encoder is None:
        raise UsageError(
            "nothing says which encoder looks: give --encoder FOLDER or --index TARGET"
        )
    else:
        looked = _by_encoder(file, text, method, encoder, device)
    if out is not None:
        from clipsearch.localization.drawing import write_heat_map  # light path: NumPy, Pillow

        write_heat_map(out, looked.found, looked.picture)
    _show(image, text, looked, as_json)
    if out is not None:
        click.echo(f"Wrote {out}", err=True)


def _check_out(out: Path, inputs: list[Path | str | None]) -> None:
    """Raise UsageError unless a heat map can be written to `out`."""
    from finetune.manifest.inputs import check_sheet  # light path: PyYAML

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: a heat map is a .png; give it such a name")
    check_sheet(out, inputs=inputs, what="--out")


def _by_index(
    image: str,
    file: Path | None,
    text: str,
    method: str | None,
    index: str,
    encoder: str | None,
    device: str,
    images: Path | None,
) -> _Looked:
    """Open the image, a file or of an id, and look with the encoder of the index."""
    from clipsearch.localization.locate import locate as look  # light path: the engines
    from clipsearch.search.parts import Part
    from clipsearch.search.query_images import opened
    from clipsearch.search.search import Search
    from clipsearch.search.standing import standing

    with Search.open(index, encoder=encoder, device=device) as search:
        seen = search.encoder.preprocessing.transparency
        picture = search.open_image(image, images) if file is None else opened(file, seen)
        vector = search.vector_of([Part("text", text)])
        found = look(search.encoder, picture, vector, method, name=image)
        whole = float(search.encoder.encode_images([picture])[0] @ vector)
        return _Looked(picture, found, whole, standing(search.engine, vector, whole))


def _by_encoder(file: Path, text: str, method: str | None, encoder: str, device: str) -> _Looked:
    """Open the image and look with an encoder folder."""
    from clipsearch.encoder.encoder import Encoder  # light path: NumPy, Pillow
    from clipsearch.localization.locate import locate as look
    from clipsearch.search.query_images import opened

    loaded = Encoder.load(encoder, device=device)
    picture = opened(file, loaded.preprocessing.transparency)
    vector = loaded.encode_texts([text])[0]
    found = look(loaded, picture, vector, method, name=str(file))
    return _Looked(picture, found, float(loaded.encode_images([picture])[0] @ vector))


def _show(image: str, text: str, looked: _Looked, as_json: bool) -> None:
    from clipsearch.search.answer import json_text  # light path: NumPy

    found, among = looked.found, looked.standing
    if as_json:
        asked = {"image": image, "text": text}
        whole = {"cosine": looked.whole, "standing": None if among is None else asdict(among)}
        click.echo(json_text({**asked, "whole": whole, **found.to_json()}, indent=2))
        return
    peak = found.peak
    click.echo(
        f"{printable(text)} in {printable(image)} ({found.width} x {found.height} pixels):"
        f" {_HOW[found.method]}"
    )
    click.echo(f"as a whole: cosine {looked.whole:z.4f}{_nearer(among)}")
    weakest = float(found.cosines.min())
    click.echo(
        f"strongest at {peak.x:.0f},{peak.y:.0f}: cosine {peak.cosine:z.4f};"
        f" weakest: {weakest:z.4f}"
    )
    for each in found.boxes[:_BOXES_SHOWN]:
        click.echo(f"box {each.box}: cosine up to {each.cosine:z.4f}")
    if len(found.boxes) > _BOXES_SHOWN:
        click.echo(f"and {len(found.boxes) - _BOXES_SHOWN} more boxes (--json has them all)")
    if not found.boxes:
        click.echo("All parts answer alike.")
    elif _is_nearly_all(found.boxes[0], found):
        click.echo("No part stands out: what answers reaches over nearly all of the picture.")
    for told in found.notes:
        note(told)


def _nearer(among: "Standing | None") -> str:
    if among is None:
        return ""
    nearer = f"{among.nearer:,} of the {among.images:,} images" if among.nearer else "no image"
    return f" ({nearer} of the index {'are' if among.nearer > 1 else 'is'} nearer to the text)"


def _is_nearly_all(found: "FoundBox", within: "HeatMap") -> bool:
    box = found.box
    return box.width * box.height >= _NEARLY_ALL * within.width * within.height
