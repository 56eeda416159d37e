"""`clipsearch deploy`: the application package onto a Vespa."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli.completion import complete_encoders, complete_languages
from clipsearch.cli.options import json_option, yes_option
from finetune.errors import UsageError
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.deployment.changes import Changes
    from clipsearch.deployment.deploy import Deployed
    from clipsearch.engine import EmbeddingPrecision


def _weights(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, float] | None:
    """Return BM25,VECTOR as two numbers."""
    if value is None:
        return None
    try:
        bm25, vector = (float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not of the form BM25,VECTOR, as 0.3,1") from error
    return bm25, vector


@click.command()
@click.option(
    "--encoder",
    metavar="FOLDER|ID",
    shell_complete=complete_encoders,
    type=click.Path(path_type=Path),
    help="The encoder's folder, or its id on the Hugging Face hub; its text tower answers"
    " embed(@text) inside Vespa.",
)
@click.option(
    "--dimension",
    metavar="N",
    type=click.IntRange(min=1),
    help="Values in an embedding, where vectors come ready-made and there is no encoder.",
)
@click.option(
    "--precision",
    type=click.Choice(["float", "bfloat16"]),
    help="Of the embeddings in the index; bfloat16 takes half the memory, and keeps about three"
    " digits. [default: as it is, or float]",
)
@click.option("--config-server", metavar="URL", help="Deploy there, as http://localhost:19071.")
@click.option("--docker", is_flag=True, help="Deploy to Vespa in a container on this machine.")
@click.option(
    "--cloud",
    metavar="TENANT.APP[.INSTANCE]",
    help="Deploy to Vespa Cloud's development zone (key in VESPA_TEAM_API_KEY, or a login).",
)
@click.option(
    "--render",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Only write the package into this folder.",
)
@click.option(
    "--nodes",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder with services.xml and hosts.xml of several machines, as deploy/several-nodes.",
)
@click.option(
    "--index",
    metavar="URL",
    help="Where the index then answers; with --cloud or --render the one whose precision, language"
    " and weights are kept. [default: port 8080 of the config server's host]",
)
@click.option(
    "--language",
    metavar="CODE",
    shell_complete=complete_languages,
    help="Of the captions: en, fr, es, it, nl, pt, sv. [default: as it is, or en]",
)
@click.option(
    "--weights",
    callback=_weights,
    metavar="BM25,VECTOR",
    help="Of the hybrids. [default: as they are, or those of a new index]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="CHANGE",
    help="A change that Vespa refuses otherwise, since it loses something of documents: by the id"
    " that the refusal names, which also says the cost. An empty index needs none.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="How long to wait in all, for the config server and then for the services.",
)
@yes_option(
    "Do not ask where a change costs something, or where --render replaces a package of an earlier"
    " version, which has no list of its files."
)
@json_option
def deploy(
    encoder: Path | None,
    dimension: int | None,
    precision: "EmbeddingPrecision | None",
    config_server: str | None,
    docker: bool,
    cloud: str | None,
    render: Path | None,
    nodes: Path | None,
    index: str | None,
    language: str | None,
    weights: tuple[float, float] | None,
    allow: tuple[str, ...],
    wait: float,
    yes: bool,
    as_json: bool,
) -> int:
    """Deploy the application package to Vespa, and make the index that `feed` then fills.

    What would change, and whether it needs re-indexing or a restart, is said before it is made.

    \b
    Examples:
      clipsearch deploy --encoder encoder --docker
      clipsearch deploy --encoder encoder --config-server http://vespa:19071
      clipsearch deploy --encoder encoder --render package
      clipsearch deploy --encoder encoder --index http://vespa:8080
      clipsearch deploy --dimension 512 --config-server http://vespa:19071
      clipsearch deploy --encoder encoder --nodes deploy/several-nodes --render package

    With --index alone nothing is deployed: it writes what the index knows about its encoder, for a
    package that was deployed by other means, and refuses what is not as it was deployed.
    """
    from clipsearch.deployment.deploy import deploy as run  # light path: the group's --help
    from clipsearch.deployment.options import DeployOptions
    from clipsearch.hub.fetching import encoder_folder

    def consent(changes: "Changes") -> bool:
        return _consent(changes, yes)

    options = DeployOptions(
        encoder=None if encoder is None else encoder_folder(encoder),
        dimension=dimension,
        precision=precision,
        language=language,
        weights=weights,
        config_server=config_server,
        docker=docker,
        cloud=cloud,
        render=render,
        nodes=nodes,
        index=index,
        wait=wait,
        allow=allow,
        yes=yes,
    )
    deployed = run(options, consent=consent, say=lambda line: click.echo(line, err=True))
    if deployed is None:
        click.echo("Nothing was changed.", err=True)
        return 1
    if as_json:
        click.echo(dumps(_as_json(deployed), indent=2))
    else:
        click.echo(_as_text(deployed, render))
    return 0


def _consent(changes: "Changes", yes: bool) -> bool:
    from clipsearch.deployment.changes import describe

    for line in describe(changes):
        click.echo(line, err=True)
    if yes or not changes.costs:
        return True
    if not sys.stdin.isatty():
        raise UsageError("the change above costs something; go on with --yes (nothing was changed)")
    return click.confirm("Go on?", err=True)


def _as_json(deployed: "Deployed") -> dict[str, object]:
    changes = deployed.changes
    return {
        "index": deployed.index,
        "message": deployed.message,
        "info": deployed.info.to_json(),
        "changes": None if changes is None else asdict(changes),
    }


def _as_text(deployed: "Deployed", folder: Path | None) -> str:
    if deployed.index is None:
        return (
            f"Wrote the package to {folder}. When it is deployed, write what the index must know:"
            f" the same command with --index URL instead of --render."
        )
    lines = [f"Ready: {deployed.index}"]
    if deployed.certificate and deployed.key:
        lines += [
            f"export VESPA_CLI_DATA_PLANE_CERT_FILE={deployed.certificate}",
            f"export VESPA_CLI_DATA_PLANE_KEY_FILE={deployed.key}",
        ]
    return "\n".join([*lines, f"Next: clipsearch feed MANIFEST --index {deployed.index}"])
