"""`clipsearch deploy` to Docker and Vespa Cloud, by stand-ins of their packages."""

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config_server_stub import StubConfigServer
from deploying import Asked, make_encoder, options, quiet
from vespa_stub import StubVespa

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.options import DeployOptions
from finetune.errors import EngineError, UsageError


def fake_pyvespa(monkeypatch: pytest.MonkeyPatch, **classes: type) -> None:
    module = types.ModuleType("vespa.deployment")
    for name, made in classes.items():
        setattr(module, name, made)
    monkeypatch.setitem(sys.modules, "vespa", types.ModuleType("vespa"))
    monkeypatch.setitem(sys.modules, "vespa.deployment", module)


class FakeDocker:
    """In place of the module: whether there is a container, and what was done."""

    class errors:  # noqa: N801
        class NotFound(Exception):  # noqa: N818
            pass

    def __init__(self, server: StubConfigServer, *, held: bool) -> None:
        self.containers = self
        self.done: list[Any] = []
        self._server, self._held = server, held

    def from_env(self, timeout: int) -> "FakeDocker":
        return self

    def get(self, name: str) -> "FakeDocker":
        if not self._held:
            raise self.errors.NotFound(name)
        return self

    def start(self) -> None:
        self.done.append("start")
        self._server.up = True

    def run(self, image: str, **arguments: Any) -> None:
        self.done.append((image, arguments))
        self._server.up = True


@pytest.mark.parametrize("held", [False, True])
def test_docker_is_started_and_then_deployed_to(
    server: StubConfigServer,
    vespa: StubVespa,
    encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: bool,
) -> None:
    fake = FakeDocker(server, held=held)
    monkeypatch.setitem(sys.modules, "docker", fake)
    monkeypatch.setattr("clipsearch.deployment.deploy.DOCKER_CONFIG_SERVER", server.url)
    wanted = DeployOptions(encoder=encoder, docker=True, index=vespa.url, wait=5)
    if held:  # a stopped container, whose index is not to be forgotten
        half = options(server, vespa, encoder=encoder, precision="bfloat16")
        deploy(half, consent=Asked(), say=quiet)
    server.up = False
    deployed = deploy(wanted, consent=Asked(), say=quiet)
    assert deployed is not None and deployed.index == vespa.url
    assert deployed.info.precision == ("bfloat16" if held else "float")
    if held:
        assert fake.done == ["start"]
    else:
        ((image, made),) = fake.done
        assert (image, made["name"]) == ("vespaengine/vespa", "clipsearch")
        assert made["ports"]["8080/tcp"] == ("127.0.0.1", 8080), "for this machine alone"
    deploy(wanted, consent=Asked(), say=quiet)
    assert len(fake.done) == 1, "one that is up is not started again"


def test_cloud_goes_through_pyvespa(
    vespa: StubVespa, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "data-plane-public-cert.pem"
    certificate.write_text("certificate")
    made: list[Any] = []

    class VespaCloud:
        data_cert_path = str(certificate)
        data_key_path = str(certificate)

        def __init__(self, **arguments: Any) -> None:
            made.append(arguments)

        def deploy_from_disk(self, instance: str, application_root: Path, max_wait: int) -> Any:
            assert (application_root / "security" / "clients.pem").read_text() == "certificate"
            assert 'nodes count="1"' in (application_root / "services.xml").read_text()
            return types.SimpleNamespace(url=vespa.url + "/")

    fake_pyvespa(monkeypatch, VespaCloud=VespaCloud)
    cloud = DeployOptions(encoder=encoder, cloud="me.photos", wait=2)
    said: list[str] = []
    deployed = deploy(cloud, consent=Asked(), say=said.append)
    assert said == ["deploying to Vespa Cloud as me.photos"]
    other = replace(cloud, encoder=make_encoder(tmp_path / "other", name="other"), language="fr")
    deploy(other, consent=Asked(), say=said.append)
    assert "changed: language: en → fr" in said, "it could not be said before"
    assert deployed is not None and deployed.index == vespa.url
    assert deployed.certificate == str(certificate)
    assert (made[0]["tenant"], made[0]["application"], made[0]["instance"]) == (
        "me",
        "photos",
        "default",
    )


def test_errors_of_docker_and_pyvespa_are_one_sentence(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        def from_env(self, timeout: int) -> None:
            raise RuntimeError("no docker engine answers")

    monkeypatch.setattr("clipsearch.deployment.deploy.DOCKER_CONFIG_SERVER", "http://127.0.0.1:1")
    docker = DeployOptions(encoder=encoder, docker=True, wait=1)
    monkeypatch.setitem(sys.modules, "docker", Silent())
    with pytest.raises(EngineError, match="Docker: no docker engine answers; is it installed"):
        deploy(docker, consent=Asked(), say=quiet)
    nowhere = f"unix://{encoder.parent}/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", nowhere)
    monkeypatch.delitem(sys.modules, "docker")
    said: list[str] = []
    with pytest.raises(EngineError, match=f"Docker: no daemon is at {nowhere}; is it installed"):
        deploy(docker, consent=Asked(), say=said.append)
    assert not said, "nothing is started where Docker does not answer"
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[vespa\]' in a"):
        deploy(docker, consent=Asked(), say=quiet)
    cloud = DeployOptions(encoder=encoder, cloud="me.photos", wait=1)
    monkeypatch.setitem(sys.modules, "vespa.deployment", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[vespa\]' in a"):
        deploy(cloud, consent=Asked(), say=quiet)
