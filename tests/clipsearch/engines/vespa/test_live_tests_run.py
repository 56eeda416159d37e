"""The live tests run from end to end against the stand-in, as far as it goes.

No Vespa is where the suite runs; so that they surely run where one is, all of them but those in
NEEDS_A_REAL_ONE are run here. What they say about Vespa they say only there.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from config_server_stub import StubConfigServer
from forwarder import Supervised
from plain_http_stub import PlainHttpVespa

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("test_vespa_live*.py"))
NEEDS_A_REAL_ONE = {
    "test_how_fast_a_feed_is": "`vespa feed` speaks HTTP/2 alone",
    "test_all_is_there_after_a_restart": "a container of its own",
}


@dataclass
class StubWithSchema(StubConfigServer):
    """Refuses another dimension until it is allowed, and then drops the embeddings."""

    vespa: PlainHttpVespa = field(default_factory=PlainHttpVespa)

    def __post_init__(self) -> None:
        self.on_activate = self._activated

    def answer(self, method: str, path: str, query: str, data: bytes) -> tuple[int, Any]:
        if method == "PUT" and path.endswith("/prepared"):
            new = self.sessions[path.split("/")[-2]]
            allowed = b"field-type-change" in new.get("validation-overrides.xml", b"")
            if self.active and embedding(new) != embedding(self.active) and not allowed:
                return 400, {
                    "error-code": "INVALID_APPLICATION_PACKAGE",
                    "message": (
                        f"Invalid application: field-type-change: Document type 'image': Field"
                        f" 'embedding' changed: data type: '{embedding(self.active)}' ->"
                        f" '{embedding(new)}'. To allow this add"
                        f" <allow until='2026-12-01'>field-type-change</allow> to"
                        f" validation-overrides.xml"
                    ),
                }
        return super().answer(method, path, query, data)

    def _activated(self, package: dict[str, bytes]) -> None:
        found = re.search(r"x\[(\d+)\]", embedding(package))
        assert found is not None
        self.vespa.activate(package)
        if int(found.group(1)) != self.vespa.dimension:
            self.vespa.change_field(int(found.group(1)))


def embedding(package: dict[str, bytes]) -> str:
    """The type of the field in a package."""
    found = re.search(rb"field embedding type (\S+) \{", package["schemas/image.sd"])
    assert found is not None
    return found.group(1).decode()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_live_tests_run_against_the_stub(tmp_path: Path) -> None:
    with (
        PlainHttpVespa(folder=tmp_path) as vespa,
        StubWithSchema(vespa=vespa) as server,
        Supervised(int(vespa.url.rpartition(":")[2])) as container,
    ):
        environment = {
            **os.environ,
            "CLIPSEARCH_TEST_VESPA": container.url,
            "CLIPSEARCH_TEST_VESPA_CONFIG": server.url,
            "CLIPSEARCH_TEST_VESPA_DOCUMENTS": "600",
            "CLIPSEARCH_TEST_VESPA_KILL": str(container.process),
        }
        left_out = " or ".join(NEEDS_A_REAL_ONE)
        arguments = ["-m", "live", "-k", f"not ({left_out})", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments, *map(str, FILES)],
            cwd=HERE.parents[1],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
        )
        starts = container.starts
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert starts == 2, "its process was killed, and started again"
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
