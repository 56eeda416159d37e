"""deploy/: files that name each other, a package that is the one-machine package on more machines.

What can be checked without Docker; nothing here starts a container.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from clipsearch_command import CLIPSEARCH
from packaging.requirements import Requirement

from clipsearch.cli import COMMANDS
from clipsearch.deployment.package import PackageValues, render
from clipsearch.engines.vespa.operations import CLUSTER

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
NODES = DEPLOY / "several-nodes"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def filled_in(text: str) -> str:
    """As compose does: ${NAME:-default}."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_compose_names_what_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"vespa", "deploy", "feed", "serve", "clipsearch"}
    for name in ("deploy", "feed", "serve", "clipsearch"):
        build = services[name]["build"]
        context = (DEPLOY / build["context"]).resolve()
        assert context == REPOSITORY and (context / build["dockerfile"]).is_file()
        assert services[name]["command"][0] in COMMANDS
        assert services[name]["environment"]["CLIPSEARCH_INDEX"] == "http://vespa:8080"
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert needed in services
        for volume in service.get("volumes", []):
            source = filled_in(volume).split(":")[0]
            assert source.startswith((".", "/")) or source in compose["volumes"]


def test_compose_keeps_bounds_and_watches_vespa(compose: dict[str, Any]) -> None:
    vespa = compose["services"]["vespa"]
    assert re.fullmatch(r"\d+g", filled_in(vespa["mem_limit"]))
    assert "vespa-var:/opt/vespa/var" in vespa["volumes"]
    assert ":19071/state/v1/health" in vespa["healthcheck"]["test"][1]
    assert all(filled_in(port).startswith("127.0.0.1:") for port in vespa["ports"])
    assert vespa["hostname"] == "vespa", "it is in the addresses of the other services"
    deploy, feed = compose["services"]["deploy"], compose["services"]["feed"]
    assert deploy["depends_on"]["vespa"]["condition"] == "service_healthy"
    assert feed["depends_on"]["deploy"]["condition"] == "service_completed_successfully"
    assert "profiles" not in feed and "profiles" not in deploy, "one command starts all"


@pytest.mark.parametrize("name", ["deploy", "feed"])
def test_the_commands_of_compose_are_understood(
    compose: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Options that exist; it fails for want of an encoder, and for nothing else."""
    words = [filled_in(word) for word in compose["services"][name]["command"]]
    words = ["http://127.0.0.1:1" if word.startswith("http") else word for word in words]
    done = subprocess.run(
        [*CLIPSEARCH, *words],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "CLIPSEARCH_INDEX": "photos.index"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert re.match(r"Error: (encoder|photos\.csv)\b", done.stderr), done.stderr


def test_the_dockerfile_copies_what_is_there_and_ignores_the_rest() -> None:
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((REPOSITORY / path).exists() for path in copied)
    kept = re.findall(
        r"^!(.*)$", (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(kept) == set(copied)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*packages, project["project"]["readme"]} <= set(copied)
    assert (
        'ENTRYPOINT ["clipsearch"]' in DOCKERFILE and "clipsearch" in project["project"]["scripts"]
    )


def test_extras_that_deploy_names_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in (*DEPLOY.glob("*.*"), DEPLOY / "Dockerfile"):
        for named in re.findall(r'EXTRAS="?(\w[\w,]*)', path.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= set(extras["optional-dependencies"]), path


def test_the_image_holds_no_torch() -> None:
    """Everything that pip would take for the project with the image's extra alone."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert re.search(r'ARG EXTRAS="serve"$', DOCKERFILE, re.MULTILINE)
    served = project["optional-dependencies"]["serve"]
    pending = [Requirement(one) for one in (*project["dependencies"], *served)]
    seen: set[str] = set()
    while pending:
        needed = pending.pop()
        if needed.name.lower() in seen:
            continue
        seen.add(needed.name.lower())
        try:
            found = requires(needed.name) or []
        except PackageNotFoundError:
            continue
        pending += [
            one
            for one in map(Requirement, found)
            if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    assert {"onnxruntime", "numpy", "fastapi", "starlette"} <= seen
    assert not seen & {"torch", "transformers", "kornia", "matplotlib", "onnx"}


def elements(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def test_aliases_of_several_nodes_resolve() -> None:
    hosts = elements(NODES / "hosts.xml")
    aliases = [str(alias.text) for alias in hosts.iter("alias")]
    assert len(aliases) == len(set(aliases)) == len(list(hosts.iter("host")))
    used = {
        str(one.get("hostalias"))
        for one in elements(NODES / "services.xml").iter()
        if "hostalias" in one.attrib
    }
    assert used == set(aliases)


def test_several_nodes_are_what_they_are_said_to_be() -> None:
    services = elements(NODES / "services.xml")
    assert len(list(services.iter("configserver"))) == 3
    container, content = services.find("container"), services.find("content")
    assert container is not None and content is not None
    assert len(list(container.iter("node"))) == 2
    assert content.get("id") == CLUSTER
    groups = content.findall("group/group")
    assert content.findtext("min-redundancy") == "2" and len(groups) == 2
    distribution = content.find("group/distribution")
    assert distribution is not None and distribution.get("partitions") == "1|*"
    keys = [node.get("distribution-key") for node in content.iter("node")]
    assert len(keys) == len(set(keys)) == 4
    assert len({len(group.findall("node")) for group in groups}) == 1, "groups of one size"


def test_several_nodes_have_the_form_that_a_config_server_prepared(recorded: Path) -> None:
    """All that the recorded services.xml says is said in ours, and only a document type more."""

    def told(root: ElementTree.Element) -> list[tuple[str, tuple[tuple[str, str], ...], str]]:
        return [
            (one.tag, tuple(sorted(one.attrib.items())), (one.text or "").strip())
            for one in root.iter()
        ]

    prepared = recorded / "app-several-nodes"
    ours = told(elements(NODES / "services.xml"))
    ours = [(tag, at, "77" if tag == "max-tokens" else text) for tag, at, text in ours]
    more = ("document", (("mode", "index"), ("type", "index_info")), "")
    assert sorted(ours) == sorted([*told(elements(prepared / "services.xml")), more])
    assert told(elements(NODES / "hosts.xml")) == told(elements(prepared / "hosts.xml"))


def test_the_package_is_the_same_but_for_the_machines(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "text.onnx").write_bytes(b"tower")
    (tmp_path / "tokenizer.json").write_text("{}")
    values = PackageValues(dimension=8, encoder=tmp_path, max_tokens=64)
    one = render(values)
    several = render(replace(values, nodes=NODES))
    assert set(several) == {*one, "hosts.xml"}
    assert {path for path in one if one[path] != several[path]} == {"services.xml"}
    services = several["services.xml"]
    assert isinstance(services, bytes) and b"{{" not in services
    here = ElementTree.fromstring(services)
    there = ElementTree.fromstring(one["services.xml"])  # type: ignore[arg-type]
    for path in ("container/component", "container/config", "content/documents"):
        pair = [root.find(path) for root in (here, there)]
        assert pair[0] is not None and pair[1] is not None
        texts = [
            [(e.tag, e.attrib, (e.text or "").strip()) for e in root.iter()]
            for root in pair
            if root
        ]
        assert texts[0] == texts[1]
    without = render(PackageValues(dimension=8, nodes=NODES))["services.xml"]
    assert isinstance(without, bytes) and b"hugging-face-embedder" not in without


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sizing", DEPLOY / "sizing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sizing"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_sizes_by_hand(sizing: ModuleType) -> None:
    held = sizing.Collection()
    assert sizing.vectors(held, "float") == pytest.approx(1e6 * (2048 + 4.8))
    assert sizing.vectors(held, "bfloat16") == pytest.approx(1e6 * (1024 + 4.8))
    # 32 links below, 16/15 above; references to the vector, the levels, and 16/15 to links.
    assert sizing.graph(held) == pytest.approx(1e6 * 4.8 * (32 + 16 / 15 + 2 + 16 / 15))
    one_string = sizing.Collection(tags=0, numbers=0, tag_values=0, words=0, different_words=0)
    by_hand = 1.2 * (4 + 33 + 4 + 4) + 1.2 * (4 + 33) + 6 * 4.8 + 52
    by_hand += 1.2 * (4 + 4 + (4 + 18) + 4)  # no words, nothing to sort by, look, data_set
    assert sizing.attributes(one_string) == pytest.approx(1e6 * by_hand)
    lists = sizing.attributes(held) - sizing.attributes(one_string)
    by_hand = 1.2 * (3 * 2 * 12 + 2 * 12) * 1e6 + 1.2 * 10_000 * 23
    by_hand += 1.2 * (3 * 12 + 2 * 28) * 1e6 + 1.2 * 10_000 * 33  # what filters ask
    by_hand += 1.2 * 20 * 12 * 1e6 + 1.2 * 200_000 * 21 + 1.2 * 2 * 12 * 1e6  # words, sortable
    assert lists == pytest.approx(by_hand)


def test_the_graph_has_the_links_of_the_schema(sizing: ModuleType) -> None:
    schema = render(PackageValues(dimension=8))["schemas/image.sd"]
    assert isinstance(schema, bytes)
    assert f"max-links-per-node: {sizing.MAX_LINKS}\n" in schema.decode()


def test_vespas_own_rule_comes_to_about_the_same(sizing: ModuleType) -> None:
    """Of 768 bytes a vector: with its index 1.2 times as much, divided by 0.65."""
    held = sizing.Collection(dimension=384)
    ours = (sizing.vectors(held, "bfloat16") + sizing.graph(held)) / sizing.ROOM
    assert ours == pytest.approx(1e6 * 384 * 2 * 1.2 / 0.65, rel=0.05)


def test_the_page_shows_what_the_functions_compute(sizing: ModuleType) -> None:
    page = (DEPLOY / "SIZING.md").read_text(encoding="utf-8")
    for options in ([], ["--documents", "10000000"]):
        command = [sys.executable, str(DEPLOY / "sizing.py"), *options]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed.strip() in page, f"python deploy/sizing.py {' '.join(options)}"


def test_pages_of_deploy_link_to_what_is_there() -> None:
    for page in DEPLOY.glob("*.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (DEPLOY / link).exists(), f"{page.name}: {link}"
