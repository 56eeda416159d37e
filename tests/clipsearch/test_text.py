"""Tokens equal to the ones that a real Vespa made, and spans that point at the original text."""

import json
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_twin import twin_tokens

from clipsearch.text import LANGUAGES, check_language, token_spans, tokens
from finetune.errors import UsageError


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_edge_cases_equal_vespa(recorded: Path) -> None:
    cases = _lines(recorded / "edges.jsonl")
    assert len(cases) == 60
    for case in cases:
        assert tokens(str(case["text"])) == case["tokens"], case["text"]


def test_made_up_captions_equal_the_rules(fixtures: Path) -> None:
    """As long, and of the same kinds, as those that Vespa cut; the twin made their tokens."""
    cases = _lines(fixtures / "captions.jsonl")
    assert len(cases) == 300
    for case in cases:
        assert tokens(str(case["text"])) == case["tokens"] == twin_tokens(str(case["text"]))


def test_the_twin_reads_the_rules_as_vespa_does(recorded: Path) -> None:
    for case in _lines(recorded / "edges.jsonl"):
        assert twin_tokens(str(case["text"])) == case["tokens"], case["text"]


@given(st.text() | st.from_regex(r"[aeiou]?[a-z]?([bdfglmnprst])\1(ed|ing|er|edly|ings)"))
def test_any_text_is_cut_as_the_twin_cuts_it(text: str) -> None:
    assert tokens(text) == twin_tokens(text)


def test_english_captions_equal_vespa(shared: Path) -> None:
    cases = _lines(shared / "vespa" / "tokens" / "english.jsonl")
    assert len(cases) == 3000
    for cut in (tokens, twin_tokens):
        assert [case["text"] for case in cases if cut(str(case["text"])) != case["tokens"]] == []


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("added", "add"),
        ("adding", "add"),
        ("egged", "egg"),
        ("ebbed", "ebb"),
        ("erred", "err"),
        ("offed", "off"),
        ("upped", "up"),
        ("hopping", "hop"),
        ("running", "run"),
        ("bedded", "bed"),
        ("inned", "in"),
    ],
)
def test_short_bases_are_undoubled_as_vespa_does(word: str, stem: str) -> None:
    assert tokens(word) == [stem]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("fr", "les chevaux mangeaient", ["le", "cheval", "mang"]),
        ("es", "los perros corriendo", ["los", "perr", "corr"]),
        ("it", "i gatti dormivano", ["i", "gatt", "dorm"]),
        ("nl", "de honden lopen", ["de", "hond", "lop"]),
        ("pt", "os cachorros correndo", ["os", "cachorr", "corr"]),
        ("sv", "hundarna springer", ["hund", "spring"]),
    ],
)
def test_other_languages_stem(language: str, text: str, expected: list[str]) -> None:
    assert tokens(text, language) == expected


def test_unknown_language_is_named() -> None:
    with pytest.raises(UsageError, match=r"'de'.*en, es, fr, it, nl, pt, sv"):
        tokens("Hunde", "de")
    for language in LANGUAGES:
        check_language(language)


def test_text_without_a_word() -> None:
    assert tokens("") == []
    assert tokens("!!! --- ...") == []


def test_spans_point_at_the_original_text() -> None:
    text = "Cafés — running 😀 ﬁne™"
    assert [(token.text, text[token.start : token.end]) for token in token_spans(text)] == [
        ("cafe", "Cafés"),
        ("run", "running"),
        ("😀", "😀"),
        ("fine", "ﬁne"),
        ("tm", "™"),
    ]


@given(st.text())
def test_spans_cover_exactly_the_word_characters(text: str) -> None:
    spans = token_spans(text)
    assert [token.text for token in spans] == tokens(text)
    covered: set[int] = set()
    for token in spans:
        assert token.start < token.end
        assert covered.isdisjoint(range(token.start, token.end))
        covered.update(range(token.start, token.end))
    wanted = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nl", "Nd", "No", "So"}
    assert covered == {
        position
        for position, character in enumerate(text)
        if unicodedata.category(character) in wanted
    }


def test_threads_do_not_share_a_stemmer() -> None:
    words = [f"{stem}{ending}" for stem in ("jump", "nation", "relat") for ending in ("ing", "al")]
    text = " ".join(words * 200)
    expected = tokens(text)
    with ThreadPoolExecutor(8) as pool:
        assert all(result == expected for result in pool.map(tokens, [text] * 64))


def test_import_is_light() -> None:
    code = (
        "import sys, clipsearch.text; print([m for m in ('numpy', 'lancedb') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
