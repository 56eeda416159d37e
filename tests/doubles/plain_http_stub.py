"""The stand-in for Vespa with the package that was deployed to it: queries as people send them.

Query profiles, userInput, weakAnd and embed are brought to the form that the twin reads, in the way
that ../recorded/http-document-and-search.json has them: what a query profile sets as input.query(…)
a request cannot change, userInput cuts the text like a caption, and bolding marks what matched.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from text_tower import embed
from vespa_stub import Request, StubVespa

from clipsearch.search.highlight import match_spans
from clipsearch.text import tokens
from finetune.console import pieces

_WORD = "captions contains ({{stem:false, normalizeCase:false, accentDrop:false}}@{0})"
_USER_INPUT = re.compile(r'\(?\{grammar:"linguistics"\}userInput\(@text\)\)?')
_SUMMARIES = {"": "id, path, captions, tags, numbers", "light": "id, path"}
# Beyond the names t0, t1 … that a request may use itself.
_FIRST_WORD = 1000


@dataclass
class PlainHttpVespa(StubVespa):
    """`package` is what runs there, `folder` where it is laid out for its embedder."""

    package: Mapping[str, bytes] = field(default_factory=dict)
    folder: Path = Path()

    def activate(self, package: Mapping[str, bytes]) -> None:
        """From now on this package runs."""
        self.package = package
        for path, data in package.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_bytes(data)

    def answer(self, request: Request) -> tuple[int, Any]:
        body = request.body or request.query or {}
        by_people = request.method == "GET" or "queryProfile" in body
        if request.path != "/search/" or not by_people:
            return super().answer(request)
        asked = self._resolved(body)
        words = self._cut(asked)
        plain = Request(request.method, request.path, {}, asked, request.headers)
        status, content = super().answer(plain)
        if asked.get("presentation.bolding", True):
            _mark(content["root"].get("children", []), words, self.language)
        return status, content

    def _resolved(self, body: Mapping[str, Any]) -> dict[str, Any]:
        profile = self._profile(str(body.get("queryProfile", "default")))
        inputs = {name: value for name, value in profile.items() if name.startswith("input.")}
        asked = {**profile, **body, **inputs}
        for name, value in asked.items():
            if name.startswith("input.") and isinstance(value, str):
                asked[name] = self._input(value, asked)
        return asked

    def _profile(self, name: str) -> dict[str, str]:
        root = ElementTree.fromstring(self.package[f"search/query-profiles/{name}.xml"])
        inherited = root.get("inherits")
        own = {str(one.get("name")): one.text or "" for one in root.findall("field")}
        return {**(self._profile(inherited) if inherited else {}), **own}

    def _input(self, value: str, asked: Mapping[str, Any]) -> Any:
        if value == "embed(@text)":
            return embed(self.folder, str(asked["text"])).tolist()
        return json.loads(value)

    def _cut(self, asked: dict[str, Any]) -> frozenset[str]:
        """Make the statement one that the twin reads; the words that it looks for."""
        yql = " ".join(str(asked["yql"]).split())
        fields = _SUMMARIES[asked.get("presentation.summary", "")]
        yql = yql.replace("select * from", f"select {fields} from")
        yql = yql.replace("weakAnd(", "(").replace("), captions contains", ") or captions contains")
        yql = yql.replace("( ", "(")
        if _USER_INPUT.search(yql):
            names = []
            for number, word in enumerate(tokens(str(asked["text"]), self.language), _FIRST_WORD):
                names.append(f"t{number}")
                asked[names[-1]] = word
            clause = " or ".join(map(_WORD.format, names))
            yql = _USER_INPUT.sub(lambda _: f"({clause})", yql)
        asked["yql"] = yql
        return frozenset(asked[name] for name in re.findall(r"@(t\d+)", yql))


def _mark(children: list[dict[str, Any]], words: frozenset[str], language: str) -> None:
    for child in children:
        captions = child.get("fields", {}).get("captions")
        if captions:
            child["fields"]["captions"] = [_marked(text, words, language) for text in captions]


def _marked(text: str, words: frozenset[str], language: str) -> str:
    found = pieces(text, match_spans(text, words, language))
    return "".join(f"<hi>{piece}</hi>" if match else piece for piece, match in found)
