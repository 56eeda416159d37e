import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_engine import passes

from clipsearch.documents import Document
from clipsearch.engine import IndexInfo
from clipsearch.filtering import NumberFilter, TagFilter
from clipsearch.search.filters import check_facets, parse_filter, parse_filters
from finetune.errors import UsageError

INFO = IndexInfo(
    dimension=8,
    tag_columns=("class", "split", "a>=b", "photographer"),
    number_columns=("year", "height"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class=airport", TagFilter("class", ("airport",))),
        (" class = golf course ", TagFilter("class", ("golf course",))),
        ("class!=airport", TagFilter("class", ("airport",), exclude=True)),
        ("class=a|b |c", TagFilter("class", ("a", "b", "c"))),
        ("class!=a|b", TagFilter("class", ("a", "b"), exclude=True)),
        (r"class=a\|b|c", TagFilter("class", ("a|b", "c"))),
        ("class=x=y", TagFilter("class", ("x=y",))),
        ("class=1..3", TagFilter("class", ("1..3",))),
        ("a>=b=x", TagFilter("a>=b", ("x",))),
        ("year=2010", NumberFilter("year", 2010, 2010)),
        ("year>=2010", NumberFilter("year", low=2010)),
        ("year>2010", NumberFilter("year", low=2010, low_open=True)),
        ("year <= -1.5", NumberFilter("year", high=-1.5)),
        ("year<1e3", NumberFilter("year", high=1000, high_open=True)),
        ("year=2010..2014", NumberFilter("year", 2010, 2014)),
        ("year=2010..", NumberFilter("year", low=2010)),
        ("year=..2014", NumberFilter("year", high=2014)),
        ("year=-3..-1", NumberFilter("year", -3, -1)),
    ],
)
def test_reads_every_form(text: str, expected: object) -> None:
    assert parse_filter(text, INFO) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class", "not of the form"),
        ("=airport", "not of the form"),
        ("", "not of the form"),
        ("class=", "empty value"),
        ("class=a||b", "empty value"),
        ("clas=x", "did you mean class?"),
        ("CLASS=x", "did you mean class?"),
        ("zzz=x", "the index has a>=b, class, height, photographer, split, year"),
        ("class>=3", "kept as text"),
        ("class<b", "--number class"),
        ("year!=2010", "kept as a number"),
        ("year=2010|2011", "kept as a number"),
        ("year=MMX", "needs a number, not 'MMX'"),
        ("year=nan", "needs a number"),
        ("year>=", "needs a number"),
        ("year=..", "has no number"),
        ("year=", "has no number"),
        ("year=2014..2010", "can match nothing"),
    ],
)
def test_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_filter(text, INFO)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_takes_a_mapping() -> None:
    filters = {"class": "a|b", "split": ["train", "val"], "year": (2010, None), "height": 3}
    assert parse_filters(filters, INFO) == (
        TagFilter("class", ("a|b",)),
        TagFilter("split", ("train", "val")),
        NumberFilter("year", low=2010),
        NumberFilter("height", 3, 3),
    )
    assert parse_filters({"class": 7}, INFO) == (TagFilter("class", ("7",)),)
    assert parse_filters({"year": "2010..2014"}, INFO) == (NumberFilter("year", 2010, 2014),)


@pytest.mark.parametrize(
    "wrong",
    [{"class": []}, {"class": ""}, {"class": None}, {"year": [2010, 2014, 2018]}, {"year": None},
     {"year": (3, 1)}, {"year": (None, None)}, {"year": float("nan")}, {"color": "red"}],
)  # fmt: skip
def test_refuses_a_mapping_that_does_not_fit(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse_filters(wrong, INFO)


def test_takes_strings_and_ready_filters() -> None:
    ready = NumberFilter("year", low=3)
    assert parse_filters(["class=a", ready], INFO) == (TagFilter("class", ("a",)), ready)
    assert parse_filters("class=a", INFO) == (TagFilter("class", ("a",)),)
    assert parse_filters((), INFO) == ()
    with pytest.raises(UsageError, match="filter by tag"):
        parse_filters([TagFilter("year", ("2010",))], INFO)


def test_an_index_without_columns_says_so() -> None:
    with pytest.raises(UsageError, match="no such columns at all"):
        parse_filter("class=a", IndexInfo(dimension=8))


def test_facets_are_tags() -> None:
    assert check_facets(["class", "split", "class"], INFO) == ("class", "split")
    with pytest.raises(UsageError, match="kept as a number"):
        check_facets(["year"], INFO)
    with pytest.raises(UsageError, match="did you mean photographer"):
        check_facets(["photograper"], INFO)


@given(
    operator=st.sampled_from(["=", ">=", ">", "<=", "<"]),
    bound=st.integers(-5, 5),
    value=st.integers(-5, 5),
)
def test_numbers_compare_as_python_does(operator: str, bound: int, value: int) -> None:
    document = Document("x", numbers={"year": float(value)})
    expected = eval(f"{value} {'==' if operator == '=' else operator} {bound}")
    assert passes(document, parse_filter(f"year{operator}{bound}", INFO)) == expected


@given(values=st.lists(st.text("ab|\\ ", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_any_value_can_be_written(values: list[str]) -> None:
    values = [value for value in values if "\\" not in value]
    if values:
        written = "|".join(value.replace("|", r"\|") for value in values)
        assert parse_filter(f"class={written}", INFO) == TagFilter("class", tuple(values))
