"""What is deployed already: as the config server holds it, and as the index itself says it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from clipsearch.deployment.config_server import ConfigServer
from clipsearch.deployment.package import TEXT_TOWER_FILE
from clipsearch.deployment.refusals import Documents
from clipsearch.engine import EMBEDDING_PRECISIONS, IndexInfo
from clipsearch.engines.vespa.answers import failure_sentence, is_foreign_package, vespa_message
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import (
    RETRIED_STATUSES,
    Client,
    ConnectionSettings,
    connect,
)
from clipsearch.engines.vespa.operations import DOCUMENT_TYPE, INFO_ID, INFO_TYPE, document_path
from finetune.errors import EngineError, IndexAccessError

IMAGE_SCHEMA = "schemas/image.sd"
OWN_SCHEMAS = frozenset({IMAGE_SCHEMA, "schemas/index_info.sd"})
HYBRID_PROFILE = "schemas/image/hybrid.profile"
CONFIG_SERVER_PORT = 19071
BESIDE_SECONDS = 2.0

_ASKING_ID = "what-clipsearch-deploy-asks-for-and-nobody-writes"
_TENSOR = re.compile(r"tensor(?:<(\w+)>)?\(x\[(\d+)\]\)")
_FIELD = re.compile(r"\bfield embedding type (tensor(?:<\w+>)?\(x\[\d+\]\))")
_PARSED_AS = re.compile(r"'embedding' of type (tensor\S*?\(x\[\d+\]\))")
_LANGUAGE = re.compile(r'indexing: "(\w+)" \| set_language')
_WEIGHT = r"query\({}\):\s*(-?[\d.]+)"


@dataclass(frozen=True, slots=True)
class EmbeddingField:
    """The type of the embeddings in a schema."""

    precision: str
    dimension: int

    @classmethod
    def parse(cls, tensor: str) -> "EmbeddingField | None":
        """Read Vespa's spelling, as tensor<bfloat16>(x[512]); None where it is no vector."""
        found = _TENSOR.fullmatch(tensor)
        return None if found is None else cls(found.group(1) or "double", int(found.group(2)))

    def __str__(self) -> str:
        """Return it for people, as "512 values of bfloat16"."""
        return f"{self.dimension} values of {self.precision}"


def other_application(files: Mapping[str, str] | None) -> str | None:
    """Return the name of the application of `files` where it is not ours: of its schemas.

    None where nothing is deployed, or that is not known.
    """
    if not files or files.keys() >= OWN_SCHEMAS:
        return None
    schemas = sorted(
        path.rsplit("/", 1)[-1].removesuffix(".sd")
        for path in files
        if path.startswith(("schemas/", "searchdefinitions/")) and path.endswith(".sd")
    )
    return " and ".join(schemas) or "without any schema"


def deployed_info(server: ConfigServer) -> IndexInfo:
    """Return what our package that runs there was rendered with, but for encoder and columns.

    Raises EngineError where it cannot be read.
    """
    schema = server.read(IMAGE_SCHEMA)
    tensor, language = _FIELD.search(schema), _LANGUAGE.search(schema)
    field = None if tensor is None else EmbeddingField.parse(tensor.group(1))
    if field is None or language is None or field.precision not in EMBEDDING_PRECISIONS:
        raise EngineError(f"{server.url}: {IMAGE_SCHEMA} there is not as clipsearch writes it")
    profile = server.read(HYBRID_PROFILE)
    weights = [
        re.search(_WEIGHT.format(name), profile) for name in ("bm25_weight", "vector_weight")
    ]
    if weights[0] is None or weights[1] is None:
        raise EngineError(f"{server.url}: {HYBRID_PROFILE} there is not as clipsearch writes it")
    bm25, vector = (float(found.group(1)) for found in weights if found is not None)
    return IndexInfo(
        dimension=field.dimension,
        precision=field.precision,
        language=language.group(1),
        bm25_weight=bm25,
        vector_weight=vector,
    )


def embedding_field(client: Client) -> EmbeddingField | None:
    """Return the type of the embeddings that the index at `client` takes.

    It need not hold any document.

    Nothing is written: a vector is put that is too short, which Vespa refuses with the type of the
    field. Were it long enough, there is a condition that no document meets. None where Vespa's
    answer does not say the type; raises EngineError where it does not answer, or holds no index of
    ours.
    """
    condition = quote(f'{DOCUMENT_TYPE}.path == "{_ASKING_ID}"', safe="")
    path = f"{document_path(_ASKING_ID)}?condition={condition}"
    for values in ([0.0], [0.0, 0.0]):  # a vector may be of one value, but then not of two
        body = {"fields": {"embedding": {"values": values}}}
        status, content = client.call("POST", path, body, patience=0.0)
        message = vespa_message(content)
        found = _PARSED_AS.search(message)
        if found is not None:
            return EmbeddingField.parse(found.group(1))
        if status in (401, 403):
            raise IndexAccessError(failure_sentence(status, content, client.target))
        if status not in (400, 412) or is_foreign_package(message):
            raise EngineError(failure_sentence(status, content, client.target))
        if status == 400:
            return None
    return None


@contextmanager
def open_index(
    index: str, seconds: float = 10.0, settings: ConnectionSettings | None = None
) -> Iterator[Client]:
    """Open a client of the index that asks once and waits so many seconds for an answer."""
    settings = ConnectionSettings.from_environment() if settings is None else settings
    # The client adds seconds in which an answer may be late.
    timeout = min(settings.timeout, max(seconds - 5.0, 0.5))
    client = connect(index, replace(settings, search_patience=0.0, timeout=timeout))
    try:
        yield client
    finally:
        client.close()


def no_answer(client: Client) -> str | None:
    """Return why the index does not answer; None where it does, be it with a refusal."""
    try:
        status, content = client.call("GET", document_path(INFO_ID, INFO_TYPE), patience=0.0)
    except EngineError as error:
        return str(error)
    if status in RETRIED_STATUSES:
        return failure_sentence(status, content, client.target)
    return None


def count_documents(index: str) -> Documents:
    """Return how many images the index holds, or why they could not be counted."""
    try:
        with open_index(index) as client:
            return Documents(VespaEngine(client, IndexInfo(dimension=1)).count())
    except EngineError as error:
        return Documents(None, str(error))


@dataclass(frozen=True, slots=True)
class Beside:
    """Our package as the config server beside an index holds it.

    Attributes:
        info: What it was rendered with.
        text_tower: md5 of its text encoder; None where it has none.
    """

    info: IndexInfo
    text_tower: str | None


def package_beside(index: str, field: EmbeddingField | None) -> Beside:
    """Return the package that a config server on the index's machine holds.

    Raises EngineError where there is none, or its package takes other embeddings than `field`: then
    it is not the one of this index.
    """
    parts = urlsplit(index)
    if parts.scheme != "http" or not parts.hostname:
        raise EngineError("only over http is a config server looked for beside it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    server = ConfigServer(f"http://{host}:{CONFIG_SERVER_PORT}")
    try:
        reason = server.failure(BESIDE_SECONDS)
        if reason is not None:
            raise EngineError(f"{server.url}: {reason}")
        running = server.running()
        if not running.files or other_application(running.files) is not None:
            raise EngineError(f"{server.url}: {running.reason or 'holds no package of clipsearch'}")
        info = deployed_info(server)
        if field not in (None, EmbeddingField(info.precision, info.dimension)):
            raise EngineError(f"{server.url}: holds the package of another index")
        return Beside(info, running.files.get(TEXT_TOWER_FILE))
    finally:
        server.close()
