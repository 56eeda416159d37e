"""docs/architecture.md says what is there: rooms, arrows, paths and names."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from diagram import BEGIN, END, PAGE, PICTURE, drawn, fewest, made, reached
from import_graph import REPOSITORY
from layered_drawing import Node, drawing, levels, ordered, places, with_bends

TEXT = PAGE.read_text(encoding="utf-8")
TREES = r"(?:finetune|clipsearch|vespa_app|tests|docs|deploy|benchmarks)"
PATH = re.compile(rf"`({TREES}/[\w./-]*)`")
NAMES_IN_FILE = re.compile(rf"((?:`\w+`(?:,| and| or) )*`\w+`)[^`|]*? in `({TREES}/[\w./-]+)`")
NAMED = [
    (name, path)
    for names, path in NAMES_IN_FILE.findall(TEXT)
    for name in re.findall(r"`(\w+)`", names)
]
# Of what the page tells how to add.
NEW = re.compile(r"\bnew (?:room )?`([^`]+)`")


def test_what_the_diagram_command_makes_is_up_to_date() -> None:
    assert TEXT.partition(BEGIN)[2].partition(END)[0] == made(), "run: make diagram"
    assert PICTURE.read_text(encoding="utf-8") == drawn(), "run: make diagram"


def test_every_room_is_drawn_above_what_it_imports_and_apart_from_others() -> None:
    arrows = {"p.a": {"p.b", "p.d"}, "p.b": {"q.c"}, "q.c": {"p.d"}, "p.d": set(), "q.e": {"p.d"}}
    layers, steps = with_bends(arrows, levels(arrows))
    place = places(ordered(layers, steps))
    for here, others in arrows.items():
        assert all(place[Node(here)][1] < place[Node(other)][1] for other in others)
    for (one, first), (other, second) in combinations(place.items(), 2):
        apart = abs(first[0] - second[0]) >= (one.width + other.width) / 2
        assert first[1] != second[1] or apart
    picture = drawing(arrows)
    assert picture.count("marker-end") == 5 and picture.count("<text") == 5
    ElementTree.fromstring(picture)


def test_arrows_that_follow_from_others_are_left_out() -> None:
    arrows = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert fewest(arrows) == {"a": {"b"}, "b": {"c"}, "c": set()}
    assert reached(arrows, "a") == {"b", "c"}


def test_every_path_of_the_page_is_there() -> None:
    new = set(NEW.findall(TEXT))
    paths = set(PATH.findall(TEXT))
    assert len(paths) > 40 and new
    for path in paths - new:
        assert (REPOSITORY / path.replace("NAME", "hybrid")).exists(), path
    for path in new:
        assert not (REPOSITORY / path).exists(), f"{path} is there: the page says that it is new"


@pytest.mark.parametrize(("name", "path"), sorted(set(NAMED)))
def test_every_name_of_the_page_is_defined_where_it_says(name: str, path: str) -> None:
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    assert re.search(rf"^ *(?:def|class) {name}\b|^ *{name}\b(?:: .*)? = ", text, re.MULTILINE)


def test_names_are_looked_for() -> None:
    assert {name for name, _ in NAMED} >= {
        "LOSSES", "SCHEDULES", "RANKINGS", "FUSIONS", "REQUIREMENTS", "Engine", "Document",
    }  # fmt: skip
