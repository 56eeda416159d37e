"""The curl lines of the pages ask for what the application package has, and curl sends them so."""

import http.server
import re
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from curl_lines import PAGES, Curl, curls
from test_vespa_app import encoder, query_profiles, rank_profiles, text_of

from clipsearch.deployment.package import Package, PackageValues, render
from clipsearch.documents import Document
from clipsearch.engines.vespa.filter_fields import tag_value
from clipsearch.engines.vespa.http.connection import ConnectionSettings
from clipsearch.engines.vespa.operations import document_path

__all__ = ["encoder"]  # the fixture

SEARCHES = [curl for curl in curls() if curl.path == "/search/" and curl.parameters]
# https://docs.vespa.ai/en/reference/api/query.html
PARAMETERS = {"queryProfile", "text", "yql", "hits", "offset", "ranking.profile"}
PARAMETERS |= {"presentation.summary", "timeout", "language"}


@pytest.fixture
def package(encoder: Path) -> Package:
    return render(PackageValues(dimension=8, encoder=encoder))


def ladder(package: Package, name: str) -> str:
    """A rank profile's text with all that it inherits."""
    inherited, text = rank_profiles(package)[name]
    return text + (ladder(package, inherited) if inherited else "")


def resolved(package: Package, curl: Curl) -> dict[str, str]:
    """The parameters with those of the query profile, which wins for inputs that it sets."""
    profiles = query_profiles(package)
    name = curl.parameters.get("queryProfile", "default")
    assert name in profiles, curl.text
    return {**profiles[name], **curl.parameters}


@pytest.mark.parametrize("curl", SEARCHES, ids=lambda curl: curl.text[:70])
def test_a_line_asks_for_what_is_there(package: Package, curl: Curl) -> None:
    asked = resolved(package, curl)
    profile = asked["ranking.profile"]
    assert profile in rank_profiles(package)
    if "queryProfile" in curl.parameters:
        own = query_profiles(package)[curl.parameters["queryProfile"]]
        inputs = {name for name in own if name.startswith("input.")}
        assert not inputs & set(curl.parameters), "a request cannot change what the profile sets"
    for name in asked:
        if name.startswith("input."):
            declared = re.search(
                rf"\b{re.escape(name.removeprefix('input.'))}[ :]", ladder(package, profile)
            )
            assert declared, f"{name} is no input of {profile}"
    yql = asked["yql"]
    variables = set(re.findall(r"@(\w+)", " ".join((yql, asked.get("input.query(q)", "")))))
    assert variables <= set(asked)
    extra = set(curl.parameters) - PARAMETERS - variables
    assert all(name.startswith("input.query(") for name in extra), extra
    assert ("nearestNeighbor" in yql) == ("input.query(q)" in asked)
    if "input.query(q)" in asked:
        assert asked["input.query(q)"] == "embed(@text)"
    if asked.get("presentation.summary"):
        schema = text_of(package, "schemas/image.sd")
        assert f"document-summary {asked['presentation.summary']} {{" in schema


@pytest.mark.parametrize("curl", SEARCHES, ids=lambda curl: curl.text[:70])
def test_statements_are_of_the_forms_that_were_recorded(package: Package, curl: Curl) -> None:
    """Every part of a statement is one that the application package or clipsearch uses too."""
    yql = " ".join(resolved(package, curl)["yql"].split())
    for left, right in ("()", "{}"):
        assert yql.count(left) == yql.count(right)
    statement, _, grouping = yql.partition(" | ")
    schema = text_of(package, "schemas/image.sd")
    fields = set(re.findall(r"field (\w+) type", schema))
    head = re.match(r"select (?:\*|[\w, ]+) from (\w+) where ", statement)
    assert head is not None and head.group(1) == "image"
    used = set(re.findall(r"\b(\w+) contains (?:sameElement|\()", statement))
    used |= set(re.findall(r"\b(\w+) contains (?:@|\")", statement)) - {"key", "value"}
    used |= set(re.findall(r"nearestNeighbor\((\w+), q\)", statement))
    used |= set(re.findall(r"\b(\w+)\{\"", grouping))
    assert used <= fields
    assert " in (" not in statement, "finds nothing inside sameElement, without an error"
    known = [
        r"\(\{targetHits:100, hnsw\.exploreAdditionalHits:900\}nearestNeighbor\(embedding, q\)\)",
        r"\{targetHits:100, hnsw\.exploreAdditionalHits:900\}nearestNeighbor\(embedding, q\)",
        r'\(\{grammar:"linguistics"\}userInput\(@text\)\)',
        r'\{grammar:"linguistics"\}userInput\(@text\)',
        r"\(\{targetHits:100, approximate:false\}nearestNeighbor\(embedding, q\)\)",
        r'tag_values contains (?:@\w+|"\w+\\t[^"A-Z]+")',
        r'numbers contains sameElement\(key contains "\w+"(?:, value (?:>=|>|<=|<) \d+)+\)',
        r"captions contains \(\{stem:false, normalizeCase:false, accentDrop:false\}@t\d\)",
    ]
    rest = statement[head.end() :]
    for form in known:
        rest = re.sub(form, "X", rest)
    assert re.fullmatch(r"(?:X|\(|\)|!|,|\s|and|or|weakAnd)+", rest), rest
    for form in (
        r'all\(group\(tags\{"\w+"\}\) max\(\d+\) order\(-count\(\)\) each\(output\(count\(\)\)\)\)',
        r'all\(group\(1\) each\(output\((?:(?:min|max|avg)\(numbers\{"\w+"\}\)(?:, )?)+\)\)\)',
    ):
        grouping = re.sub(form, "X", grouping)
    assert grouping in ("", "X", "all(X X)"), grouping


@pytest.mark.parametrize("curl", SEARCHES, ids=lambda curl: curl.text[:70])
def test_no_line_loses_results_to_its_filter(package: Package, curl: Curl) -> None:
    """Beside an approximate search, a filter on a map drops what was found instead of it."""
    yql = resolved(package, curl)["yql"]
    if "nearestNeighbor" in yql and "sameElement" in yql:
        assert "approximate:false" in yql, curl.text
    for name, value in curl.parameters.items():
        if f"tag_values contains @{name}" in yql:
            column, tab, tag = value.partition("\t")
            assert tab and tag_value(column, tag) == value, "not as the field has it"


def test_filters_facets_and_embed_are_shown() -> None:
    shown = " ".join(curl.parameters.get("yql", "") for curl in SEARCHES)
    for needed in (
        "tag_values contains",
        "numbers contains",
        "!(tag_values",
        'group(tags{"',
        "avg(numbers",
    ):
        assert needed in shown, needed
    assert "embed(@text)" in [curl.parameters.get("input.query(q)") for curl in SEARCHES]


def test_a_document_is_where_clipsearch_puts_it() -> None:
    (path,) = [curl.path for curl in curls() if curl.path.startswith("/document/")]
    assert path == document_path(Document("images/0000.jpg").id)


def test_the_credentials_are_those_that_are_read(tmp_path: Path) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    exported = re.findall(r"^export (VESPA_\w+)=", text, re.MULTILINE)
    environment = {}
    for name in exported:
        environment[name] = "secret" if "TOKEN" in name else str(tmp_path / name)
        (tmp_path / name).touch()
    settings = ConnectionSettings.from_environment(environment)
    found = (settings.token, settings.certificate, settings.key, settings.authority)
    assert None not in found and set(found) == set(environment.values())


def test_curl_sends_what_the_tests_read() -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        asked = [curl for curl in curls() if "https" not in curl.url and "-d" not in curl.options]
        for curl in asked:
            here = f"127.0.0.1:{server.server_address[1]}"
            words = shlex.split(curl.text.replace("\\\n", " "))
            words = [word.replace("localhost:8080", here) for word in words]
            subprocess.run([*words, "-sS", "--noproxy", "*"], check=True, capture_output=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(seen) == len(asked) >= 10
    for curl, path in zip(asked, seen, strict=True):
        parts = urlsplit(path)
        assert parts.path == curl.path
        assert dict(parse_qsl(parts.query)) == curl.parameters
