"""What tests of `clipsearch deploy` share: an encoder, options, consent, the command."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipsearch_command import CLIPSEARCH, without_settings
from config_server_stub import StubConfigServer
from vespa_stub import StubVespa

from clipsearch.deployment.changes import Changes
from clipsearch.deployment.options import DeployOptions
from finetune.encoder_folder import (
    EncoderDescription,
    fingerprint,
    write_description,
)
from finetune.images.preprocessing import Preprocessing

REINDEX = {
    "documentType": "image",
    "clusterName": "images",
    "messages": ["Document type 'image': Field 'captions' changed: stemming: 'best' -> 'none'"],
    "services": [{"serviceName": "searchnode", "hostName": "localhost"}],
}
RESTART = {
    "clusterName": "images",
    "clusterType": "search",
    "serviceType": "searchnode",
    "messages": ["Document type 'image': Field 'path' changed: add attribute aspect"],
    "services": [{"serviceName": "searchnode", "hostName": "localhost"}],
}


def make_encoder(folder: Path, *, name: str = "photos", dimension: int = 8) -> Path:
    """A folder with all that deploy looks at; the towers are no models."""
    (folder / "onnx").mkdir(parents=True)
    for tower in ("text", "image"):
        (folder / "onnx" / f"{tower}.onnx").write_bytes(f"{name} {tower} {dimension}".encode())
    (folder / "tokenizer.json").write_text("{}")
    size = Preprocessing(32, 32, "exact", 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    description = EncoderDescription(
        family="clip",
        name=name,
        dimension=dimension,
        max_tokens=64,
        pad_to_max=False,
        pad_token_id=0,
        preprocessing=size,
        onnx_max_difference={},
        fingerprint=fingerprint(folder),
    )
    write_description(folder, description)
    return folder


def options(server: StubConfigServer, vespa: StubVespa, **changes: Any) -> DeployOptions:
    base = DeployOptions(config_server=server.url, index=vespa.url, wait=5.0)
    return replace(base, **changes)


class Asked:
    """Consent that remembers what it was asked."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.changes: list[Changes] = []

    def __call__(self, changes: Changes) -> bool:
        self.changes.append(changes)
        return self.answer


def quiet(line: str) -> None:
    pass


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, "deploy", *arguments],
        capture_output=True,
        text=True,
        env=without_settings(),
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
