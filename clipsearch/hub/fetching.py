"""An encoder by its name: a folder that is here, one that was fetched before, or one of the hub."""

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import click

from clipsearch.hub.connection import HubConnection, check_online
from clipsearch.hub.download import MEGABYTE, HubModel, check_space, download, look_up
from clipsearch.hub.folder import EXTRA_FILES, FILES, TowerFiles, assemble
from clipsearch.hub.known import DEFAULT, is_hub_id, known_encoder
from finetune.console import Progress
from finetune.encoder_folder import DESCRIPTION_FILE, check_fingerprint, read_description
from finetune.errors import EncoderError, HubError, UsageError
from finetune.files.lock import HeldElsewhereError, hold
from finetune.files.user_folders import user_cache
from finetune.installing import install_command
from finetune.towers import FP32

# A tower's file holds a little beside its parameters.
_SIZE_MAY_DIFFER = 0.05


def encoder_folder(name: str | Path, stream: TextIO | None = None) -> Path:
    """Return the encoder folder that `name` means, fetched first where it is an id of the hub.

    Args:
        name: A folder, or an id; a folder that is there goes first.
        stream: Of the progress; standard error where None.

    Raises HubError, EncoderError and UsageError as `get_encoder` does.
    """
    path = Path(name)
    if path.exists() or not is_hub_id(str(name)):
        return path
    return get_encoder(str(name), stream=stream)


def fetched_folder(name: str | Path) -> Path:
    """Return the encoder folder that `name` means, without fetching anything.

    Raises HubError where it is an id of the hub that was not fetched into the user's cache.
    """
    path = Path(name)
    if path.exists() or not is_hub_id(str(name)):
        return path
    folder = encoder_place(str(name), None, FP32)
    if not (folder / DESCRIPTION_FILE).is_file():
        raise HubError(
            f"{name}: is no folder here, and was not fetched; do that with: clipsearch encoder get"
            f" {name}"
        )
    return folder


def default_encoder(stream: TextIO | None = None) -> Path:
    """Return the folder of the encoder that is taken where none is named; fetched once.

    Raises HubError and EncoderError as `get_encoder` does.
    """
    place = cached_folder(DEFAULT.id, FP32)
    again = "" if place.is_dir() else f", about {DEFAULT.megabytes:,} MB, fetched once into {place}"
    click.echo(
        f"No --encoder: taking {DEFAULT.id} ({DEFAULT.languages}, licence {DEFAULT.license}"
        f"{again}).",
        err=True,
        file=stream,
    )
    return get_encoder(DEFAULT.id, stream=stream)


def cached_folder(model: str, precision: str) -> Path:
    """Return where a fetched encoder lies unless another place is named.

    Raises UsageError where the user has no home.
    """
    end = "" if precision == FP32 else f"-{precision}"
    return _cache() / "encoders" / f"{model.replace('/', '--')}{end}"


def encoder_place(name: str, out: Path | None, precision: str) -> Path:
    """Return where `get_encoder` puts this model of the hub: `out`, or a folder in the cache."""
    return cached_folder(_id_of_towers(name), precision) if out is None else out


def _id_of_towers(name: str) -> str:
    known = known_encoder(name)
    return name if known is None else known.id


def get_encoder(
    name: str,
    out: Path | None = None,
    *,
    precision: str = FP32,
    overwrite: bool = False,
    stream: TextIO | None = None,
) -> Path:
    """Fetch an encoder of the hub, and return its folder; one that is there is not asked for again.

    A model without ONNX towers is exported from its weights where torch is installed.

    Args:
        name: "owner/name"; of an original whose towers lie elsewhere, those are taken.
        out: The folder; None is one in the user's cache.
        precision: Of the towers, one of ONNX_PRECISIONS.
        overwrite: Fetch anew what is there.
        stream: Of the progress; standard error where None.

    Raises HubError where the hub cannot be reached, has no such model, refuses or sends something
    else, EncoderError for a model that is of no use here, and UsageError for no id.
    """
    if not is_hub_id(name):
        raise UsageError(
            f"{name}: is no id of the Hugging Face hub, which is OWNER/NAME; see: clipsearch"
            f" encoder list"
        )
    model_id = _id_of_towers(name)
    folder = encoder_place(name, out, precision)
    if (folder / DESCRIPTION_FILE).is_file() and not overwrite:
        if read_description(folder).base_model not in (name, model_id):
            raise UsageError(
                f"--out {folder}: holds another encoder; replace it with --overwrite, or give"
                f" another folder"
            )
        return folder
    if out is not None and not overwrite and _copied(cached_folder(model_id, precision), out):
        return out
    check_online(name)
    hub = HubConnection()
    model = look_up(hub, model_id)
    towers = TowerFiles.of(precision)
    if not {towers.text, towers.image} <= set(model.files):
        return _export(hub, model, folder, precision)
    for difference in differences(model, towers if precision == FP32 else None):
        click.echo(f"Note: {difference}", err=True, file=stream)
    _fetch(hub, model, folder, precision, stream)
    return folder


def differences(model: HubModel, towers: TowerFiles | None = None) -> list[str]:
    """Return where the hub says another licence, or size of the float32 `towers`, than KNOWN."""
    known = known_encoder(model.id)
    if known is None:
        return []
    found = []
    if model.license and model.license.lower() != known.license.lower():
        found.append(
            f"the hub says of {model.id}: licence {model.license}; clipsearch's own list says"
            f" {known.license}, which was so in November 2026"
        )
    if towers is not None:
        size = sum(model.files[path].size for path in (towers.text, towers.image)) / MEGABYTE
        if abs(size - known.megabytes) > _SIZE_MAY_DIFFER * known.megabytes:
            found.append(
                f"the hub says of {model.id}: {size:,.0f} MB of towers; clipsearch's own list says"
                f" {known.megabytes:,} MB"
            )
    return found


def _copied(cached: Path, out: Path) -> bool:
    """Copy what was fetched into the cache, if it was and is whole, to a place with nothing."""
    if not (cached / DESCRIPTION_FILE).is_file() or out.exists():
        return False
    check_fingerprint(cached, read_description(cached))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        shutil.copytree(cached, Path(beside) / out.name).rename(out)
    return True


def _fetch(
    hub: HubConnection, model: HubModel, folder: Path, precision: str, stream: TextIO | None
) -> None:
    towers = TowerFiles.of(precision)
    missing = [path for path in FILES if path not in model.files]
    if missing:
        raise EncoderError(
            f"{model.id}: has no {missing[0]}, without which its towers cannot be used; take"
            f" another of: clipsearch encoder list"
        )
    wanted = [*FILES, *(path for path in EXTRA_FILES if path in model.files)]
    files = [model.files[path] for path in (*wanted, towers.text, towers.image)]
    downloads = _cache() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    megabytes = round(sum(file.size for file in files) / MEGABYTE)
    with _alone(downloads):
        check_space(files, downloads)
        with Progress(f"fetch {model.id}", megabytes, unit="MB", stream=stream) as progress:
            fetched = {file.path: download(hub, model, file, downloads, progress) for file in files}
            progress.done = megabytes
        folder.parent.mkdir(parents=True, exist_ok=True)
        assemble(model, fetched, folder, precision, yes=False)
        for file in fetched.values():
            file.unlink(missing_ok=True)


def _export(hub: HubConnection, model: HubModel, folder: Path, precision: str) -> Path:
    """Export the model's own weights with torch. Raises HubError where that is not installed."""
    towers = TowerFiles.of(precision)
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnx") is None:
        raise HubError(
            f"{model.id}: {hub.endpoint} has no {towers.text} and {towers.image} of it, and to make"
            f" them of its weights takes torch: {install_command('finetune')}, or take one of:"
            f" clipsearch encoder list"
        )
    # torch and transformers, which only this needs
    from finetune.export.card_facts import CardFacts
    from finetune.export.encoder import export_encoder
    from finetune.export.source import load_source

    click.echo(f"{model.id} has no ONNX towers on the hub: exporting its weights …", err=True)
    source = load_source(model.id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    facts = CardFacts(license=model.license or None)
    export_encoder(source.dual, folder, name=model.id, facts=facts, precision=precision)
    return folder


def _cache() -> Path:
    try:
        return user_cache()
    except RuntimeError as error:
        raise UsageError(
            f"there is no place for what is fetched ({error}); say where with XDG_CACHE_HOME, or"
            f" give the folder with: clipsearch encoder get ID --out FOLDER"
        ) from error


@contextlib.contextmanager
def _alone(downloads: Path) -> Iterator[None]:
    """Keep other processes from the same downloads. Raises HubError where one is at them."""
    try:
        lock = hold(downloads / "lock", "fetch")
    except HeldElsewhereError as error:
        raise HubError(
            f"{downloads}: another clipsearch is fetching an encoder; wait for it, and run the"
            f" same command again"
        ) from error
    with lock:
        yield
