"""Dates filtered and sorted, in both engines, against a naive reading of random ones."""

import csv
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from clipsearch_command import CLIPSEARCH
from memory_engine import passes
from vespa_stub import StubVespa

from clipsearch.cli import cli
from clipsearch.documents import Document
from clipsearch.engine import EngineQuery, IndexInfo
from clipsearch.engines.local.collection import Collection
from clipsearch.engines.local.search import search
from clipsearch.engines.vespa.engine import VespaEngine
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.columns import MetadataColumns, choose_columns, date_of, tags_and_numbers
from clipsearch.filtering import NumberFilter
from clipsearch.operations import Upsert
from clipsearch.search.filters import check_facets, parse_filter, parse_filters
from clipsearch.search.orders import parse_sort
from finetune.errors import DocumentError, UsageError
from finetune.manifest.manifest import Manifest

INFO = IndexInfo(dimension=4, tag_columns=("class",), date_columns=("taken",))
FORMS = ("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%SZ")


def moments(count: int, seed: int) -> list[datetime]:
    source = np.random.default_rng(seed)
    first = datetime(1965, 1, 1, tzinfo=UTC)
    # Few days, so that many are equal in part.
    return [
        first + timedelta(days=int(source.choice((0, 31, 59, 365, 19_000, 19_030))))
        + timedelta(seconds=int(source.integers(0, 86_400)))
        for _ in range(count)
    ]  # fmt: skip


def first_moment(moment: datetime, form: str) -> datetime:
    return datetime.strptime(moment.strftime(form), form).replace(tzinfo=UTC)


def after(moment: datetime, form: str) -> datetime:
    """The first moment after the period, a step of a second at a time where that is short."""
    start = first_moment(moment, form)
    steps = {"%Y": 367, "%Y-%m": 32, "%Y-%m-%d": 1}
    if form in steps:
        return first_moment(start + timedelta(days=steps[form]), form)
    return start + timedelta(seconds=60 if form.endswith("%M") else 1)


@pytest.fixture(scope="module")
def dated() -> list[tuple[datetime, Document]]:
    source = np.random.default_rng(1)
    made = []
    for number, moment in enumerate(moments(60, 1)):
        form = FORMS[number % len(FORMS)]
        vector = source.standard_normal(4)
        text, seconds = date_of("taken", moment.strftime(form))
        known = number % 11 > 0
        document = Document(
            f"{number:02}",
            ("a dog",),
            tags={"class": "x"} | ({"taken": text} if known else {}),
            numbers={"taken": seconds} if known else {},
            embedding=(vector / np.linalg.norm(vector)).astype(np.float32),
        )
        made.append((first_moment(moment, form), document))
    return made


Ask = Callable[[EngineQuery], list[str]]


@pytest.fixture(scope="module", params=["local", "vespa"])
def ask(request: pytest.FixtureRequest, dated: list[tuple[datetime, Document]]) -> Ask:
    documents = [document for _, document in dated]
    if request.param == "local":
        collection = Collection.of(documents)
        bare = [replace(document, embedding=None) for document in documents]

        def local(query: EngineQuery) -> list[str]:
            page = search(collection, query, INFO, lambda rows: [bare[row] for row in rows])
            return [hit.document.id for hit in page.hits]

        return local
    stub = StubVespa(dimension=4)
    stub.__enter__()
    request.addfinalizer(lambda: stub.__exit__(None, None, None))
    write_info(connect(stub.url), INFO)
    engine = VespaEngine.open(stub.url)
    request.addfinalizer(engine.close)
    assert not [each.error for each in engine.feed(map(Upsert, documents)) if each.error]
    return lambda query: [hit.document.id for hit in engine.search(query).hits]


def test_ranges_are_those_of_a_naive_reading(
    ask: Ask, dated: list[tuple[datetime, Document]]
) -> None:
    asked = list(zip(moments(15, 2), FORMS * 3, strict=True))
    for number, (moment, form) in enumerate(asked):
        start, end, text = first_moment(moment, form), after(moment, form), moment.strftime(form)
        later, later_form = asked[number - 1]
        low, high = sorted((moment, later))
        low_form, high_form = (form, later_form) if low is moment else (later_form, form)
        of_range = f"{low.strftime(low_form)}..{high.strftime(high_form)}"
        low, high = first_moment(low, low_form), after(high, high_form)
        holds: dict[str, Callable[[datetime], bool]] = {
            f"taken={text}": lambda at, start=start, end=end: start <= at < end,
            f"taken>={text}": lambda at, start=start: at >= start,
            f"taken>{text}": lambda at, end=end: at >= end,
            f"taken<{text}": lambda at, start=start: at < start,
            f"taken<={text}": lambda at, end=end: at < end,
            f"taken={of_range}": lambda at, low=low, high=high: low <= at < high,
        }
        for written, naive in holds.items():
            filters = (parse_filter(written, INFO),)
            found = ask(EngineQuery(None, k=100, filters=filters))
            expected = [d.id for at, d in dated if "taken" in d.tags and naive(at)]
            assert found == expected, written
            assert found == [d.id for _, d in dated if passes(d, filters[0])], written


@pytest.mark.parametrize("wish", ["taken", "-taken"])
def test_sorted_by_date(ask: Ask, dated: list[tuple[datetime, Document]], wish: str) -> None:
    known = [(at, document.id) for at, document in dated if "taken" in document.tags]
    expected = sorted(known, key=lambda each: each[0], reverse=wish.startswith("-"))
    assert ask(EngineQuery(None, k=100, sort=parse_sort(wish, INFO))) == [i for _, i in expected]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("taken!=2019", "kept as a date: dates take"),
        ("taken=2019|2020", "kept as a date"),
        ("taken>=June", "needs a date, not 'June': write 2019"),
        ("taken=2019-13", "needs a date"),
        ("taken=..", "has no date"),
        ("taken=2021..2019", "2021 is later than 2019"),
        ("class>=2019", "--date class"),
    ],
)
def test_says_what_is_wrong_with_a_date(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_filter(text, INFO)
    assert said in str(error.value)


def test_dates_from_python() -> None:
    june = parse_filter("taken=2019-06-01..2019-06-02", INFO)
    assert parse_filters({"taken": ("2019-06-01", date(2019, 6, 2))}, INFO) == (june,)
    moment = parse_filter("taken=2019-06-01T12:30:00Z", INFO)
    assert parse_filters({"taken": datetime(2019, 6, 1, 12, 30, tzinfo=UTC)}, INFO) == (moment,)
    assert parse_filters([NumberFilter("taken", 0, 1)], INFO) == (NumberFilter("taken", 0, 1),)
    assert check_facets(["taken"], INFO) == ("taken",)


def test_a_column_is_dates_where_all_its_values_are(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [
        {"id": "a", "caption": "x", "embedding": [1.0], "year": "2019", "taken": "2019",
         "mixed": "2019-06"},
        {"id": "b", "caption": "x", "embedding": [1.0], "year": "2020", "taken": "2019-06-01",
         "mixed": "soon"},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    with Manifest.open(path) as manifest:
        found = manifest.columns()
    assert found == {"year": "number", "taken": "date", "mixed": "tag"}
    none = MetadataColumns(frozenset(), frozenset())
    columns = choose_columns(found, none, dates=["mixed"])
    assert columns.dates == {"taken", "mixed"} and columns.numbers == {"year"}
    with pytest.raises(DocumentError, match=r"mixed is 'soon'.*as dates; write it as 2019"):
        tags_and_numbers(rows[1], "train", columns)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="both as number and as date"):
        choose_columns(found, none, dates=["year"], numbers=["year"])
    with pytest.raises(UsageError, match="keeps this column as a tag"):
        choose_columns(found, replace(none, tags=frozenset({"taken"})), dates=["taken"])


def clipsearch(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)], standalone_mode=False)


def test_from_the_manifest_to_the_terminal(tmp_path: Path) -> None:
    path, index = tmp_path / "m.csv", tmp_path / "i.index"
    dates = {"a": "2019-06", "b": "2020-01-01T10:00", "c": "2018", "d": ""}
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "caption", "embedding", "taken"])
        rows.writerows([id, "x", "[1, 0]", taken] for id, taken in dates.items())
    command = [*CLIPSEARCH, "feed", path, "--index", index]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    asked = ("list", "--index", index, "--json", "--filter", "taken>=2019", "--sort", "-taken")
    answer = json.loads(clipsearch(*asked, "--facet", "taken").stdout)
    shown = [(hit["id"], hit["tags"]["taken"], hit["numbers"]) for hit in answer["hits"]]
    assert shown == [("b", "2020-01-01T10:00", {}), ("a", "2019-06", {})]
    assert [each["value"] for each in answer["facets"]["taken"]] == ["2019-06", "2020-01-01T10:00"]
    lines = clipsearch("list", "--index", index, "--sort", "taken").stdout.splitlines()
    assert [line.split("\t")[1:3] for line in lines] == [
        ["2018", "c"], ["2019-06", "a"], ["2020-01-01T10:00", "b"],
    ]  # fmt: skip
    clipsearch("update", "d", "--tag", "taken=2025-03", "--index", index)
    ids = clipsearch("list", "--index", index, "--filter", "taken=2025", "--ids").stdout
    assert ids.split() == ["d"]
    wrong = clipsearch("update", "d", "--tag", "taken=soon", "--index", index)
    assert isinstance(wrong.exception, UsageError) and "as dates; write" in str(wrong.exception)
    path.write_text(path.read_text().replace("2018", "long ago"))
    again = clipsearch("feed", path, "--index", index)
    assert again.return_value == 3 and "rejected 1" in again.stdout
    copied = tmp_path / "copy.parquet"
    assert clipsearch("copy", index, copied).exception is None
    with Manifest.open(copied) as manifest:
        assert manifest.columns()["taken"] == "date"
