"""An index: opened, its files read again, its encoder and images found; and a Vespa's package."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from clipsearch.deployment.config_server import ConfigServer
from clipsearch.deployment.deployed import (
    CONFIG_SERVER_PORT,
    IMAGE_SCHEMA,
    deployed_info,
    embedding_field,
    open_index,
    other_application,
)
from clipsearch.deployment.options import DeployOptions, Wanted
from clipsearch.deployment.package import md5_of, render
from clipsearch.doctor.findings import Colour, Finding, examined
from clipsearch.doctor.self_test import encode
from clipsearch.engine import Engine, IndexInfo
from clipsearch.engines import is_remote, open_engine
from clipsearch.engines.local.checksums import verify
from clipsearch.search.images import ImageFolders
from clipsearch.search.index_encoder import check_encoder
from finetune.encoder_folder import read_description
from finetune.errors import ClipsearchError, EngineError

IMAGES_LOOKED_FOR = 100
# Reading more takes longer than one waits for a doctor.
MOST_BYTES_VERIFIED = 1 << 30
_DEPLOY = "clipsearch deploy --config-server … --encoder …"
_SECONDS = 5.0


def look_into(
    target: str, encoder: str | None, config_server: str | None = None
) -> Iterator[Finding]:
    """Look at an index, its encoder and its images, and at the package of a Vespa.

    `config_server` is the address of the one that holds it; None looks beside the index.

    Raises EngineError where no index can be opened.
    """
    if is_remote(target):
        yield from examined("vespa", partial(_vespa, target, config_server))
    engine = open_engine(target)
    try:
        count = engine.count()
        mend = "" if count else f"clipsearch feed MANIFEST --index {target}"
        yield Finding("index", "green" if count else "yellow", f"{count:,} documents", mend)
        yield from _encoder(engine.info, encoder)
        if count:
            yield from examined("images", partial(_images, engine))
    finally:
        engine.close()
    if not is_remote(target):
        yield from examined("checksums", partial(_checksums, Path(target)))


def _encoder(info: IndexInfo, named: str | None) -> Iterator[Finding]:
    if info.encoder_fingerprint is None and named is None:
        said = "none: ready-made vectors, searched by words and by vectors of one's own"
        yield Finding("encoder", "green", said)
        return
    folder = Path(named or info.encoder_path or "")
    try:
        check_encoder(folder, read_description(folder), info)
    except ClipsearchError as error:
        yield Finding("encoder", "red", str(error), "name where it lies now with --encoder")
        return
    yield from examined("encoder", partial(encode, folder))


def _images(engine: Engine) -> Iterator[Finding]:
    folders = ImageFolders(engine.info)
    looked = [each.path for each in islice(engine.visit(), IMAGES_LOOKED_FOR) if each.path]
    if not looked:
        yield Finding("images", "green", "the documents name none")
        return
    found = sum(map(folders.has, looked))
    said = f"{found} of {len(looked)} looked for are here (fed from {engine.info.images_root})"
    colour: Colour = "green" if found == len(looked) else "yellow"
    mend = "" if found == len(looked) else "say where they are with query --images FOLDER"
    yield Finding("images", colour, said, mend)


def _checksums(folder: Path) -> Iterator[Finding]:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES_VERIFIED:
        mend = f"clipsearch status --verify --index {folder}"
        said = f"not compared: {size / 2**30:.1f} GiB take a while"
        yield Finding("checksums", "yellow", said, mend)
        return
    result = verify(folder)
    if result.broken:
        name, reason = next(iter(result.broken.items()))
        said = (
            f"{len(result.broken)} of {result.files} files are broken, the first {name}: {reason}"
        )
        yield Finding("checksums", "red", said, "take a backup, or feed the index anew")
    else:
        yield Finding("checksums", "green", f"{result.files} files are as they were written")


def _vespa(target: str, config_server: str | None) -> Iterator[Finding]:
    """Look at what the container says, and at the package that the config server beside it has."""
    with open_index(target, _SECONDS) as client:
        status, content = client.call("GET", "/state/v1/version", patience=0.0)
        version = content.get("version") if isinstance(content, dict) else None
        told = f"version {version}" if version else f"answers {status}, without its version"
        yield Finding("vespa", "green" if version else "yellow", told)
        field = embedding_field(client)
    if field is not None:
        yield Finding("vespa, embeddings", "green", str(field))
    host = target.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]
    server = ConfigServer(config_server or f"http://{host}:{CONFIG_SERVER_PORT}")
    try:
        reason = server.failure(_SECONDS)
        if reason is not None:
            said = f"{server.url}: {reason}; the schema there is not compared"
            yield Finding("config server", "yellow", said, "name it with --config-server")
            return
        yield Finding("config server", "green", f"{server.url} answers")
        yield _schema(server)
    finally:
        server.close()


def _schema(server: ConfigServer) -> Finding:
    """Compare the deployed schema with what this version would write for the same index."""
    files = server.running().files or {}
    other = other_application(files)
    if other is not None:
        return Finding("vespa, schema", "red", f"{other} is deployed there, not ours", _DEPLOY)
    try:
        info = deployed_info(server)
    except EngineError as error:
        return Finding("vespa, schema", "red", str(error), _DEPLOY)
    wanted = Wanted(DeployOptions(dimension=info.dimension), None)
    ours = md5_of(render(wanted.values(info))[IMAGE_SCHEMA])
    if files.get(IMAGE_SCHEMA) != ours:
        said = "another version's: feeds say what they miss, and some queries are slower"
        return Finding("vespa, schema", "yellow", said, _DEPLOY)
    return Finding("vespa, schema", "green", "as this version writes it")
