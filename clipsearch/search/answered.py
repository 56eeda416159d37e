"""Answers read from the JSON that `clipsearch.search.answer` makes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipsearch.documents import PARTS, Document
from clipsearch.engine import Hit, Page
from clipsearch.explanation import Explanation
from clipsearch.json_records import record
from clipsearch.vocabulary import Correction


def page_from_json(values: Mapping[str, Any]) -> Page:
    """Return the page of `answer_json`."""
    return Page(
        hits=tuple(_hit(each) for each in values["hits"]),
        total=values["total"],
        offset=values["offset"],
        facets={
            column: tuple((each["value"], each["count"]) for each in counts)
            for column, counts in values["facets"].items()
        },
        seconds=values["seconds"],
        notes=tuple(values["notes"]),
        partial=values["partial"],
        candidates=values["candidates"],
        at_least=values["at_least"],
        corrections=tuple(record(Correction, each) for each in values.get("corrections", ())),
    )


def document_from_json(values: Mapping[str, Any]) -> Document:
    """Return the document of `Document.to_show`, whatever stands beside it."""
    embedding = values.get("embedding")
    shown = {name: values[name] for name in PARTS if name in values}
    shown["numbers"] = {name: float(value) for name, value in values.get("numbers", {}).items()}
    return Document.from_json(
        {"id": values["id"], **shown},
        None if embedding is None else np.array(embedding, np.float32),
    )


def _hit(values: Mapping[str, Any]) -> Hit:
    told = values.get("explanation")
    return Hit(
        document=document_from_json(values),
        score=values["score"],
        bm25=values["bm25"],
        cosine=values["cosine"],
        more=values.get("more", 0),
        explanation=None if told is None else record(Explanation, told),
    )
