"""Answers read from the JSON that `clipsearch.search.answer` makes."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clipsearch.documents import PARTS, Document
from clipsearch.engine import Hit, Page
from clipsearch.explanation import Explanation
from clipsearch.json_records import record
from clipsearch.vocabulary import Correction
from finetune.text.dates import date_period


def page_from_json(values: Mapping[str, Any], dates: Iterable[str] = ()) -> Page:
    """Return the page of `answer_json`; `dates` are the index's date columns."""
    return Page(
        hits=tuple(_hit(each, dates) for each in values["hits"]),
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


def document_from_json(values: Mapping[str, Any], dates: Iterable[str] = ()) -> Document:
    """Return the document of `Document.to_show`, whatever stands beside it.

    It shows no seconds of the tags that are `dates`: they are found again.
    """
    embedding = values.get("embedding")
    shown = {name: values[name] for name in PARTS if name in values}
    numbers = {name: float(value) for name, value in values.get("numbers", {}).items()}
    for column in set(dates).intersection(values["tags"]):
        period = date_period(values["tags"][column])
        numbers |= {} if period is None else {column: period.start}
    shown["numbers"] = numbers
    return Document.from_json(
        {"id": values["id"], **shown},
        None if embedding is None else np.array(embedding, np.float32),
    )


def _hit(values: Mapping[str, Any], dates: Iterable[str]) -> Hit:
    told = values.get("explanation")
    return Hit(
        document=document_from_json(values, dates),
        score=values["score"],
        bm25=values["bm25"],
        cosine=values["cosine"],
        more=values.get("more", 0),
        explanation=None if told is None else record(Explanation, told),
    )
