"""`clipsearch serve`: the HTTP API and the page."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import click

from clipsearch.cli import EXIT_INTERRUPTED
from clipsearch.cli.messages import note
from clipsearch.cli.options import (
    device_option,
    index_option,
    ledger_option,
    moved_encoder_option,
    port_option,
)
from clipsearch.cli.search_options import synonyms_option
from clipsearch.search.synonyms import Synonyms
from clipsearch.server.listening import listen
from clipsearch.server.settings import ServerSettings
from finetune.errors import ClipsearchError, UsageError
from finetune.files.user_folders import user_cache
from finetune.installing import install_command

_LOOKED_FOR = 20
_EXTRA = ("fastapi", "fastapi_offline", "jinja2", "multipart", "prometheus_client", "uvicorn")


@click.command()
@index_option
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at.",
)
@port_option
@click.option(
    "--root-path",
    default="",
    metavar="/PATH",
    help="Path that a server before this one puts it below, as /images.",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="CLIPSEARCH_TOKEN",
    show_envvar=True,
    help="Answer only who has it. Better in the environment: others see command lines.",
)
@click.option(
    "--write-token",
    metavar="TEXT",
    envvar="CLIPSEARCH_WRITE_TOKEN",
    show_envvar=True,
    help="Who has it may change and delete documents; without it nobody may.",
)
@click.option(
    "--uploads",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="CLIPSEARCH_UPLOADS",
    show_envvar=True,
    help="Folder for images that are sent to be indexed; without it none are taken.",
)
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin read answers, as https://photos.example; may be repeated.",
)
@click.option(
    "--images",
    metavar="FOLDER",
    multiple=True,
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Folder of the pictures, if they have moved since the feed; may be repeated.",
)
@synonyms_option
@click.option(
    "--cache",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for thumbnails. [default: your folder for caches]",
)
@ledger_option
@moved_encoder_option
@device_option
def serve(
    index: str,
    host: str,
    port: int,
    root_path: str,
    token: str | None,
    write_token: str | None,
    uploads: Path | None,
    cors: tuple[str, ...],
    images: tuple[Path, ...],
    synonyms: Synonyms,
    cache: Path | None,
    ledger: Path | None,
    encoder: str | None,
    device: str,
) -> int:
    """Answer over HTTP: a page for people, an API for programs.

    Only this machine is listened to unless --host says otherwise. Ctrl-C or SIGTERM ends it, once
    what is under way has been answered.

    \b
    Examples:
      clipsearch serve --index photos.index
      CLIPSEARCH_TOKEN=$(openssl rand -hex 32) clipsearch serve --host 0.0.0.0
      curl 'http://127.0.0.1:8000/v1/search?text=two+dogs&k=3'
    """
    settings = ServerSettings(
        index=index,
        cache=user_cache() if cache is None else cache,
        host=host,
        port=port,
        root_path=root_path.rstrip("/"),
        token=token or None,
        write_token=write_token or None,
        uploads=None if uploads is None else uploads.absolute(),
        ledger=ledger,
        cors=cors,
        encoder=encoder,
        device=device,
        images=images,
        synonyms=synonyms,
    )
    settings.check()

    def tell(address: str) -> None:
        click.echo(f"Serving {index} at {address} (API: {address}/docs)", err=True)
        click.echo(_who_may(settings.is_local, settings.token is not None), err=True)
        # Beside: an engine that is slow to answer keeps no service from starting.
        threading.Thread(target=_tell_missing, args=(index, images), daemon=True).start()

    # a port that is taken is said before the service is imported, which takes its time
    with listen(settings.host, settings.port) as listener:
        ended_by = _service()(settings, listener, tell)
    from clipsearch.server.running import is_still_at_work  # as above

    code = EXIT_INTERRUPTED if ended_by == signal.SIGINT else 0
    if is_still_at_work():
        sys.stderr.flush()
        os._exit(code)
    return code


def _tell_missing(index: str, images: Sequence[Path]) -> None:
    with contextlib.suppress(ClipsearchError):  # is told to who asks
        missing = _missing_images(index, images)
        if missing is not None:
            note(missing)


def _missing_images(index: str, images: Sequence[Path]) -> str | None:
    """Return what `about_missing` says of a few documents."""
    from clipsearch.engines import open_engine  # light path: with the service
    from clipsearch.search.missing_images import about_missing

    engine = open_engine(index)
    try:
        paths = [document.path for document in islice(engine.visit(), _LOOKED_FOR)]
        return about_missing(paths, engine.info, images)
    finally:
        engine.close()


def _service() -> Callable[[ServerSettings, socket.socket, Callable[[str], None]], int]:
    """Return what answers. Raises UsageError where packages of the extra are missing."""
    try:
        from clipsearch.server.running import serve  # FastAPI takes half a second to import
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise UsageError(
            f"serving needs {error.name}, which is not installed;"
            f" install it with: {install_command('serve')}"
        ) from error
    return serve


def _who_may(is_local: bool, has_token: bool) -> str:
    if is_local:
        return "Only this machine can ask; --host 0.0.0.0 lets others, best with --token."
    if has_token:
        return "Other machines can ask with the token; put a server with TLS before it."
    return "Warning: every machine that reaches this address can ask and see all pictures; --token."
