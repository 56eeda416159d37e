"""`clipsearch doctor`: what works, what does not, and the mend."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli import EXIT_FAILED
from clipsearch.cli.options import json_option, moved_encoder_option, optional_index_option
from finetune.console import printable
from finetune.text.masking import masked
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.doctor.findings import Finding

_COLOURS = {"green": "green", "yellow": "yellow", "red": "red"}
_SIGNS = {"green": "ok", "yellow": "note", "red": "FAIL"}


@click.command()
@optional_index_option
@moved_encoder_option
@click.option(
    "--config-server",
    metavar="URL",
    help="Of a Vespa; port 19071 of the index's host unless given.",
)
@json_option
def doctor(index: str | None, encoder: str | None, config_server: str | None, as_json: bool) -> int:
    """Say what works here, what does not, and the mend.

    Looks at Python, ONNX Runtime, torch and its device, the extras, memory, disk, write access, the
    hub and Docker, and feeds and queries three documents in a temporary folder. With --index also
    at the index: its encoder, its images, its checksums, and of a Vespa its version and schema.
    Exit code 1 where something fails.

    \b
    Examples:
      clipsearch doctor
      clipsearch doctor --index photos.index --json
    """
    findings = []
    for each in _findings(index, encoder, config_server):
        findings.append(each)
        if not as_json:
            _tell(each)
    failed = any(each.colour == "red" for each in findings)
    if as_json:
        answer = {"healthy": not failed, "findings": [asdict(each) for each in findings]}
        click.echo(masked(dumps(answer, indent=2)))
    return EXIT_FAILED if failed else 0


def _findings(
    index: str | None, encoder: str | None, config_server: str | None
) -> "Iterator[Finding]":
    from clipsearch.doctor import machine  # light path: NumPy
    from clipsearch.doctor.extras import extras
    from clipsearch.doctor.findings import examined

    yield from examined("python", machine.python)
    yield from examined("onnx runtime", machine.onnx_runtime)
    yield from examined("torch", machine.torch)
    yield from examined("extras", extras)
    yield from examined("memory", machine.memory)
    yield from examined("disk", machine.disk)
    yield from examined("hub", machine.hub)
    yield from examined("docker", machine.docker)

    def test() -> "Iterator[Finding]":
        from clipsearch.doctor.self_test import feed_and_query  # what may be broken

        return feed_and_query()

    yield from examined("self-test", test)
    if index is not None:
        from clipsearch.doctor.index import look_into  # light path: NumPy

        yield from examined("index", partial(look_into, index, encoder, config_server))
    elif encoder is not None:
        from clipsearch.doctor.self_test import encode  # light path: NumPy

        yield from examined("encoder", partial(encode, Path(encoder)))


def _tell(finding: "Finding") -> None:
    sign = click.style(_SIGNS[finding.colour].ljust(4), fg=_COLOURS[finding.colour])
    mend = f"; {finding.mend}" if finding.mend else ""
    click.echo(masked(f"{sign}  {finding.name}: {printable(finding.said + mend)}"))
