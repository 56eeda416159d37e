"""`clipsearch export`: any checkpoint as an encoder folder, without training."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli.card_options import card_facts, card_options
from clipsearch.cli.options import UTF8, NamedPath, json_option, yes_option
from finetune.encoder_folder import (
    DESCRIPTION_FILE,
    EncoderDescription,
    check_fingerprint,
    read_description,
)
from finetune.errors import ClipsearchError, UsageError
from finetune.installing import install_command
from finetune.manifest.inputs import check_no_input, is_same_place
from finetune.text.strict_json import dumps
from finetune.towers import FP32, ONNX_PRECISIONS

if TYPE_CHECKING:
    from clipsearch.evaluation.tower_precision import PrecisionCost
    from finetune.models.dual_encoder import DualEncoder

DEFAULT_OUT = Path("encoder")


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command.

    Attributes:
        model: Id or folder; an encoder folder too.
        text_model: Id or folder of the text tower of a dual encoder of two checkpoints.
        out: The encoder folder to write; None writes none.
        open_clip: The OpenCLIP folder to write; None writes none.
        name, max_tokens: Of what is written.
        license, language, datasets, contact: For the model card; see `CardFacts`.
        wise_ft: Weight of MODEL in the mix with `base`; None mixes nothing.
        base: Id or folder; None is the model that the encoder's training started from.
        precision: Of the ONNX towers.
        measure_on: A manifest on which their recall@10 is compared; None compares none.
        push: "owner/name" on the hub; None uploads nothing.
        private: Whether a repository that is made is private.
        overwrite: Whether finished folders may be replaced.
        yes: Whether also those of an earlier version, which have no list of their files.
    """

    model: str
    text_model: str | None
    out: Path | None
    open_clip: Path | None
    name: str | None
    license: str | None
    language: str | None
    datasets: str | None
    contact: str | None
    max_tokens: int | None
    wise_ft: float | None
    base: str | None
    precision: str
    measure_on: Path | None
    push: str | None
    private: bool
    overwrite: bool
    yes: bool

    @property
    def is_encoder(self) -> bool:
        """Whether MODEL is an encoder folder already."""
        return (Path(self.model) / DESCRIPTION_FILE).is_file()

    @property
    def is_changed(self) -> bool:
        """Whether what comes out is another encoder than MODEL."""
        told = (self.license, self.language, self.datasets, self.contact)
        changes = (self.text_model, self.name, self.max_tokens, self.wise_ft, *told)
        return self.is_smaller or any(value is not None for value in changes)

    @property
    def is_smaller(self) -> bool:
        """Whether the ONNX towers are in fewer bits."""
        return self.precision != FP32

    @property
    def is_left_as_it_is(self) -> bool:
        """Whether nothing is to be written."""
        return self.out is None and self.open_clip is None

    @property
    def uploaded(self) -> Path:
        """The folder that --push uploads."""
        return self.out or self.open_clip or Path(self.model)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was done.

    Attributes:
        encoder: Description of the encoder folder that was written or uploaded, if any.
        out, open_clip: The folders that were written.
        dimension: Values in an embedding, where something was written.
        cost: Of fewer bits, where it was measured.
        pushed: Address on the hub.
    """

    encoder: EncoderDescription | None = None
    out: Path | None = None
    open_clip: Path | None = None
    dimension: int | None = None
    cost: "PrecisionCost | None" = None
    pushed: str | None = None


@click.command()
@click.argument("model", type=NamedPath())
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The encoder folder to write.  [default: encoder, unless --open-clip is given]",
)
@click.option(
    "--text-model",
    metavar="ID|FOLDER",
    help="Take this model for texts and MODEL's image tower, with new projections between them.",
)
@click.option(
    "--open-clip",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write an OpenCLIP checkpoint, of a CLIP; with --out an encoder folder too.",
)
@click.option("--push", metavar="OWNER/NAME", help="Upload the result to the Hugging Face hub.")
@click.option("--private", is_flag=True, help="Make a private repository, where --push makes one.")
@click.option(
    "--wise-ft",
    metavar="NUMBER",
    type=click.FloatRange(0, 1),
    help="Weights between those of --base (0) and MODEL (1); 0.5 is common.",
)
@click.option(
    "--base",
    metavar="ID|FOLDER",
    help="For --wise-ft.  [default: the model that the encoder's training started from]",
)
@click.option(
    "--precision",
    type=click.Choice(ONNX_PRECISIONS),
    default=FP32,
    show_default=True,
    help="Of the ONNX towers: fp16 is half as large, int8 a quarter; the checkpoint stays fp32.",
)
@click.option(
    "--measure-on",
    metavar="MANIFEST",
    type=NamedPath(path_type=Path),
    help="With --precision: say what it costs on these captioned images (the split val, else all):"
    " cosines to fp32, and recall@10 before and after.",
)
@click.option(
    "--name",
    metavar="TEXT",
    type=UTF8,
    help="The encoder's name for people; the folder's name unless given.",
)
@click.option("--max-tokens", metavar="N", type=int, help="Cut texts earlier than the model does.")
@card_options
@click.option("--overwrite", is_flag=True, help="Replace what is already in the folder to write.")
@yes_option(
    "With --overwrite: also a folder of an earlier version, which has no list of its files."
)
@json_option
def export(as_json: bool, **options: Any) -> None:
    """Turn MODEL into an encoder folder without training it.

    MODEL is the id of a CLIP, SigLIP or OpenCLIP checkpoint on the Hugging Face hub, or a folder
    with one; an encoder folder too. The folder that comes out is what feed and query take;
    its ONNX towers are compared with torch before anything is replaced.

    An encoder folder with nothing but --push is uploaded as it is. The token for the hub comes
    from HF_TOKEN or `hf auth login`.

    \b
    Examples:
      clipsearch export openai/clip-vit-base-patch32
      clipsearch export google/siglip-base-patch16-224 --out encoders/siglip
      clipsearch export ./my-checkpoint --out encoder --overwrite
      clipsearch export encoder --push me/birds --private
      clipsearch export encoder --wise-ft 0.5 --out mixed
      clipsearch export encoder --open-clip for-open-clip
      clipsearch export encoder --precision int8 --measure-on photos.csv --out small
      clipsearch export openai/clip-vit-base-patch32 --text-model roberta-base --out start
    """
    request = _with_default_out(Request(**options))
    _check(request)
    if request.push is not None:
        _check_push(request)
    outcome = _check_encoder(request.model) if request.is_left_as_it_is else _convert(request)
    if request.push is not None:
        outcome = replace(outcome, pushed=_push(request))
    _report(outcome, as_json)


def _with_default_out(request: Request) -> Request:
    if request.out is not None or request.open_clip is not None:
        return request
    if request.is_encoder and not request.is_changed:
        if request.push is None:
            raise UsageError(
                f"{request.model} is an encoder folder already; say what to do with it: --push,"
                f" --open-clip, --wise-ft, or --out for a copy with ONNX towers written anew"
            )
        return request
    return replace(request, out=DEFAULT_OUT)


def _check(request: Request) -> None:
    """Raise UsageError for options that cannot work together or would destroy something."""
    if request.private and request.push is None:
        raise UsageError("--private says how --push makes a repository; give --push OWNER/NAME")
    if request.base is not None and request.wise_ft is None:
        raise UsageError("--base is what --wise-ft mixes with; give --wise-ft too, such as 0.5")
    if request.is_smaller and request.open_clip is not None and request.out is None:
        raise UsageError(
            f"--precision {request.precision} is of ONNX towers, and --open-clip writes none; give"
            f" --out too"
        )
    if request.measure_on is not None:
        if not request.is_smaller:
            raise UsageError(
                "--measure-on says what --precision fp16 or int8 costs; give one of them, or"
                " measure this encoder with: clipsearch evaluate"
            )
        from finetune.manifest.manifest import Manifest  # nothing else here reads one

        # A manifest that cannot be read is told of before minutes of export.
        Manifest.open(request.measure_on).close()
    if request.text_model is not None:
        for option, value in (("--wise-ft", request.wise_ft), ("--open-clip", request.open_clip)):
            if value is not None:
                raise UsageError(
                    f"{option} cannot be had with --text-model, whose projections are new and"
                    f" which is no CLIP; leave one of them out"
                )
    folders = [path for path in (request.out, request.open_clip) if path is not None]
    if len(folders) == 2 and is_same_place(*folders):
        raise UsageError(f"--out and --open-clip are both {request.out}; give two folders")
    for option, path in (("--out", request.out), ("--open-clip", request.open_clip)):
        if path is not None:
            read = (request.model, request.text_model, request.base)
            check_no_input(path, f"{option} {path}", read)
    if request.overwrite:
        return
    if request.out is not None and (request.out / DESCRIPTION_FILE).is_file():
        raise UsageError(
            f"--out {request.out} already holds an encoder; replace it with --overwrite,"
            f" or give another folder"
        )
    if request.open_clip is not None and (request.open_clip / "open_clip_config.json").is_file():
        raise UsageError(
            f"--open-clip {request.open_clip} already holds a checkpoint; replace it with"
            f" --overwrite, or give another folder"
        )


def _check_encoder(model: str) -> Exported:
    """Check an encoder folder that is uploaded as it is. Raises EncoderError where it is broken."""
    description = read_description(Path(model))
    check_fingerprint(Path(model), description)
    return Exported(description)


def _convert(request: Request) -> Exported:
    try:
        # torch and transformers, which `clipsearch --help` must not load
        from finetune.config.settings import TINY
        from finetune.export.encoder import check_out, export_encoder
        from finetune.export.openclip import check_open_clip_out, export_open_clip
        from finetune.export.source import load_source
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    if request.model == TINY:
        raise UsageError(
            'the model "tiny" is made by training; use: clipsearch finetune MANIFEST --model tiny'
        )
    if request.out is not None:
        check_out(request.out, yes=request.yes)
    if request.open_clip is not None:
        check_open_clip_out(request.open_clip, yes=request.yes)
    click.echo(f"Loading {request.model} …", err=True)
    source = load_source(
        request.model,
        text_model=request.text_model,
        max_tokens=request.max_tokens,
        wise_ft=request.wise_ft,
        base=request.base,
    )
    _say_what_it_is(request, source.dual)
    facts = card_facts(request.license, request.language, request.datasets, request.contact)
    description = None
    if request.open_clip is not None:
        click.echo(f"Writing {request.open_clip} in OpenCLIP's layout …", err=True)
        export_open_clip(
            source.dual,
            request.open_clip,
            name=request.name,
            metrics=source.metrics,
            recipe=source.recipe,
            facts=facts,
            hub_id=request.push if request.uploaded == request.open_clip else None,
            yes=request.yes,
        )
    if request.out is not None:
        click.echo(f"Writing {request.out} and comparing its ONNX towers with torch …", err=True)
        description = export_encoder(
            source.dual,
            request.out,
            name=request.name,
            metrics=source.metrics,
            recipe=source.recipe,
            files=source.files,
            facts=facts,
            precision=request.precision,
            yes=request.yes,
        )
    cost = _precision_cost(request)
    return Exported(description, request.out, request.open_clip, source.dual.dimension, cost)


def _precision_cost(request: Request) -> "PrecisionCost | None":
    if request.out is None or not request.is_smaller:
        return None
    from clipsearch.evaluation.tower_precision import precision_cost  # heavy, as above

    return precision_cost(request.out, request.measure_on)


def _say_what_it_is(request: Request, dual: "DualEncoder") -> None:
    if request.text_model is not None:
        click.echo(
            f"The projections of {request.model} and {request.text_model} into the common space"
            f" are from scratch: train the result with clipsearch finetune before you search.",
            err=True,
        )
    if request.wise_ft is not None:
        click.echo(
            f"Weights: {1 - request.wise_ft:g} × {dual.base_model} + {request.wise_ft:g} ×"
            f" {request.model}",
            err=True,
        )


def _check_push(request: Request) -> None:
    try:
        from finetune.export.hub import check_push  # the hub's client, which only --push needs
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    assert request.push is not None
    check_push(request.push)


def _push(request: Request) -> str:
    from finetune.export.hub import push  # the hub's client, which only --push needs

    assert request.push is not None
    click.echo(f"Uploading {request.uploaded} to {request.push} …", err=True)
    return push(request.uploaded, request.push, private=request.private)


def _missing(error: ModuleNotFoundError) -> ClipsearchError:
    return ClipsearchError(
        f"export needs {error.name}; install it with: {install_command('finetune')}"
    )


def _report(outcome: Exported, as_json: bool) -> None:
    if as_json:
        places = {"out": outcome.out, "open_clip": outcome.open_clip}
        values = {name: None if path is None else str(path) for name, path in places.items()}
        described = {} if outcome.encoder is None else asdict(outcome.encoder)
        cost = None if outcome.cost is None else asdict(outcome.cost)
        told = {**values, "pushed": outcome.pushed, "precision_cost": cost, **described}
        click.echo(dumps(told, ensure_ascii=True))
        return
    if outcome.out is not None and outcome.encoder is not None:
        _print_encoder(outcome.out, outcome.encoder)
    if outcome.cost is not None and outcome.encoder is not None:
        _print_cost(outcome.cost, outcome.encoder.precision)
    if outcome.open_clip is not None:
        click.echo(
            f"{outcome.open_clip}: OpenCLIP, {outcome.dimension} dimensions; load it with:"
            f' open_clip.create_model_and_transforms("local-dir:{outcome.open_clip}")'
        )
    if outcome.pushed is not None:
        click.echo(f"uploaded: {outcome.pushed}")


def _print_cost(cost: "PrecisionCost", precision: str) -> None:
    for what, cosines in (("texts", cost.texts), ("images", cost.images)):
        click.echo(
            f"cosine of {precision} to fp32, {cosines.count:,} {what}:"
            f" least {cosines.least:.5f}, mean {cosines.mean:.5f}"
        )
    if cost.recall is None or cost.recall_in_fp32 is None:
        click.echo("These were made up; --measure-on MANIFEST measures yours, and recall@10.")
    else:
        click.echo(
            f"text-to-image recall@10, pool of {cost.pool:,}: fp32 {cost.recall_in_fp32:.4f},"
            f" {precision} {cost.recall:.4f} ({cost.recall - cost.recall_in_fp32:+z.4f})"
        )


def _print_encoder(out: Path, description: EncoderDescription) -> None:
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
