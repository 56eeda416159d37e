"""The keyboard alone."""

from page_visit import Visit


def _focused(visit: Visit) -> str:
    found: str = visit.page.evaluate(
        "document.activeElement.dataset.id ?? document.activeElement.id"
    )
    return found


def test_the_whole_road_by_keys(visit: Visit) -> None:
    visit.go("/?q=red")
    visit.page.keyboard.press("/")
    assert _focused(visit) == "q"
    visit.page.keyboard.type("blue square")
    visit.page.keyboard.press("Enter")
    visit.settle()
    visit.page.keyboard.press("ArrowDown")
    ids = visit.ids
    assert _focused(visit) == ids[0]
    visit.page.keyboard.press("ArrowRight")
    assert _focused(visit) == ids[1]
    visit.page.keyboard.press("ArrowDown")
    below = ids.index(_focused(visit))
    assert below > 1
    visit.page.keyboard.press("ArrowUp")
    assert _focused(visit) == ids[1]
    visit.page.keyboard.press("End")
    assert _focused(visit) == ids[-1]
    visit.page.keyboard.press("Home")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#viewer[open]")
    visit.page.keyboard.press("Escape")
    visit.page.wait_for_selector("#viewer", state="hidden")


def test_help_is_a_key_away(visit: Visit) -> None:
    visit.go("/?q=red")
    visit.page.focus("#results a.frame")
    visit.page.keyboard.press("?")
    visit.page.wait_for_selector("#help[open]")
    visit.page.keyboard.press("Escape")
    visit.page.wait_for_selector("#help", state="hidden")


def test_signs_typed_in_the_box_are_text(visit: Visit) -> None:
    visit.go("/")
    visit.page.focus("#q")
    visit.page.keyboard.type("a/b?")
    assert visit.page.input_value("#q") == "a/b?"
    assert not visit.page.locator("#help[open]").count()
