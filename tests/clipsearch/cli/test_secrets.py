"""Passwords and tokens go where they belong, and into nothing that is printed or written."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clipsearch_command import CLIPSEARCH
from raw_server import RawServer, http_answer
from vespa_stub import StubVespa, numbered_document

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.address import Address, without_credentials
from clipsearch.engines.vespa.http.connection import ConnectionSettings, connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.ledger.file import ledger_path
from clipsearch.operations import Upsert
from finetune.errors import EngineError
from finetune.text.masking import SECRET_VARIABLES, masked

PASSWORD = "pass:w0rd/of?mine#@%"
QUOTED = "pass%3Aw0rd%2Fof%3Fmine%23%40%25"
TOKEN = "vespa_cloud_s3cret_token"
BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, QUOTED, TOKEN, BASIC.split()[1], "w0rd")


@pytest.fixture
def vespa() -> Iterator[StubVespa]:
    with StubVespa(dimension=8) as stub:
        write_info(connect(stub.url), IndexInfo(dimension=8))
        engine = VespaEngine.open(stub.url)
        list(engine.feed(Upsert(numbered_document(number)) for number in range(3)))
        stub.requests.clear()
        yield stub


def with_password(url: str) -> str:
    return url.replace("://", f"://user:{QUOTED}@")


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIPSEARCH, *arguments],
        env=os.environ | {"XDG_STATE_HOME": str(folder / "state")} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_no_secret(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "photos.jsonl"]
    texts = [done.stdout, done.stderr, *(str(path) for path in written)]
    texts += [path.read_bytes().decode("latin-1") for path in written]
    for secret in SECRETS:
        assert not [text for text in texts if secret in text]


COMMANDS = {
    "status": ["status", "--json"],
    "get": ["get", "p/1.jpg", "--json"],
    "query": ["query", "a red circle", "--mode", "bm25", "--json"],
    "query in vain": ["query", "a red circle", "--mode", "vector"],
    "feed": ["feed", "photos.jsonl"],
    "delete": ["delete", "p/1.jpg", "--yes"],
    "deploy": ["deploy", "--dimension", "8", "--yes"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_in_the_address_is_used_and_not_shown(
    vespa: StubVespa, tmp_path: Path, command: str
) -> None:
    row = {"image": "1.jpg", "caption": "a dog", "embedding": [1.0] * 8}
    (tmp_path / "photos.jsonl").write_text(json.dumps(row))
    done = run(tmp_path, "--debug", *COMMANDS[command], "--index", with_password(vespa.url))
    assert (done.returncode == 0) == (command != "query in vain"), done.stderr
    assert {request.headers.get("authorization") for request in vespa.requests} == {BASIC}
    assert_no_secret(tmp_path, done)


FAILING = {
    "nobody there": "http://{}@127.0.0.1:1",
    "no host": "http://{}@",
    "a bad port": "http://{}@127.0.0.1:port",
    "in the open": "http://{}@vespa.example:8080",
    "an unknown host": "https://{}@vespa.invalid",
    "a scheme of another kind": "ftp://{}@vespa.example",
}


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("user", [f"user:{QUOTED}", f"user:{PASSWORD}"], ids=["quoted", "as it is"])
def test_nor_where_something_fails(kind: str, user: str) -> None:
    address = FAILING[kind].format(user)
    with pytest.raises(EngineError) as caught:
        VespaEngine.open(address, ConnectionSettings(search_patience=0.0))
    error = caught.value
    shown = "".join(str(one) for one in (error, error.__cause__, error.__context__) if one)
    assert not [secret for secret in SECRETS if secret in shown]
    if kind == "in the open":
        assert "would travel in the open" in shown or "is no address" in shown


@pytest.mark.parametrize("user", [f"user:{QUOTED}", f"user:{PASSWORD}"], ids=["quoted", "as it is"])
@pytest.mark.parametrize("proxy", ["http://{}@127.0.0.1:1", "http://{}@127.0.0.1:p", "ftp://{}@x"])
def test_nor_that_of_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: str, user: str) -> None:
    monkeypatch.setenv("http_proxy", proxy.format(user))
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(EngineError) as caught:
        VespaEngine.open("http://vespa.example", ConnectionSettings(search_patience=0.0))
    shown = "".join(str(one) for one in (caught.value, caught.value.__context__) if one)
    assert not [secret for secret in SECRETS if secret in shown]


def test_another_scheme_is_no_fault_of_the_password() -> None:
    for address in ("ftp://me:geheim@vespa.example", "ftp://me:geheim@vespa.example:port"):
        with pytest.raises(EngineError, match=r"not of the form http://HOST:PORT") as caught:
            connect(address)
        assert "geheim" not in str(caught.value)
        assert "%2F" not in str(caught.value)


def test_the_command_line_does_not_show_it_either(tmp_path: Path) -> None:
    for address in FAILING.values():
        for command in (["status", "--index"], ["deploy", "--dimension", "8", "--config-server"]):
            done = run(tmp_path, "--debug", *command, address.format(f"user:{PASSWORD}"))
            assert done.returncode in (1, 2)
            assert_no_secret(tmp_path, done)
            break  # one command for each address, so that this takes seconds and not minutes


def test_an_answer_that_repeats_it_is_masked(tmp_path: Path) -> None:
    """As a proxy does that shows the request it refused."""
    with RawServer() as server:
        server.answer = lambda request: http_answer(
            json.dumps({"message": "refused: " + request.decode("latin-1")}), status=400
        )
        done = run(
            tmp_path, "--debug", "status", "--index", server.url, VESPA_CLOUD_SECRET_TOKEN=TOKEN
        )
        assert b"Authorization: Bearer " + TOKEN.encode() in server.requests[0]
    assert done.returncode == 1 and "Bearer ***" in done.stderr
    assert_no_secret(tmp_path, done)


@pytest.mark.parametrize("odd", ["\r", "\r\n", "\n", "\x00", "\t", "é", "\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_by_its_name(odd: str) -> None:
    for token in (TOKEN + odd, TOKEN[:6] + odd + TOKEN[6:]):
        with pytest.raises(
            EngineError, match="VESPA_CLOUD_SECRET_TOKEN holds a character"
        ) as caught:
            ConnectionSettings.from_environment({"VESPA_CLOUD_SECRET_TOKEN": token})
        assert TOKEN[6:] not in str(caught.value)


def test_and_by_the_command_line(tmp_path: Path) -> None:
    done = run(
        tmp_path, "--debug", "status", "--index", "http://localhost:1",
        VESPA_CLOUD_SECRET_TOKEN=TOKEN + "\r",
    )  # fmt: skip
    assert done.returncode == 1 and "VESPA_CLOUD_SECRET_TOKEN holds" in done.stderr
    assert_no_secret(tmp_path, done)


@pytest.mark.parametrize("command", ["export", "push"])
def test_a_hub_token_that_no_header_can_hold_is_refused_by_its_name(
    tmp_path: Path, command: str, encoder_folder: Path
) -> None:
    arguments = ["export", "somebody/model", "--out", "out"]
    if command == "push":
        arguments = ["export", str(encoder_folder), "--push", "me/birds"]
    environment = {"HF_TOKEN": "hf_s3cret\x01" + TOKEN, "HF_HUB_OFFLINE": "0"}
    done = run(tmp_path, "--debug", *arguments, HF_ENDPOINT="http://127.0.0.1:9", **environment)
    assert done.returncode == 2 and "HF_TOKEN holds a character" in done.stderr
    assert TOKEN not in done.stderr + done.stdout and "hf_s3cret" not in done.stderr


def test_a_password_is_no_part_of_what_an_index_is() -> None:
    plain = "http://127.0.0.1:8080"
    assert ledger_path(with_password(plain)) == ledger_path(plain)
    assert Address.parse(with_password(plain)).shown == plain == without_credentials(plain)
    assert without_credentials("photos.index") == "photos.index"


def test_a_token_stays_at_home_where_the_address_has_a_password(vespa: StubVespa) -> None:
    settings = ConnectionSettings(token=TOKEN)
    VespaEngine.open(with_password(vespa.url), settings)
    assert {request.headers["authorization"] for request in vespa.requests} == {BASIC}


@pytest.mark.parametrize("name", SECRET_VARIABLES)
def test_what_the_environment_holds_is_masked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value = "s3cret \\ value\r"
    monkeypatch.setenv(name, value)
    for text in (value, value.strip(), repr(value), repr(value.encode()), f"Bearer {value}"):
        assert "s3cret" not in masked(f"it said {text} to us")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pw@host/x: failed", "http://***@host/x: failed"),
        ("a https://me@host:1 b http://host c", "a https://***@host:1 b http://host c"),
        ("header b'Bearer abc\\r' is illegal", "header b'Bearer ***' is illegal"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic ***"),
        ("{'Authorization': 'Basic dXNlcjpwdw=='}", "{'Authorization': 'Basic ***'}"),
        (
            "Basic authentication failed; me@example.com",
            "Basic authentication failed; me@example.com",
        ),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
