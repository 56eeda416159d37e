"""What `clipsearch deploy` is told, checked before anything is sent, and what comes of it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from clipsearch.deployment.changes import same_field
from clipsearch.deployment.deployed import EmbeddingField
from clipsearch.deployment.package import PackageValues
from clipsearch.deployment.providers import DOCKER_INDEX
from clipsearch.documents import DOCUMENT_FORM
from clipsearch.engine import EMBEDDING_PRECISIONS, EmbeddingPrecision, IndexInfo, check_weights
from clipsearch.engines.vespa.http.address import without_credentials
from clipsearch.modes import RRF_K
from finetune.encoder_folder import EncoderDescription
from finetune.errors import UsageError
from finetune.manifest.inputs import check_no_input
from finetune.several import check_several

QUERY_PORT = 8080


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What to deploy, and where; see `clipsearch deploy --help`.

    One of `config_server`, `docker`, `cloud` and `render` says where; `index` alone only writes
    what the index knows, for a package that was deployed by other means.
    """

    encoder: Path | None = None
    dimension: int | None = None
    precision: EmbeddingPrecision | None = None
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
    yes: bool = False


def check_destination(options: DeployOptions) -> None:
    """Raise UsageError where the options do not say one place that can be deployed to."""
    if not 0 <= options.wait < math.inf:
        raise UsageError(f"--wait {options.wait:g}: must be a number of seconds, 0 or more")
    check_several(options.allow, "DeployOptions.allow")
    check_weights(*(options.weights or ()))
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
    if options.nodes is not None and (options.docker or options.cloud is not None):
        raise UsageError("--nodes goes with --config-server or --render: it is for own machines")
    if options.nodes is not None and options.config_server is not None and options.index is None:
        raise UsageError(
            "--nodes needs --index URL too: the address of a container, or of what stands before"
            " them, since config servers answer no queries"
        )
    if options.render is not None:
        what = f"--render {options.render}"
        check_no_input(options.render, what, (options.nodes, options.encoder))
    if options.index is not None and not options.index.startswith(("http://", "https://")):
        raise UsageError(
            f"--index {without_credentials(options.index)}: must be an http(s) address of Vespa"
        )


def check_dimension(options: DeployOptions, description: EncoderDescription | None) -> None:
    """Raise UsageError where the encoder and the options do not say one dimension."""
    if description is None and options.dimension is None:
        raise UsageError("give --encoder FOLDER, or --dimension N for ready-made vectors")
    if description is not None and options.dimension not in (None, description.dimension):
        raise UsageError(
            f"--dimension {options.dimension}, but {options.encoder} makes embeddings of"
            f" {description.dimension} values; leave --dimension out"
        )


def deploys(options: DeployOptions) -> bool:
    """Return whether a package is made; otherwise the index is only told what it must know."""
    return bool(options.config_server or options.docker or options.cloud or options.render)


def index_address(options: DeployOptions) -> str | None:
    """Return where the index answers.

    None where that is known only when it is deployed, or never.
    """
    if options.index is not None:
        return options.index.rstrip("/")
    if options.docker:
        return DOCKER_INDEX
    if options.config_server is None:
        return None
    parts = urlsplit(options.config_server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"--config-server {without_credentials(options.config_server)}: must be an address, http://HOST:19071"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{QUERY_PORT}"


def check_field(index: str, field: EmbeddingField, told: IndexInfo, options: DeployOptions) -> None:
    """Raise UsageError where the embeddings that `index` takes are not those that it was told."""
    deploy = "deploy the package for them first (--config-server, or --render and vespa deploy)"
    if field.dimension != told.dimension:
        asked = "--dimension says" if options.encoder is None else f"{options.encoder} makes"
        raise UsageError(
            f"{index}: its schema takes embeddings of {field.dimension} values, but {asked}"
            f" {told.dimension}; name the encoder that fits, or {deploy}"
        )
    if options.precision not in (None, field.precision):
        raise UsageError(
            f"{index}: its schema takes embeddings of {field.precision}, but --precision says"
            f" {options.precision}; leave --precision out, or {deploy}"
        )
    if field.precision not in EMBEDDING_PRECISIONS:
        raise UsageError(
            f"{index}: its schema takes embeddings of {field.precision}, which clipsearch does not"
            f" write (known: {', '.join(EMBEDDING_PRECISIONS)}); {deploy}"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options, and the encoder that they name."""

    options: DeployOptions
    description: EncoderDescription | None

    @property
    def fingerprint(self) -> str | None:
        """Of the encoder; None without one."""
        return None if self.description is None else self.description.fingerprint

    def info(self, before: IndexInfo | None) -> IndexInfo:
        """Return what the index is to know: what it knew (columns, weights), and what comes now."""
        options, description = self.options, self.description
        dimension = options.dimension if description is None else description.dimension
        assert dimension is not None, "check_dimension"
        old = before or IndexInfo(dimension=dimension)
        bm25_weight, vector_weight = options.weights or (old.bm25_weight, old.vector_weight)
        # What was calibrated holds for the weights and the encoder that it was calibrated with.
        still = not options.weights and self.fingerprint == old.encoder_fingerprint
        new = replace(
            old,
            dimension=dimension,
            precision=options.precision or old.precision,
            language=options.language or old.language,
            encoder_fingerprint=self.fingerprint,
            encoder_name=None if description is None else description.name,
            encoder_path=None if options.encoder is None else str(options.encoder.resolve()),
            bm25_weight=bm25_weight,
            vector_weight=vector_weight,
            rrf_k=old.rrf_k if still else RRF_K,
            text_mode=old.text_mode if still else None,
            calibration=old.calibration if still else None,
            word_share=old.word_share if still else None,
            reorder=old.reorder if still else None,
            measured_at=old.measured_at if still else 0,
        )
        lack = old.may_lack_embeddings or not same_field(old, new)
        return replace(new, may_lack_embeddings=before is not None and lack)

    def final(
        self, before: IndexInfo | None, after: IndexInfo, documents: int, *, keep: bool
    ) -> IndexInfo:
        """Return what the index knows in the end, of what it knows now and of what was deployed.

        Where not to `keep`, or where embeddings became others, its documents must be fed anew:
        with a new id, no ledger takes them for fed.
        """
        if before is None:
            # Of documents that are there, nobody knows which version wrote them: the next feed
            # looks at each.
            form = 1 if documents else DOCUMENT_FORM
            return replace(after, index_id="", document_form=form)
        same = same_field(before, after)
        lack = before.may_lack_embeddings or after.may_lack_embeddings or not same
        return replace(
            self.info(before),
            precision=after.precision,
            language=after.language,
            index_id=before.index_id if keep and same else "",
            may_lack_embeddings=lack,
        )

    def values(self, info: IndexInfo, allowed: tuple[str, ...] | None = None) -> PackageValues:
        """Return what fills in the package, with `allowed` in place of what the options allow."""
        values = PackageValues(
            dimension=info.dimension,
            precision=info.precision,
            language=info.language,
            bm25_weight=info.bm25_weight,
            vector_weight=info.vector_weight,
            rrf_k=info.rrf_k,
            encoder=self.options.encoder,
            cloud=self.options.cloud is not None,
            nodes=self.options.nodes,
            allowed=self.options.allow if allowed is None else allowed,
        )
        if self.description is None:
            return values
        return replace(values, max_tokens=self.description.max_tokens)
