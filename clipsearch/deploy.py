"""Deploy the application package, and write into the index what it must know about itself.

Everything is checked and prepared first; what would change, and what that costs, is said before
anything is made.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from clipsearch.engine import IndexInfo, Precision
from clipsearch.engines.vespa import VespaEngine
from clipsearch.vespa.changes import Changes, compare
from clipsearch.vespa.config_server import ConfigServer
from clipsearch.vespa.connection import ConnectionSettings, connect
from clipsearch.vespa.index_info import change_info, read_info
from clipsearch.vespa.package import Package, PackageValues, render, write_folder, write_zip
from clipsearch.vespa.providers import (
    DOCKER_CONFIG_SERVER,
    DOCKER_INDEX,
    CloudName,
    deploy_to_cloud,
    deploy_to_docker,
)
from finetune.encoder_folder import EncoderDescription, check_fingerprint, read_description
from finetune.errors import EngineError, UsageError

POLL_SECONDS = 0.5
LONGEST_WAIT_FOR_CONFIG_SERVER = 60.0
QUERY_PORT = 8080


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What to deploy, and where; see `clipsearch deploy --help`.

    One of `config_server`, `docker`, `cloud` and `render` says where; `index` alone only writes
    what the index knows, for a package that was deployed by other means.
    """

    encoder: Path | None = None
    dimension: int | None = None
    precision: Precision | None = None
    language: str | None = None
    weights: tuple[float, float] | None = None
    config_server: str | None = None
    docker: bool = False
    cloud: str | None = None
    render: Path | None = None
    nodes: Path | None = None
    index: str | None = None
    wait: float = 300.0
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployed:
    """The result.

    Attributes:
        index: Address for --index; None where the package was only written.
        info: What the index now knows about itself.
        changes: None where there was nothing to compare with.
        message: Vespa's own.
        certificate, key: Client certificate that the index asks for (Vespa Cloud).
    """

    index: str | None
    info: IndexInfo
    changes: Changes | None = None
    message: str = ""
    certificate: str | None = None
    key: str | None = None


def deploy(
    options: DeployOptions,
    *,
    consent: Callable[[Changes], bool],
    say: Callable[[str], None],
) -> Deployed | None:
    """Deploy; None where `consent` was refused and nothing was changed.

    `consent` is asked once, with what would change, where a config server can tell; `say` is told
    what goes on, in lines. Raises UsageError, EncoderError, and EngineError with Vespa's own
    messages.
    """
    _check_destination(options)
    description = None
    if options.encoder is not None:
        description = read_description(options.encoder)
        check_fingerprint(options.encoder, description)
    _check_dimension(options, description)
    return _Deployment(options, description, consent, say).run()


def _check_destination(options: DeployOptions) -> None:
    given = {
        "--config-server": options.config_server is not None,
        "--docker": options.docker,
        "--cloud": options.cloud is not None,
        "--render": options.render is not None,
    }
    named = [name for name, there in given.items() if there]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other: name one place")
    if not named and options.index is None:
        raise UsageError(
            f"say where to deploy: {', '.join(given)}; or with --index URL alone, only write what"
            f" the index knows about its encoder"
        )
    if options.nodes is not None and options.config_server is None and options.render is None:
        raise UsageError("--nodes goes with --config-server or --render: it is for own machines")
    if options.nodes is not None and options.config_server is not None and options.index is None:
        raise UsageError(
            "--nodes needs --index URL too: the address of a container, or of what stands before"
            " them, since config servers answer no queries"
        )
    if options.index is not None and not options.index.startswith(("http://", "https://")):
        raise UsageError(f"--index {options.index}: must be an http(s) address of Vespa")


def _check_dimension(options: DeployOptions, description: EncoderDescription | None) -> None:
    if description is None and options.dimension is None:
        raise UsageError("give --encoder FOLDER, or --dimension N for ready-made vectors")
    if description is not None and options.dimension not in (None, description.dimension):
        raise UsageError(
            f"--dimension {options.dimension}, but {options.encoder} makes embeddings of"
            f" {description.dimension} values; leave --dimension out"
        )


def _deploys(options: DeployOptions) -> bool:
    return bool(options.config_server or options.docker or options.cloud or options.render)


def _index_address(options: DeployOptions) -> str | None:
    if options.index is not None:
        return options.index.rstrip("/")
    if options.docker:
        return DOCKER_INDEX
    if options.config_server is None:
        return None
    parts = urlsplit(options.config_server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--config-server {options.config_server}: must be an address, http://HOST:19071"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{QUERY_PORT}"


@dataclass(frozen=True, slots=True)
class _Deployment:
    options: DeployOptions
    description: EncoderDescription | None
    consent: Callable[[Changes], bool]
    say: Callable[[str], None]

    def run(self) -> Deployed | None:
        options = self.options
        index = _index_address(options)
        before = _info_now(index) if index else None
        after = self._new_info(before)
        if index is not None and not _deploys(options):
            return Deployed(index, self._finish(index))
        package = render(self._values(after))
        if options.render is not None:
            write_folder(package, options.render)
            return Deployed(None, after)
        with tempfile.TemporaryDirectory(prefix="clipsearch-deploy-") as scratch:
            folder = Path(scratch)
            if options.cloud is not None:
                return self._to_cloud(options.cloud, package, folder)
            assert index is not None
            server = ConfigServer(options.config_server or DOCKER_CONFIG_SERVER)
            if options.docker and not server.is_up():
                write_folder(package, folder)
                self.say("starting Vespa in Docker")
                deploy_to_docker(folder, options.wait)
                return Deployed(index, self._finish(index))
            server.wait_until_up(min(options.wait, LONGEST_WAIT_FOR_CONFIG_SERVER))
            return self._to_server(server, package, folder, index, before, after)

    def _to_server(
        self,
        server: ConfigServer,
        package: Package,
        scratch: Path,
        index: str,
        before: IndexInfo | None,
        after: IndexInfo,
    ) -> Deployed | None:
        archive = scratch / "application.zip"
        write_zip(package, archive)
        prepared = server.prepare(server.create_session(archive))
        documents = 0 if before is None else _documents(index)
        changes = compare(server.deployed(), package, before, after, documents, prepared)
        if not self.consent(changes):
            return None
        message = server.activate(prepared.session)
        self.say(message)
        reindexed = [action for action in prepared.actions if action.kind == "reindex"]
        for action in reindexed:
            server.reindex(action.cluster, action.document_type)
        if reindexed:  # it starts with the next deployment
            server.activate(server.prepare(server.create_session(archive)).session)
            self.say("re-indexing has started; until it is through, searches mix old and new")
        self.say(f"waiting until {index} answers (a first start takes about a minute)")
        deadline = time.monotonic() + self.options.wait
        while not server.converged() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        refed = any(action.kind == "refeed" for action in prepared.actions)
        return Deployed(index, self._finish(index, fed_anew=refed), changes, message)

    def _to_cloud(self, cloud: str, package: Package, folder: Path) -> Deployed:
        name = CloudName.parse(cloud)
        write_folder(package, folder)
        self.say(f"deploying to Vespa Cloud as {cloud}")
        place = deploy_to_cloud(folder, name, self.options.wait)
        index = (self.options.index or place.url).rstrip("/")
        settings = replace(
            ConnectionSettings.from_environment(), certificate=place.certificate, key=place.key
        )
        info = self._finish(index, settings)
        return Deployed(index, info, certificate=place.certificate, key=place.key)

    def _new_info(self, before: IndexInfo | None) -> IndexInfo:
        """What the index is to know: what it knew (columns, weights), and what comes now."""
        options, description = self.options, self.description
        dimension = options.dimension if description is None else description.dimension
        assert dimension is not None
        old = before or IndexInfo(dimension=dimension)
        bm25_weight, vector_weight = options.weights or (old.bm25_weight, old.vector_weight)
        encoder = options.encoder
        precision = options.precision or old.precision
        # Vespa drops what was of another type. A new id, and no ledger takes it for fed.
        same_field = (precision, dimension) == (old.precision, old.dimension)
        return replace(
            old,
            index_id=old.index_id if same_field else "",
            may_lack_embeddings=old.may_lack_embeddings or not (before is None or same_field),
            dimension=dimension,
            precision=precision,
            language=options.language or old.language,
            encoder_fingerprint=None if description is None else description.fingerprint,
            encoder_name=None if description is None else description.name,
            encoder_path=None if encoder is None else str(encoder.resolve()),
            bm25_weight=bm25_weight,
            vector_weight=vector_weight,
        )

    def _final_info(self, documents: int, fed_anew: bool, before: IndexInfo | None) -> IndexInfo:
        info = self._new_info(before)
        if before is None and documents:
            # Nobody knows which version wrote them: the next feed looks at each.
            info = replace(info, document_form=1)
        return replace(info, index_id="" if fed_anew else info.index_id)

    def _values(self, info: IndexInfo) -> PackageValues:
        values = PackageValues(
            dimension=info.dimension,
            precision=info.precision,
            language=info.language,
            bm25_weight=info.bm25_weight,
            vector_weight=info.vector_weight,
            encoder=self.options.encoder,
            cloud=self.options.cloud is not None,
            nodes=self.options.nodes,
            allowed=self.options.allow,
        )
        if self.description is None:
            return values
        return replace(values, max_tokens=self.description.max_tokens)

    def _finish(
        self, index: str, settings: ConnectionSettings | None = None, *, fed_anew: bool = False
    ) -> IndexInfo:
        """Wait until the services answer, then write what the index must know.

        What it knew is read again: before, it may not have been reachable. With `fed_anew`, every
        document must be.
        """
        settings = ConnectionSettings.from_environment() if settings is None else settings
        client = connect(index, replace(settings, search_patience=0.0))
        deadline = time.monotonic() + self.options.wait
        try:
            while True:
                try:
                    documents = VespaEngine(client, self._new_info(None)).count()
                    return change_info(client, partial(self._final_info, documents, fed_anew))
                except EngineError as error:
                    if time.monotonic() > deadline:
                        raise EngineError(
                            f"{index} did not answer in {self.options.wait:g} seconds ({error});"
                            f" what was deployed stays: when it is up, run the same command with"
                            f" --index {index} as its only place"
                        ) from error
                time.sleep(POLL_SECONDS)
        finally:
            client.close()


def _info_now(index: str) -> IndexInfo | None:
    """What an index that runs already knows; None where there is none, or it cannot be read."""
    client = connect(index, replace(ConnectionSettings.from_environment(), search_patience=0.0))
    try:
        return read_info(client)
    except EngineError:
        return None
    finally:
        client.close()


def _documents(index: str) -> int:
    try:
        engine = VespaEngine.open(index)
        try:
            return engine.count()
        finally:
            engine.close()
    except EngineError:
        return 0
