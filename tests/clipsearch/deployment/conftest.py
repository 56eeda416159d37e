"""A Vespa to deploy to: an encoder, its index and the config server beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from config_server_stub import StubConfigServer
from deploying import make_encoder
from vespa_stub import StubVespa


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test waits in this process, what it waits for is noticed soon."""
    monkeypatch.setattr("clipsearch.deployment.waiting.POLL_SECONDS", 0.05)
    monkeypatch.setattr("clipsearch.deployment.waiting.CHANGED_LINE_SECONDS", 0.2)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_encoder(tmp_path / "encoder")


@pytest.fixture
def vespa() -> Iterator[StubVespa]:
    with StubVespa(dimension=8) as stub:
        yield stub


@pytest.fixture
def server(vespa: StubVespa) -> Iterator[StubConfigServer]:
    with StubConfigServer(on_activate=vespa.redeployed) as stub:
        yield stub
