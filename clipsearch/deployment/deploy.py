"""Deploy the application package, and write into the index what it must know about itself.

Everything is checked and prepared first; what would change, and what that costs, is said before
anything is made.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch.deployment.changes import Changes, compare, encoder_costs, info_changes, same_field
from clipsearch.deployment.config_server import ConfigServer, Prepared, RefusedError, Running
from clipsearch.deployment.deployed import (
    EmbeddingField,
    count_documents,
    deployed_info,
    embedding_field,
    no_answer,
    open_index,
    other_application,
    package_beside,
)
from clipsearch.deployment.options import (
    DeployOptions,
    Wanted,
    check_destination,
    check_dimension,
    check_field,
    deploys,
    index_address,
)
from clipsearch.deployment.package import (
    TEXT_TOWER_FILE,
    Package,
    md5_of,
    render,
    write_folder,
    write_zip,
)
from clipsearch.deployment.providers import (
    DOCKER_CONFIG_SERVER,
    CloudName,
    deploy_to_cloud,
    start_docker,
)
from clipsearch.deployment.refusals import Documents, explain, free_overrides
from clipsearch.deployment.waiting import Services, Waiting, short, wait_for_services
from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.address import without_credentials
from clipsearch.engines.vespa.http.connection import Client, ConnectionSettings
from clipsearch.engines.vespa.index_info import UnreadableInfoError, change_info, read_info
from finetune.encoder_folder import (
    TEXT_OUTPUT,
    EncoderDescription,
    check_fingerprint,
    read_description,
)
from finetune.errors import EncoderError, EngineError, IndexVersionError, UsageError

LONGEST_WAIT_FOR_CONFIG_SERVER = 60.0
LONGEST_WAIT_FOR_DOCKER = 180.0


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
    check_destination(options)
    description = None
    if options.encoder is not None:
        description = read_description(options.encoder)
        check_fingerprint(options.encoder, description)
        _check_text_output(options.encoder, description)
    check_dimension(options, description)
    wanted = Wanted(options, description)
    return _Deployment(wanted, consent, say, Waiting(options.wait, say)).run()


def _check_text_output(folder: Path, description: EncoderDescription) -> None:
    """Raise EncoderError where Vespa's embedder would not find the text tower's output."""
    name = description.tower_outputs.get("text", TEXT_OUTPUT)
    if name != TEXT_OUTPUT:
        raise EncoderError(
            f"{folder}: its text tower gives its vectors as {name}, but Vespa's embedder takes"
            f" {TEXT_OUTPUT}; make a folder of the original's weights: clipsearch export ID --out"
            f" NEW"
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is there before anything is changed.

    Attributes:
        info: What the index knows, or what its package was rendered with; None where neither is.
        unknown: Why `info` is not what the index itself says; "" where it is.
        documents: That it holds.
    """

    info: IndexInfo | None
    unknown: str
    documents: Documents


@dataclass(frozen=True, slots=True)
class _Deployment:
    wanted: Wanted
    consent: Callable[[Changes], bool]
    say: Callable[[str], None]
    waiting: Waiting

    def run(self) -> Deployed | None:
        options = self.wanted.options
        # Wrong values fail before anything is asked.
        render(self.wanted.values(self.wanted.info(None)))
        index = index_address(options)
        if index is not None and not deploys(options):
            return self._tell(index)
        if options.render is not None:
            after = self.wanted.info(None if index is None else self._info_to_keep(index))
            write_folder(render(self.wanted.values(after)), options.render, yes=options.yes)
            return Deployed(None, after)
        with tempfile.TemporaryDirectory(prefix="clipsearch-deploy-") as scratch:
            if options.cloud is not None:
                return self._to_cloud(options.cloud, Path(scratch))
            assert index is not None
            server = ConfigServer(options.config_server or DOCKER_CONFIG_SERVER)
            try:
                self._wait_for_server(server)
                return self._to_server(server, Path(scratch), index)
            finally:
                server.close()

    def _wait_for_server(self, server: ConfigServer) -> None:
        most = LONGEST_WAIT_FOR_CONFIG_SERVER
        if self.wanted.options.docker and not server.is_up():
            start_docker(self.say)
            most = LONGEST_WAIT_FOR_DOCKER
        reason = self.waiting.until(server.failure, f"the config server at {server.url}", most)
        if reason is not None:
            raise EngineError(
                f"{server.url}: no config server answers ({reason}; waited"
                f" {min(most, self.waiting.seconds):g} s); is Vespa running there, and is it the"
                f" address of port 19071?"
            )

    def _to_server(self, server: ConfigServer, scratch: Path, index: str) -> Deployed | None:
        archive = scratch / "application.zip"
        running = server.running()
        known = self._known(server, running, index)
        after = self.wanted.info(known.info)
        free: tuple[str, ...] = ()
        while True:
            package = render(self.wanted.values(after, (*self.wanted.options.allow, *free)))
            try:
                prepared = _prepare(server, package, archive)
                break
            except RefusedError as error:
                more = self._free(str(error), running, known.documents)
                if set(more) <= set(free):  # nothing more that is free: also none at all
                    other = other_application(running.files)
                    raise EngineError(explain(str(error), known.documents, other)) from error
                free += more
        changes = compare(
            running, package, known.info, after, known.documents, prepared,
            allowed=self.wanted.options.allow, unknown=known.unknown,
        )  # fmt: skip
        if not self.consent(changes):
            return None
        if free and count_documents(index).count != 0:
            raise EngineError(
                f"{_shown(index)}: documents came in between, which would lose their embeddings;"
                f" run the same command again (nothing was changed)"
            )
        message = server.activate(prepared.session)
        self.say(message)
        self._reindex(server, prepared, archive)
        refed = any(action.kind == "refeed" for action in prepared.actions)
        self.say(f"waiting until {_shown(index)} answers (a first start takes about a minute)")
        keep = not refed and (known.info is None or same_field(known.info, after))
        info = self._finish(index, after, Services(server), keep)
        return Deployed(_shown(index), info, changes, message)

    def _known(self, server: ConfigServer, running: Running, index: str) -> _Known:
        """Return what the index is where something is deployed.

        Where nothing is, there is no document.
        """
        if running.files == {}:
            return _Known(None, "", Documents(0))
        if other_application(running.files) is not None:
            return _Known(None, "", Documents(None, "they are not of this index"))
        info, unknown = None, ""
        try:
            with open_index(index) as client:
                info = read_info(client)
        except IndexVersionError:
            raise
        except EngineError as error:
            unknown = short(str(error))
        try:
            rendered = deployed_info(server)
        except EngineError as error:
            unknown = f"{unknown}; {error}" if unknown else ""
            return _Known(info, unknown, count_documents(index))
        if info is None:
            return _Known(self._of_package(rendered, running), unknown, count_documents(index))
        # What is deployed counts, where the index was told something else.
        as_deployed = replace(
            info,
            dimension=rendered.dimension,
            precision=rendered.precision,
            language=rendered.language,
        )
        return _Known(as_deployed, "", count_documents(index))

    def _of_package(self, rendered: IndexInfo, running: Running) -> IndexInfo:
        """Return what is known of an index from its package: the encoder, by the tower's md5."""
        ours = render(self.wanted.values(rendered)).get(TEXT_TOWER_FILE)
        there = (running.files or {}).get(TEXT_TOWER_FILE)
        if there == (None if ours is None else md5_of(ours)):
            return replace(rendered, encoder_fingerprint=self.wanted.fingerprint)
        return replace(rendered, encoder_fingerprint="unknown", encoder_name="another")

    def _free(self, message: str, running: Running, documents: Documents) -> tuple[str, ...]:
        """Return the overrides that cost nothing, since the index was counted and is empty."""
        if not running.files or other_application(running.files) is not None:
            return ()
        free = free_overrides(message, documents)
        if free:
            self.say(f"no document is in the index, so this costs nothing: {', '.join(free)}")
        return free

    def _reindex(self, server: ConfigServer, prepared: Prepared, archive: Path) -> None:
        reindexed = [action for action in prepared.actions if action.kind == "reindex"]
        if not reindexed:
            return
        try:
            for action in reindexed:
                server.reindex(action.cluster, action.document_type)
            # It starts with the next deployment.
            server.activate(server.prepare(server.create_session(archive)).session)
        except EngineError as error:
            raise EngineError(
                f"{error}\nThe change is active, but re-indexing was not started: start it with"
                f" curl -X POST '{server.reindex_address}', and run the same command again"
            ) from error
        self.say("re-indexing has started; until it is through, searches mix old and new")

    def _to_cloud(self, cloud: str, folder: Path) -> Deployed:
        name = CloudName.parse(cloud)
        given = self.wanted.options.index
        after = self.wanted.info(None if given is None else self._info_to_keep(given))
        write_folder(render(self.wanted.values(after)), folder)
        self.say(f"deploying to Vespa Cloud as {cloud}")
        with self.waiting.counted():
            place = deploy_to_cloud(folder, name, self.waiting.left)
        index = (given or place.url).rstrip("/")
        settings = replace(
            ConnectionSettings.from_environment(), certificate=place.certificate, key=place.key
        )
        info = self._finish(index, after, Services(None), keep=True, settings=settings)
        return Deployed(_shown(index), info, certificate=place.certificate, key=place.key)

    def _tell(self, index: str) -> Deployed | None:
        """Write what the index must know, of a package that was deployed by other means."""

        def answers(seconds: float) -> str | None:
            with open_index(index, seconds) as client:
                return no_answer(client)

        reason = self.waiting.until(answers, _shown(index))
        if reason is not None:
            raise EngineError(f"{reason} (waited {self.wanted.options.wait:g} s)")
        with open_index(index) as client:
            field = embedding_field(client)
            before = _read_or_none(client)
            after = self._as_deployed(index, field, self.wanted.info(before))
            documents = count_documents(index)
            costs = encoder_costs(before, after, documents)
            differences = () if before is None else tuple(info_changes(before, after))
            changes = Changes(before is None, differences, {}, costs=costs) if costs else None
            if changes is not None and not self.consent(changes):
                return None
            _, info = self._write(client, after, keep=True)
        return Deployed(_shown(index), info, changes)

    def _as_deployed(self, index: str, field: EmbeddingField | None, told: IndexInfo) -> IndexInfo:
        """Return `told`, where that is what is deployed; raises UsageError where it differs."""
        shown = _shown(index)
        if field is None:
            self.say(f"{shown} does not say what embeddings it holds: taken as told")
        else:
            check_field(shown, field, told, self.wanted.options)
            told = replace(told, precision=field.precision)  # type: ignore[arg-type]
        try:
            beside = package_beside(index, field)
        except EngineError as error:
            self.say(f"language and text encoder of the package there are not compared ({error})")
            return told
        if self.wanted.options.language not in (None, beside.info.language):
            raise UsageError(
                f"{shown}: the package there is for captions in {beside.info.language!r}, but"
                f" --language says {self.wanted.options.language!r}; leave --language out, or"
                f" deploy the package for it first (--config-server, or --render and vespa deploy)"
            )
        ours = render(self.wanted.values(told)).get(TEXT_TOWER_FILE)
        if ours is not None and beside.text_tower not in (None, md5_of(ours)):
            raise UsageError(
                f"{shown}: the package there embeds text with another encoder than"
                f" {self.wanted.options.encoder}; name that one, or deploy the package of this one"
                f" first (--config-server, or --render and vespa deploy)"
            )
        return replace(told, language=beside.info.language)

    def _info_to_keep(self, index: str) -> IndexInfo | None:
        """Return what the index knows, for a package to be made of it; it must be readable."""
        try:
            with open_index(index) as client:
                return read_info(client)
        except EngineError as error:
            raise EngineError(
                f"{error}; without --index, the package is made for a new index instead"
            ) from error

    def _finish(
        self,
        index: str,
        after: IndexInfo,
        services: Services,
        keep: bool,
        settings: ConnectionSettings | None = None,
    ) -> IndexInfo:
        """Wait until the services answer, then write what the index must know.

        What it knew is read again: before, it may not have been reachable.
        """
        written: list[tuple[IndexInfo | None, IndexInfo]] = []

        def write(seconds: float) -> None:
            with open_index(index, seconds, settings) as client:
                field = embedding_field(client)
                wanted = EmbeddingField(after.precision, after.dimension)
                if field not in (None, wanted):
                    raise EngineError(f"it still takes embeddings of {field}, not of {wanted}")
                written.append(self._write(client, after, keep))

        wait_for_services(write, services, _shown(index), self.waiting)
        before, info = written[-1]
        if settings is not None and before is not None:
            # Vespa Cloud cannot be asked before: what was not known then is said now.
            for line in info_changes(before, info):
                self.say(f"changed: {line}")
        return info

    def _write(
        self, client: Client, after: IndexInfo, keep: bool
    ) -> tuple[IndexInfo | None, IndexInfo]:
        """Return what the index knew, and what it knows now."""
        documents = VespaEngine(client, after).count()
        read: list[IndexInfo | None] = []

        def final(before: IndexInfo | None) -> IndexInfo:
            read.append(before)
            return self.wanted.final(before, after, documents, keep=keep)

        info = change_info(client, final)
        return read[-1], info


def _shown(index: str) -> str:
    return without_credentials(index).rstrip("/")


def _read_or_none(client: Client) -> IndexInfo | None:
    try:
        return read_info(client)
    except UnreadableInfoError:
        return None  # it is written anew


def _prepare(server: ConfigServer, package: Package, archive: Path) -> Prepared:
    write_zip(package, archive)
    return server.prepare(server.create_session(archive))
