"""The curl lines of README.md and docs/vespa.md, as requests."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote_plus, urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = (REPOSITORY / "README.md", REPOSITORY / "docs" / "vespa.md")
# Options that take a word.
_WITH_VALUE = ("-d", "--data-urlencode", "-H", "--cert", "--key", "--cacert")


@dataclass(frozen=True)
class Curl:
    """One command: its address without the query part, and the parameters of both."""

    url: str
    parameters: dict[str, str]
    options: dict[str, str]
    text: str

    @property
    def path(self) -> str:
        """Of the address."""
        return urlsplit(self.url).path


def curls() -> list[Curl]:
    """Every curl command of the pages' shell blocks, in order."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        commands += re.findall(r"^curl .*?(?=^curl |^\S.*?\n|\Z)", block, re.DOTALL | re.MULTILINE)
    return [_parse(command) for command in commands]


def _parse(command: str) -> Curl:
    words = shlex.split(command.replace("\\\n", " "))[1:]
    parameters: dict[str, str] = {}
    options: dict[str, str] = {}
    addresses = []
    while words:
        word = words.pop(0)
        if word in ("-d", "--data-urlencode") and "-G" in command:
            name, _, value = words.pop(0).partition("=")
            if word == "-d":  # goes into the address as it is written
                assert not set(value) & set(' "{}[]<>|#&'), f"{value!r} must be encoded: {command}"
                value = unquote_plus(value)
            parameters[name] = value
        elif word in _WITH_VALUE:
            options[word] = words.pop(0)
        elif word.startswith("http"):
            addresses.append(word)
        else:
            assert word == "-G", f"{word!r} in {command}"
    (address,) = addresses
    parts = urlsplit(address)
    assert not set(parts.query) & set(' "{}[]<>|#'), f"must be encoded: {command}"
    parameters |= dict(parse_qsl(parts.query, strict_parsing=True))
    return Curl(address.partition("?")[0], parameters, options, command)
