"""Synonyms from a file: what stands for the words of a query."""

from pathlib import Path

import pytest

from clipsearch.search.parts import Part
from clipsearch.search.query_terms import QueryTerms, query_terms
from clipsearch.search.synonyms import Synonyms
from clipsearch.terms import Term, Terms
from finetune.errors import UsageError

FILE = """\
# what people say, and what captions say
car, automobile, motor car

tv, telly => television
new york, nyc, big apple
1\\,000, thousand
tv => screen
"""


@pytest.fixture(scope="module")
def synonyms(tmp_path_factory: pytest.TempPathFactory) -> Synonyms:
    path = tmp_path_factory.mktemp("synonyms") / "synonyms.txt"
    path.write_text(FILE, encoding="utf-8")
    return Synonyms.read(path)


def phrase(*tokens: str) -> Term:
    return Term(tokens)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "red Cars",
            QueryTerms(("red", "car", "automobil"), Terms(optional=(phrase("motor", "car"),))),
        ),
        ("a telly", QueryTerms(("a", "televis"))),
        ("a TV", QueryTerms(("a", "televis", "screen"))),
        (
            "visit New York now",
            QueryTerms(
                ("visit", "new", "york", "now", "nyc"), Terms(optional=(phrase("big", "appl"),))
            ),
        ),
        ("new car york", QueryTerms(
            ("new", "car", "york", "automobil"), Terms(optional=(phrase("motor", "car"),))
        )),
        ("nyc nyc", QueryTerms(
            ("nyc", "nyc"),
            Terms(optional=(phrase("new", "york"), phrase("big", "appl"))),
        )),
        ("car automobile", QueryTerms(
            ("car", "automobil"), Terms(optional=(phrase("motor", "car"),))
        )),
        ("+car", QueryTerms((), Terms(required=(
            (phrase("car"), phrase("automobil"), phrase("motor", "car")),
        )))),
        ("-telly", QueryTerms((), Terms(excluded=(phrase("televis"),)))),
        ('+"new york"', QueryTerms((), Terms(required=(
            (phrase("new", "york"), phrase("nyc"), phrase("big", "appl")),
        )))),
        ('"motor car"', QueryTerms((), Terms(optional=(phrase("motor", "car"),)))),
        ("ca*", QueryTerms((), Terms(optional=(Term(("ca",), is_prefix=True),)))),
        ("1,000", QueryTerms(("1", "000", "thousand"))),
        ("dog", QueryTerms(("dog",))),
    ],
)  # fmt: skip
def test_what_stands_for_words(text: str, found: QueryTerms, synonyms: Synonyms) -> None:
    assert query_terms([Part("text", text)], "en", synonyms=synonyms) == found


@pytest.mark.parametrize("line", ["car =>", "=> car", "a => b => c", "!!!, ?", ","])
def test_a_line_that_is_no_rule_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text(f"a, b\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"s\.txt:3: .* is no rule; write a, b, c or a, b => c"):
        Synonyms.read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.txt: no such file"):
        Synonyms.read(tmp_path / "missing.txt")
    (tmp_path / "latin.txt").write_bytes("café, bar".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin\.txt: is not in UTF-8"):
        Synonyms.read(tmp_path / "latin.txt")


def test_the_words_are_those_of_the_language(tmp_path: Path) -> None:
    path = tmp_path / "s.txt"
    path.write_text("\ufeffvoitures, autos\n", encoding="utf-8")
    found = query_terms([Part("text", "voiture")], "fr", synonyms=Synonyms.read(path))
    assert found == QueryTerms(("voitur", "autos"))
