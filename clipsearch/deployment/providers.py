"""Where Vespa can be had: a container on this machine (docker), and Vespa Cloud (pyvespa)."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import EngineError, UsageError
from finetune.installing import install_command

CONTAINER_NAME = "clipsearch"
DOCKER_CONFIG_SERVER = "http://localhost:19071"
DOCKER_INDEX = "http://localhost:8080"
DOCKER_IMAGE = "vespaengine/vespa"
_DOCKER_SECONDS = 300
_PORTS = (8080, 19071)


@dataclass(frozen=True, slots=True)
class CloudName:
    """TENANT.APPLICATION or TENANT.APPLICATION.INSTANCE."""

    tenant: str
    application: str
    instance: str

    @classmethod
    def parse(cls, text: str) -> "CloudName":
        """Read a provider. Raises UsageError where it is of neither form."""
        parts = text.split(".")
        if len(parts) not in (2, 3) or not all(parts):
            raise UsageError(f"--cloud {text!r} must be TENANT.APPLICATION or with .INSTANCE")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "default")


@dataclass(frozen=True, slots=True)
class CloudEndpoint:
    """Where the application answers, and with which client certificate."""

    url: str
    certificate: str | None
    key: str | None


def _why_docker_is_silent(error: BaseException) -> str:
    """Return in words why Docker does not answer: below its errors lies that of the system."""
    at = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, FileNotFoundError):
            return f"no daemon is at {at}"
        if isinstance(below, OSError) and below.strerror:
            return f"{at}: {below.strerror.lower()}"
        below = below.__cause__ or below.__context__
    return str(error)


def start_docker(say: Callable[[str], None]) -> None:
    """Start Vespa's container, or make it where there is none; its services take a while more.

    `say` is told once Docker answers. Its ports are published on this machine alone, since Vespa
    asks nobody who they are. Raises EngineError where Docker does not answer, UsageError without
    the extra.
    """
    try:
        import docker  # the extra
    except ImportError as error:
        raise _lacks_extra("--docker") from error
    try:
        client = docker.from_env(timeout=_DOCKER_SECONDS)
        say("starting Vespa in Docker (a first time, its image is fetched)")
        try:
            client.containers.get(CONTAINER_NAME).start()
        except docker.errors.NotFound:
            client.containers.run(
                DOCKER_IMAGE,
                detach=True,
                name=CONTAINER_NAME,
                hostname=CONTAINER_NAME,
                ports={f"{port}/tcp": ("127.0.0.1", port) for port in _PORTS},
            )
    except Exception as error:  # whatever docker and its transport raise
        reason = _why_docker_is_silent(error)
        raise EngineError(f"Docker: {reason}; is it installed, and running?") from error


def deploy_to_cloud(folder: Path, name: CloudName, wait: float) -> CloudEndpoint:
    """Deploy the package in `folder` to the development zone of Vespa Cloud.

    The key of the control plane is read from VESPA_TEAM_API_KEY; without it pyvespa asks for a
    login. Adds the data plane's certificate to the package. Raises EngineError.
    """
    try:
        from vespa.deployment import VespaCloud  # the extra
    except ImportError as error:
        raise _lacks_extra("--cloud") from error
    with contextlib.redirect_stdout(sys.stderr):
        try:
            cloud = VespaCloud(
                tenant=name.tenant,
                application=name.application,
                instance=name.instance,
                application_root=str(folder),
                key_content=os.environ.get("VESPA_TEAM_API_KEY"),
                output_file=sys.stderr,
            )
            if cloud.data_cert_path:
                clients = folder / "security" / "clients.pem"
                clients.parent.mkdir(exist_ok=True)
                shutil.copyfile(cloud.data_cert_path, clients)
            application = cloud.deploy_from_disk(
                instance=name.instance, application_root=folder, max_wait=max(1, int(wait))
            )
        except FileNotFoundError as error:
            if error.filename != "vespa":
                raise EngineError(f"Vespa Cloud: {error}") from error
            raise EngineError(
                "Vespa Cloud: no key is in VESPA_TEAM_API_KEY, and the command vespa, for a login,"
                " is not in the path; set the key, or add the folder of vespa (of vespacli)"
            ) from error
        except Exception as error:  # whatever the cloud and pyvespa raise
            raise EngineError(f"Vespa Cloud: {error}") from error
    return CloudEndpoint(str(application.url), cloud.data_cert_path, cloud.data_key_path)


def _lacks_extra(option: str) -> UsageError:
    return UsageError(f"{option} needs more; install it with: {install_command('vespa')}")
