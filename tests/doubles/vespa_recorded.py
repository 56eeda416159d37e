"""The recorded rankings as queries of ours and answers of Vespa's."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo, Page
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.modes import MODES, Mode

INFO = IndexInfo(
    dimension=64, tag_columns=("category", "split", "set"), number_columns=("words", "year")
)
MODE_OF: dict[str, Mode] = {
    "hybrid-w": "hybrid",
    "hybrid-filter": "hybrid",
    "hybrid-page2": "hybrid",
    "vector-exact100": "vector",
    "vector-ann": "vector",
    "vector-filter": "vector",
    "bm25-filter": "bm25",
    "bm25-weakand": "bm25",
}


@dataclass(frozen=True)
class RankedCase:
    """One line of rankings.jsonl."""

    name: str
    qid: str
    query: EngineQuery
    yql: str
    parameters: dict[str, Any]
    total: int
    hits: list[dict[str, Any]]

    def answer(self, documents: dict[str, Document]) -> dict[str, Any]:
        """The JSON that Vespa sent, with the fields that clipsearch asks for."""
        children = []
        for number, hit in enumerate(self.hits):
            document = documents[hit["id"]]
            fields = {
                "matchfeatures": hit["features"],
                "id": document.id,
                "path": document.path,
                "captions": list(document.captions),
                "tags": dict(document.tags),
                "numbers": dict(document.numbers),
            }
            # Vespa leaves out fields that are empty.
            fields = {name: value for name, value in fields.items() if value}
            entry = {"id": f"index:images/0/{number}", "relevance": hit["relevance"]}
            children.append({**entry, "source": "images", "fields": fields})
        coverage = {"coverage": 100, "documents": 610, "full": True, "nodes": 1}
        root: dict[str, Any] = {"id": "toplevel", "coverage": coverage}
        root["fields"] = {"totalCount": self.total}
        if children:
            root["children"] = children
        return {"root": root}


def load_documents(recorded: Path) -> dict[str, Document]:
    """The 610 recorded documents by id."""
    with (recorded / "documents.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return {
        row["id"]: Document(
            id=row["id"],
            captions=tuple(row["captions"]),
            path=row["path"],
            tags=row["tags"],
            numbers=row["numbers"],
            embedding=np.asarray(row["embedding"], np.float32),
        )
        for row in rows
    }


def load_cases(recorded: Path) -> list[RankedCase]:
    """Every recorded ranking, with the query of ours that asks for it."""
    with (recorded / "queries.jsonl").open(encoding="utf-8") as lines:
        vectors = {row["qid"]: row["vector"] for row in map(json.loads, lines)}
    with (recorded / "rankings.jsonl").open(encoding="utf-8") as lines:
        return [_case(json.loads(line), vectors) for line in lines]


def _case(row: dict[str, Any], vectors: dict[str, list[float]]) -> RankedCase:
    parameters = row["parameters"]
    mode = MODE_OF.get(row["case"], row["case"])
    words = []
    while f"t{len(words)}" in parameters:
        words.append(parameters[f"t{len(words)}"])
    query = EngineQuery(
        mode=mode,
        tokens=() if mode == "vector" else tuple(words),
        vector=None if mode == "bm25" else np.asarray(vectors[row["qid"]], np.float32),
        k=parameters["hits"],
        offset=parameters["offset"],
        filters=(TagFilter("category", ("food-drink",)),) if "filter" in row["case"] else (),
        bm25_weight=parameters["input.query(bm25_weight)"],
        vector_weight=parameters.get("input.query(vector_weight)", 1.0),
        exact="approximate:false" in row["yql"],
    )
    return RankedCase(
        row["case"], row["qid"], query, row["yql"], parameters, row["total"], row["hits"]
    )


def many_queries(cases: list[RankedCase]) -> list[EngineQuery]:
    """Every mode with filters, facets, pages and ids left out."""
    by_qid = {case.qid: case.query for case in cases if case.name == "hybrid"}
    filters = {
        "none": (),
        "tag": (TagFilter("category", ("Food-Drink",)),),
        "tags": (TagFilter("category", ("nature", "music")), NumberFilter("words", low=10)),
        "not": (TagFilter("category", ("nature",), exclude=True),),
        "range": (NumberFilter("year", low=2005, high=2012, high_open=True),),
        "nothing": (TagFilter("category", ("no such thing",)),),
    }
    queries = []
    for number, (qid, query) in enumerate(sorted(by_qid.items())):
        if qid not in ("q00", "q01", "q04", "q11", "q17", "q21"):
            continue
        for mode in MODES:
            if mode == "bm25" and not query.tokens:
                continue
            for place, restriction in enumerate(filters.values()):
                queries.append(
                    replace(
                        query,
                        mode=mode,
                        vector=None if mode == "bm25" else query.vector,
                        tokens=() if mode == "vector" else query.tokens,
                        filters=restriction,
                        facets=("category", "split") if place % 2 else (),
                        exclude_ids=("made/0422.jpg",) if number % 2 else (),
                        offset=5 if place == 0 else 0,
                        k=15,
                    )
                )
    return queries


def assert_same_pages(here: Page, there: Page, query: EngineQuery, relative: float = 0.0) -> None:
    """Fail unless two engines gave the same page; equal scores may be in any order.

    `relative` is what scores may differ by beside 1e-4: 0.01 where statistics have drifted.
    """

    def near(value: float | list[float]) -> Any:
        return pytest.approx(value, abs=1e-4, rel=relative)

    assert here.total == there.total, query
    assert here.facets == there.facets, query
    assert [hit.score for hit in here.hits] == near([hit.score for hit in there.hits]), query
    theirs = {hit.document.id: hit for hit in there.hits}
    for hit in here.hits:
        if hit.document.id not in theirs:  # a tie across the page's edge
            edges = (there.hits[-1].score, there.hits[0].score)
            assert any(hit.score == near(one) for one in edges), query
            continue
        twin = theirs[hit.document.id]
        assert hit.document.captions == twin.document.captions
        assert hit.document.tags == twin.document.tags
        for part in ("bm25", "cosine"):
            one, other = getattr(hit, part), getattr(twin, part)
            assert (one is None) == (other is None), (query, part)
            assert one is None or one == near(other), (query, part)


def tied_groups(ranked: Iterable[tuple[str, float]]) -> list[tuple[float, set[str]]]:
    """Documents by score, best first: ties are sets, since Vespa orders them as it likes."""
    groups: list[tuple[float, set[str]]] = []
    for id_, score in ranked:
        if groups and groups[-1][0] == score:
            groups[-1][1].add(id_)
        else:
            groups.append((score, {id_}))
    return groups
