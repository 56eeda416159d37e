"""The options of a query are the same wherever it is asked."""

from dataclasses import fields

import pytest

from clipsearch.cli.list import list as list_command
from clipsearch.cli.query import query as query_command
from clipsearch.cli.similar import similar as similar_command
from clipsearch.client.questions import options_json
from clipsearch.search.options import ListKeywords, ListOptions, QueryKeywords, QueryOptions
from clipsearch.search.synonyms import Rule, Synonyms
from clipsearch.server import questions
from finetune.errors import UsageError

QUERY = {each.name for each in fields(QueryOptions)}
LISTED = {each.name for each in fields(ListOptions)}
# Of texts, and of a question that is in no address.
OF_TEXTS = {"plain", "synonyms", "explain"}


def test_keywords_are_those_of_the_record() -> None:
    assert set(QueryKeywords.__annotations__) == QUERY
    assert set(ListKeywords.__annotations__) == LISTED


def test_the_command_line_has_them() -> None:
    query, similar, listed = (
        {each.name for each in command.params}
        for command in (query_command, similar_command, list_command)
    )
    assert query >= QUERY
    assert similar >= QUERY - OF_TEXTS
    assert listed >= LISTED


def test_the_service_has_them() -> None:
    asked = {
        name: set(getattr(questions, name).model_fields)
        for name in ("Question", "SearchParameters", "SimilarParameters", "ListParameters")
    }
    plural = {"filters": "filter", "facets": "facet"}
    in_address = {plural.get(name, name) for name in QUERY - {"synonyms"}}
    assert asked["Question"] >= QUERY - {"synonyms"}
    assert asked["SearchParameters"] >= in_address
    assert asked["SimilarParameters"] >= in_address
    assert asked["ListParameters"] >= {plural.get(name, name) for name in LISTED}


def test_a_client_sends_what_is_not_as_usual() -> None:
    assert options_json(QueryOptions(k=3, filters="class=beach", facets=("class",))) == {
        "k": 3, "filters": ["class=beach"], "facets": ["class"],
    }  # fmt: skip
    assert options_json(QueryOptions()) == {}


def test_a_client_brings_no_synonyms() -> None:
    with pytest.raises(UsageError, match="serve --synonyms"):
        options_json(QueryOptions(synonyms=Synonyms((Rule(("a",), ("b",)),))))
