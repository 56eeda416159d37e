"""Vespa's answers parsed: documents, hits, facets, and what is wrong in one sentence."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.documents import Document
from clipsearch.engine import Hit
from clipsearch.facet_counts import counts_by_tag
from clipsearch.vespa.connection import Json
from finetune.errors import EngineError

Facets = dict[str, tuple[tuple[str, int], ...]]

# Vespa wraps what a content node says: [CODE @ node]: ReturnCode(NAME, sentence) [CODE @ node]: ...
_RETURN_CODE = re.compile(r"ReturnCode\([A-Z_]+, (.*?)\)\s*(?=\[|$)")
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
_FACET_LABEL = re.compile(r'tags\{"(.*)"\}')
# Content, address and headers that are longer than the HTTP server, or a proxy before it, takes.
TOO_LONG = frozenset({413, 414, 431})
# Messages that mean: what is deployed there is not our package, or an old one.
_FOREIGN_PACKAGE = re.compile(
    r"does not contain requested rank profile|Could not resolve source ref"
    r"|Document type \S+ does not exist|Field '\S+' does not exist"
    r"|Field '\S+' is not defined in document type"
)
# Why Vespa calls an answer degraded, by its own names without hyphens, in words for people.
# https://docs.vespa.ai/en/graceful-degradation.html
_DEGRADED = {
    "anntimeout": "the nearest were looked for only in part, since time ran out",
    "timeout": "time ran out before all matches were looked at",
    "adaptivetimeout": "the slowest content nodes were not waited for",
    "matchphase": "of many matches only the most promising were looked at",
    "nonidealstate": "a content node is down, or documents are on their way between nodes",
}
# Juniper's marks around a matched word, where bolding was turned off but they came through.
_HIGHLIGHT_MARKS = str.maketrans("", "", "\x1e\x1f")


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """A search answer.

    Attributes:
        hits: In the order that Vespa ranked them.
        total: Matches that Vespa counted.
        facets: As in `clipsearch.engine.Page`.
        cut_facets: Columns with more values than were asked for.
        partial: Why the answer may be incomplete; None where it is whole.
    """

    hits: tuple[Hit, ...]
    total: int
    facets: Facets
    cut_facets: tuple[str, ...]
    partial: str | None


def parse_search(status: int, content: Json, target: str) -> SearchAnswer:
    """Parse an answer of /search/.

    Looks at `errors`, `coverage`, `documents` and `nodes`: a dead content node answers with
    coverage 100 and no error code. Raises EngineError where nothing came, with Vespa's reason.
    """
    root = content.get("root") if isinstance(content, dict) else None
    if not isinstance(root, dict):
        raise EngineError(failure_sentence(status, content, target))
    partial = _incomplete(root)
    children = root.get("children", [])
    groups = [child for child in children if str(child.get("id", "")).startswith("group:root")]
    found = [child for child in children if child not in groups]
    total = int(root.get("fields", {}).get("totalCount", 0))
    nothing = not found and not groups
    # A search that asks for no hits, but for their number, may well have got that.
    if nothing and (status != 200 or (partial is not None and not total)):
        if status == 200:
            raise EngineError(f"{target}: the search found nothing for want of answers: {partial}")
        raise EngineError(failure_sentence(status, content, target))
    hits = []
    for child in found:
        if "id" not in child.get("fields", {}):
            partial = partial or "some hits came without their document"
            continue
        hits.append(_hit(child))
    facets, cut = _facets(groups)
    return SearchAnswer(tuple(hits), total, facets, cut, partial)


def parse_document(content: Mapping[str, Json]) -> Document:
    """A document from a get, or from an entry of a visit, with its embedding if it is there."""
    return _document(document_id(content), content.get("fields", {}))


def document_id(content: Mapping[str, Json]) -> str:
    """The id of a document from a get, or from an entry of a visit."""
    id_ = content.get("fields", {}).get("id")
    return str(content.get("id", "")).split("::", 1)[-1] if id_ is None else str(id_)


def failure_sentence(status: int, content: Json, target: str) -> str:
    """What went wrong, in one sentence that keeps Vespa's own words."""
    message = vespa_message(content)
    if status in (401, 403):
        return (
            f"{target}: access refused ({status}{_after(message)}); give a token in"
            f" VESPA_CLOUD_SECRET_TOKEN, or a client certificate in"
            f" VESPA_CLI_DATA_PLANE_CERT_FILE and VESPA_CLI_DATA_PLANE_KEY_FILE"
        )
    if status in TOO_LONG:
        return f"{target}: {refusal(status)}"
    if content is None or (status == 404 and not message):
        return (
            f"{target}: answered {status}, and not as Vespa does; is it the address of Vespa's"
            f" container (port 8080)?"
        )
    text = message or f"answered {status} without a message"
    if status == 400 and is_foreign_package(text):
        return (
            f"{target}: {text} (is another application deployed there, or an old version of this"
            f" one? Mend it with: clipsearch deploy)"
        )
    return f"{target}: {text}"


def refusal(status: int) -> str:
    """What went wrong where not Vespa refused a request, but the HTTP server before it."""
    if status in TOO_LONG:
        what = "document" if status == 413 else "id"
        return f"the {what} is longer than the server, or a proxy before it, takes ({status})"
    return f"the server, or a proxy before it, refused the request ({status}, without a reason)"


def vespa_message(content: Json) -> str:
    """Vespa's own words about a failure, on one line; "" where there are none."""
    if not isinstance(content, dict):
        return ""
    if "message" in content:
        text = " ".join(str(content["message"]).split())
        found = _RETURN_CODE.search(text)
        return found.group(1).strip() if found else text
    root = content.get("root")
    return _errors(root) if isinstance(root, dict) else ""


def is_foreign_package(message: str) -> bool:
    """Whether Vespa's message means that what is deployed there is not our package."""
    return _FOREIGN_PACKAGE.search(message) is not None


def is_missing(status: int, content: Json) -> bool:
    """Whether a get says that there is no such document, and not that nobody knows the path."""
    return status == 404 and isinstance(content, dict) and "pathId" in content


def _errors(root: Mapping[str, Json]) -> str:
    parts = []
    for error in root.get("errors", []):
        summary, message = error.get("summary", ""), error.get("message", "")
        parts.append(": ".join(part for part in (summary, " ".join(message.split())) if part))
    return "; ".join(dict.fromkeys(parts))


def _incomplete(root: Mapping[str, Json]) -> str | None:
    """Why an answer may be incomplete, from its errors and its coverage."""
    reasons = []
    errors = _errors(root)
    if errors:
        reasons.append(f"Vespa reported {errors}")
    coverage = root.get("coverage")
    if coverage is not None:
        reasons += _coverage_reasons(coverage)
    return "; ".join(reasons) or None


def _coverage_reasons(coverage: Mapping[str, Json]) -> list[str]:
    """Why not everything was searched; empty where all was.

    The share alone does not tell: a search for the nearest that time cut short has looked at
    "100 %", and says so.
    """
    if coverage.get("nodes", 1) == 0:
        return ["no content node answered"]
    causes = [
        _DEGRADED.get(name.replace("-", ""), f"Vespa gives {name} as the reason")
        for name, on in (coverage.get("degraded") or {}).items()
        if on
    ]
    share = coverage.get("coverage", 100)
    if share < 100:
        because = f": {'; '.join(causes)}" if causes else ""
        return [f"only {share} % of the documents were searched{because}"]
    if not causes and not coverage.get("full", True):
        return ["Vespa calls the answer incomplete, and does not say why"]
    whole, asked = coverage.get("resultsFull", 1), coverage.get("results", 1)
    if not causes and whole < asked:
        return [f"only {whole} of {asked} parts of the answer are whole"]
    return causes


def _hit(child: Mapping[str, Json]) -> Hit:
    fields = child["fields"]
    features = fields.get("matchfeatures", {})
    lexical = features.get("lexical")
    return Hit(
        document=_document(str(fields["id"]), fields),
        score=float(child.get("relevance", 0.0)),
        bm25=None if lexical is None else float(lexical),
        cosine=_cosine(features),
    )


def _cosine(features: Mapping[str, float]) -> float | None:
    if "cosine" in features:
        return float(features["cosine"])
    closeness = features.get("closeness(field,embedding)")
    # prenormalized-angular: closeness = 1 / (2 - cosine), and 0 where nothing was compared.
    return None if not closeness else 2.0 - 1.0 / float(closeness)


def _document(id_: str, fields: Mapping[str, Json]) -> Document:
    captions = fields.get("captions") or ()
    tensor = fields.get("embedding")
    values = tensor.get("values") if isinstance(tensor, dict) else tensor
    return Document(
        id=id_,
        captions=tuple(str(text).translate(_HIGHLIGHT_MARKS) for text in captions),
        path=str(fields.get("path") or ""),
        tags={str(key): str(value) for key, value in (fields.get("tags") or {}).items()},
        numbers={str(key): float(value) for key, value in (fields.get("numbers") or {}).items()},
        embedding=None if values is None else np.asarray(values, dtype=np.float32),
    )


def _facets(groups: Sequence[Mapping[str, Json]]) -> tuple[Facets, tuple[str, ...]]:
    facets: Facets = {}
    cut = []
    for root in groups:
        for listed in root.get("children", []):
            label = _FACET_LABEL.fullmatch(str(listed.get("label", "")))
            if label is None:
                continue
            column = re.sub(r"\\(.)", r"\1", label.group(1))
            counts = [
                (str(group["value"]), int(group["fields"]["count()"]))
                for group in listed.get("children", [])
                # A document without the tag is counted under the empty value.
                if str(group.get("value", "")) != ""
            ]
            facets[column] = counts_by_tag(counts)
            if "next" in listed.get("continuation", {}):
                cut.append(column)
    return facets, tuple(cut)


def _after(message: str) -> str:
    return f": {message}" if message else ""
