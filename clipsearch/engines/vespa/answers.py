"""Vespa's answers parsed: documents, hits, facets, and what is wrong in one sentence."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clipsearch.document_fields import NUMBERS, PATH, TAGS, TEXT, TEXTS, FieldKind
from clipsearch.documents import PARTS, Document
from clipsearch.engine import Hit
from clipsearch.engines.facet_counts import counts_by_tag
from clipsearch.engines.vespa.caption_words import WORDS
from clipsearch.engines.vespa.http import checked
from clipsearch.engines.vespa.http.checked import MalformedAnswerError
from clipsearch.engines.vespa.http.connection import Json
from clipsearch.engines.vespa.operations import DATA_SET, LOOK
from finetune.errors import EngineError

Facets = dict[str, tuple[tuple[str, int], ...]]

# Vespa wraps what a content node says: [CODE @ node]: ReturnCode(NAME, sentence) [CODE @ node]: ...
_RETURN_CODE = re.compile(r"ReturnCode\([A-Z_]+, (.*?)\)\s*(?=\[|$)")
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
_LONGEST_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """A search answer.

    Attributes:
        hits: In the order that Vespa ranked them.
        total: Matches that Vespa counted.
        facets: As in `clipsearch.engine.Page`.
        cut_facets: Columns with more values than were asked for.
        partial: Why the answer may be incomplete; None where it is whole.
        data_sets, words: Matches by data set and by word, where they were asked for.
        collapsed: The best of each look, with how many more it stands for, where they were asked
            for; in the order that Vespa ranked them.
    """

    hits: tuple[Hit, ...]
    total: int
    facets: Facets
    cut_facets: tuple[str, ...]
    partial: str | None
    data_sets: Mapping[str, int]
    words: Mapping[str, int]
    collapsed: tuple[Hit, ...] = ()


def parse_search(status: int, content: Json, target: str) -> SearchAnswer:
    """Parse an answer of /search/.

    Looks at `errors`, `coverage`, `documents` and `nodes`: a dead content node answers with
    coverage 100 and no error code. Raises EngineError where nothing came, with Vespa's reason, or
    where something came that is not as Vespa's answers are.
    """
    try:
        return _search_answer(status, content, target)
    except MalformedAnswerError as error:
        raise EngineError(f"{target}: {error}") from error


def _search_answer(status: int, content: Json, target: str) -> SearchAnswer:
    root = content.get("root") if isinstance(content, dict) else None
    if not isinstance(root, dict):
        raise EngineError(failure_sentence(status, content, target))
    partial = _incomplete(root)
    children = checked.objects(root.get("children"), "what was found")
    groups = [child for child in children if _is_grouping(child)]
    found = [child for child in children if not _is_grouping(child)]
    counted = checked.mapping(root.get("fields"), "the answer's fields").get("totalCount")
    total = checked.count(counted, "the total") if status == 200 or counted is not None else 0
    nothing = not found and not groups
    # A search that asks for no hits, but for their number, may well have got that.
    if nothing and (status != 200 or (partial is not None and not total)):
        if status == 200:
            raise EngineError(f"{target}: the search found nothing for want of answers: {partial}")
        raise EngineError(failure_sentence(status, content, target))
    hits = []
    for child in found:
        if "id" not in checked.mapping(child.get("fields"), "a hit's fields"):
            partial = partial or "some hits came without their document"
            continue
        hits.append(_hit(child))
    facets, cut = _facets(groups)
    alike = tuple(_collapsed(groups))
    return SearchAnswer(
        tuple(hits),
        total,
        facets,
        cut,
        partial,
        _counts_of(DATA_SET, groups),
        _counts_of(WORDS, groups),
        alike,
    )


def parse_document(content: Mapping[str, Json]) -> Document:
    """Return a document from a get, or from an entry of a visit, with its embedding if it is there.

    Raises EngineError where it is not as Vespa's answers are.
    """
    return _document(
        document_id(content), checked.mapping(content.get("fields"), "a document's fields")
    )


def document_id(content: Mapping[str, Json]) -> str:
    """Return the id of a document from a get, or from an entry of a visit. Raises EngineError."""
    fields = checked.mapping(content.get("fields"), "a document's fields")
    id_ = checked.text(fields.get("id"), "a document's id")
    if not id_:
        id_ = checked.text(content.get("id"), "a document's name").split("::", 1)[-1]
    if not id_:
        raise MalformedAnswerError("a document's id", "there")
    return id_


def failure_sentence(status: int, content: Json, target: str) -> str:
    """Return what went wrong, in one sentence that keeps Vespa's own words."""
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
    """Return what went wrong where not Vespa refused a request, but the HTTP server before it."""
    if status in TOO_LONG:
        what = "document" if status == 413 else "id"
        return f"the {what} is longer than the server, or a proxy before it, takes ({status})"
    return f"the server, or a proxy before it, refused the request ({status}, without a reason)"


def vespa_message(content: Json) -> str:
    """Return Vespa's own words about a failure, on one line; "" where there are none."""
    if not isinstance(content, dict):
        return ""
    if "message" in content:
        text = _words(content["message"])
        found = _RETURN_CODE.search(text)
        return found.group(1).strip() if found else text
    root = content.get("root")
    return _errors(root) if isinstance(root, dict) else ""


def is_foreign_package(message: str) -> bool:
    """Return whether Vespa's message means that what is deployed there is not our package."""
    return _FOREIGN_PACKAGE.search(message) is not None


def is_missing(status: int, content: Json) -> bool:
    """Return whether a get says that there is no such document.

    That nobody knows the path is another answer.
    """
    return status == 404 and isinstance(content, dict) and "pathId" in content


def _errors(root: Mapping[str, Json]) -> str:
    errors = root.get("errors") or []
    parts = []
    for error in errors if isinstance(errors, list) else [errors]:
        told = error if isinstance(error, dict) else {}
        words = [_words(told.get(name)) for name in ("summary", "message")]
        parts.append(": ".join(part for part in words if part) or "an error without words")
    return "; ".join(dict.fromkeys(parts))


def _words(message: Json) -> str:
    """Return a message of Vespa's on one line; "" where it is no text."""
    text = " ".join(message.split()) if isinstance(message, str) else ""
    text = text.encode("utf-8", "replace").decode()  # halves of characters cannot be printed
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"


def _incomplete(root: Mapping[str, Json]) -> str | None:
    """Return why an answer may be incomplete, from its errors and its coverage."""
    reasons = []
    errors = _errors(root)
    if errors:
        reasons.append(f"Vespa reported {errors}")
    coverage = root.get("coverage")
    if coverage is not None:
        reasons += _coverage_reasons(checked.mapping(coverage, "the coverage"))
    return "; ".join(reasons) or None


def _coverage_reasons(coverage: Mapping[str, Json]) -> list[str]:
    """Return why not everything was searched; empty where all was.

    The share alone does not tell: a search for the nearest that time cut short has looked at
    "100 %", and says so.
    """
    if coverage.get("nodes", 1) == 0:
        return ["no content node answered"]
    causes = [
        _DEGRADED.get(name.replace("-", ""), f"Vespa gives {_words(name)} as the reason")
        for name, on in checked.mapping(coverage.get("degraded"), "the degradation").items()
        if on
    ]
    share = coverage.get("coverage", 100)
    checked.number(share, "the coverage")
    if share < 100:
        because = f": {'; '.join(causes)}" if causes else ""
        return [f"only {share} % of the documents were searched{because}"]
    if not causes and not coverage.get("full", True):
        return ["Vespa calls the answer incomplete, and does not say why"]
    whole, asked = (
        checked.count(coverage.get(name, 1), f"the coverage's {name}")
        for name in ("resultsFull", "results")
    )
    if not causes and whole < asked:
        return [f"only {whole} of {asked} parts of the answer are whole"]
    return causes


def _is_grouping(child: Mapping[str, Json]) -> bool:
    id_ = child.get("id")
    return isinstance(id_, str) and id_.startswith("group:root")


def _hit(child: Mapping[str, Json]) -> Hit:
    fields = child["fields"]
    features = checked.mapping(fields.get("matchfeatures"), "a hit's features")
    return Hit(
        document=_document(checked.text(fields["id"], "a hit's id"), fields),
        score=checked.number(child.get("relevance"), "a hit's score"),
        bm25=_feature(features, "lexical"),
        cosine=_cosine(features),
    )


def _feature(features: Mapping[str, Json], name: str) -> float | None:
    value = features.get(name)
    return None if value is None else checked.number(value, f"a hit's {name}")


def _cosine(features: Mapping[str, Json]) -> float | None:
    cosine = _feature(features, "cosine")
    if cosine is not None:
        return cosine
    closeness = _feature(features, "closeness(field,embedding)")
    # prenormalized-angular: closeness = 1 / (2 - cosine), and 0 where nothing was compared.
    return None if not closeness else checked.number(2.0 - 1.0 / closeness, "a hit's closeness")


def _document(id_: str, fields: Mapping[str, Json]) -> Document:
    tensor = fields.get("embedding")
    values = tensor.get("values") if isinstance(tensor, dict) else tensor
    parts = {
        name: _READ[part.kind](fields.get(name), f"a document's {name.replace('_', ' ')}")
        for name, part in PARTS.items()
    }
    if parts[LOOK] == id_:  # it stands for none
        parts[LOOK] = ""
    embedding = None if values is None else checked.vector(values, "an embedding")
    return Document(id_, embedding=embedding, **parts)


def _texts(value: Json, what: str) -> tuple[str, ...]:
    return tuple(
        checked.text(text, "a caption").translate(_HIGHLIGHT_MARKS)
        for text in checked.listed(value, what)
    )


def _tags(value: Json, what: str) -> dict[str, str]:
    return {
        checked.text(column, "a column"): checked.text(text, "a tag")
        for column, text in checked.mapping(value, what).items()
    }


def _numbers(value: Json, what: str) -> dict[str, float]:
    return {
        checked.text(column, "a column"): checked.number(number, "a number of a document")
        for column, number in checked.mapping(value, what).items()
    }


_READ: Mapping[FieldKind, Callable[[Json, str], Any]] = {
    TEXT: checked.text,
    PATH: checked.text,
    TEXTS: _texts,
    TAGS: _tags,
    NUMBERS: _numbers,
}


def _facets(groups: Sequence[Mapping[str, Json]]) -> tuple[Facets, tuple[str, ...]]:
    facets: Facets = {}
    cut = []
    for root in groups:
        for listed in checked.objects(root.get("children"), "a facet"):
            label = _FACET_LABEL.fullmatch(checked.text(listed.get("label"), "a facet's label"))
            if label is None:
                continue
            column = re.sub(r"\\(.)", r"\1", label.group(1))
            counts = [
                (value, _group_count(group))
                for group in checked.objects(listed.get("children"), "a facet's groups")
                # A document without the tag is counted under the empty value.
                if (value := checked.text(group.get("value"), "a facet's value"))
            ]
            facets[column] = counts_by_tag(counts)
            if "next" in checked.mapping(listed.get("continuation"), "a facet's continuation"):
                cut.append(column)
    return facets, tuple(cut)


def _group_count(group: Mapping[str, Json]) -> int:
    fields = checked.mapping(group.get("fields"), "a facet's fields")
    return checked.count(fields.get("count()"), "a facet's count")


def _counts_of(field: str, groups: Sequence[Mapping[str, Json]]) -> dict[str, int]:
    """Return the documents of each value of a field, where they were asked for."""
    what = f"a count by {field.replace('_', ' ')}"
    return {
        checked.text(group.get("value"), what): _group_count(group)
        for root in groups
        for listed in checked.objects(root.get("children"), what)
        if listed.get("label") == field
        for group in checked.objects(listed.get("children"), what)
    }


def _collapsed(groups: Sequence[Mapping[str, Json]]) -> Iterator[Hit]:
    """Yield the hit of each group of a look, with the others that its group counts."""
    what = "the hits that look alike"
    for root in groups:
        for listed in checked.objects(root.get("children"), what):
            if listed.get("label") != LOOK:
                continue
            for group in checked.objects(listed.get("children"), what):
                for hits in checked.objects(group.get("children"), what):
                    for child in checked.objects(hits.get("children"), what):
                        yield replace(_hit(child), more=_group_count(group) - 1)


def _after(message: str) -> str:
    return f": {message}" if message else ""
