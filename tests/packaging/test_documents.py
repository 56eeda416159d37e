"""What the pages say is there: tests that they name, files that they link to."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = (".", "deploy", "benchmarks", "vespa_app")
PAGES = [page for folder in FOLDERS for page in sorted((REPOSITORY / folder).glob("*.md"))]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
# A path, `::` and a name, or no path where the file is that of the test before; a mark behind it.
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`(?: \((slow|live)\))?")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")


@cache
def marks_of_tests(path: Path) -> dict[str, str]:
    """The tests of a file; of each, the mark that keeps it out of `make test`, or an empty text."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    whole = [
        ast.unparse(each.value)
        for each in body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark"
    ]
    found = {}
    for function in body:
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            told = " ".join([*whole, *map(ast.unparse, function.decorator_list)])
            marks = [mark for mark in ("slow", "live") if f"pytest.mark.{mark}" in told]
            found[function.name] = marks[0] if marks and "marks=" not in told else ""
    return found


def wrong_tests(text: str) -> list[str]:
    """The tests that a page names and that are not there, or not marked as it says."""
    wrong, path = [], ""
    for match in NAMED_TEST.finditer(text):
        path = match.group(1) or path
        file = REPOSITORY / path
        tests = marks_of_tests(file) if file.is_file() else {}
        if tests.get(match.group(2)) != (match.group(3) or ""):
            wrong.append(f"{path}::{match.group(2)}")
    return wrong


def anchors(text: str) -> set[str]:
    """The fragments under which GitHub shows a page's headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Links to a file or heading of this repository that is not there."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    for link, image in LINK.findall(text):
        target, _, fragment = unquote(link or image).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target) if target else page
        if not file.exists():
            yield target
        elif fragment and fragment not in anchors(file.read_text(encoding="utf-8")):
            yield f"{target}#{fragment}"


def test_the_readme_is_read_in_one_sitting() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250, "what is for few belongs in docs/"


def test_reliability_names_tests_that_are_there() -> None:
    assert len(NAMED_TEST.findall((REPOSITORY / "docs" / "reliability.md").read_text())) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_tests_and_links_of_a_page_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert wrong_tests(text) == []
    assert list(broken_links(page, text)) == []


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    here = "tests/packaging/test_documents.py"
    slow = "tests/packaging/test_wheel.py"
    assert wrong_tests(f"`{here}::test_what_is_not_there_is_found`") == []
    assert wrong_tests(f"`{here}::test_what_is_not_there_is_found` (slow)")
    assert wrong_tests(f"`{here}::test_no_such` and `::test_what_is_not_there_is_found`") == [
        f"{here}::test_no_such"
    ]
    assert wrong_tests(f"`{slow}x::test_no_such`, `tests/nowhere.py::test_x`")
    page = tmp_path / "page.md"
    text = "# A heading, and more\n[a](page.md#a-heading-and-more) [b](gone.md) ![c](gone.png)\n"
    text += "[d](#no)"
    page.write_text(text)
    assert list(broken_links(page, text)) == ["gone.md", "gone.png", "#no"]


def test_the_site_leaves_no_page_out() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE)
    folder = REPOSITORY / "docs"
    assert sorted(named) == sorted(str(page.relative_to(folder)) for page in folder.rglob("*.md"))
