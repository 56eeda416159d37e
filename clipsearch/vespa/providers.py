"""Where a package can be deployed through pyvespa: a container on this machine, and Vespa Cloud."""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import EngineError, UsageError

CONTAINER_NAME = "clipsearch"
DOCKER_CONFIG_SERVER = "http://localhost:19071"
DOCKER_INDEX = "http://localhost:8080"
DOCKER_CONFIG_SERVER_SECONDS = 120


@dataclass(frozen=True, slots=True)
class CloudName:
    """TENANT.APPLICATION or TENANT.APPLICATION.INSTANCE."""

    tenant: str
    application: str
    instance: str

    @classmethod
    def parse(cls, text: str) -> "CloudName":
        """Raises UsageError where it is of neither form."""
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


def deploy_to_docker(folder: Path, wait: float) -> str:
    """Start the container if need be and deploy the package in `folder`; the index's address.

    Raises EngineError where Docker does not answer, or with Vespa's message.
    """
    try:
        from vespa.deployment import VespaDocker  # the extra
    except ImportError as error:
        raise _lacks_extra("--docker") from error
    with contextlib.redirect_stdout(sys.stderr):
        try:
            docker = VespaDocker(output_file=sys.stderr)
            docker.deploy_from_disk(
                CONTAINER_NAME,
                folder,
                max_wait_configserver=DOCKER_CONFIG_SERVER_SECONDS,
                max_wait_application=max(1, int(wait)),
            )
        except Exception as error:  # whatever docker and pyvespa raise
            raise EngineError(f"Docker: {error}") from error
    return DOCKER_INDEX


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
        except Exception as error:  # whatever the cloud and pyvespa raise
            raise EngineError(f"Vespa Cloud: {error}") from error
    return CloudEndpoint(str(application.url), cloud.data_cert_path, cloud.data_key_path)


def _lacks_extra(option: str) -> UsageError:
    return UsageError(f'{option} needs pyvespa; install it with: pip install "clipsearch[vespa]"')
