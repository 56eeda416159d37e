"""What `clipsearch doctor` says of a Vespa: our package, that of another version, another's."""

import pytest
from config_server_stub import StubConfigServer
from deploying import Asked, options, quiet
from vespa_stub import StubVespa

from clipsearch.deployment.deploy import deploy
from clipsearch.deployment.deployed import IMAGE_SCHEMA
from clipsearch.doctor.findings import Finding
from clipsearch.doctor.index import look_into


def looked(vespa: StubVespa, server: StubConfigServer) -> dict[str, Finding]:
    return {each.name: each for each in look_into(vespa.url, None, server.url)}


@pytest.fixture
def deployed(server: StubConfigServer, vespa: StubVespa) -> None:
    deploy(options(server, vespa, dimension=8), consent=Asked(), say=quiet)


@pytest.mark.usefixtures("deployed")
def test_what_this_version_deployed_is_green(server: StubConfigServer, vespa: StubVespa) -> None:
    found = looked(vespa, server)
    assert found["vespa, embeddings"].said == "8 values of float"
    for name in ("config server", "vespa, schema", "vespa, embeddings", "encoder"):
        assert found[name].colour == "green", found[name]
    assert found["index"].colour == "yellow"
    assert found["index"].mend == f"clipsearch feed MANIFEST --index {vespa.url}"


@pytest.mark.usefixtures("deployed")
def test_another_versions_schema_is_yellow_with_its_mend(
    server: StubConfigServer, vespa: StubVespa
) -> None:
    server.active[IMAGE_SCHEMA] += b"# of another version\n"
    schema = looked(vespa, server)["vespa, schema"]
    assert (schema.colour, schema.said.partition(":")[0]) == ("yellow", "another version's")
    assert schema.mend.startswith("clipsearch deploy")


@pytest.mark.usefixtures("deployed")
def test_another_application_is_red_with_its_mend(
    server: StubConfigServer, vespa: StubVespa
) -> None:
    server.active = {"schemas/music.sd": b"schema music { document music {} }"}
    schema = looked(vespa, server)["vespa, schema"]
    assert schema.colour == "red" and "music" in schema.said
    assert schema.mend.startswith("clipsearch deploy")


@pytest.mark.usefixtures("deployed")
def test_a_config_server_that_is_away_is_yellow_and_hides_no_other_finding(
    server: StubConfigServer, vespa: StubVespa
) -> None:
    server.up = False
    found = looked(vespa, server)
    assert found["config server"].colour == "yellow"
    assert "not compared" in found["config server"].said
    assert found["config server"].mend == "name it with --config-server"
    assert "vespa, schema" not in found and "index" in found
