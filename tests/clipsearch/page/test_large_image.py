"""One image, large: what is known of it, where a text is in it, more like it, a part of it."""

import re

from page_visit import Visit


def _open(visit: Visit, address: str = "/?q=red+circle") -> None:
    visit.go(address)
    visit.page.locator("#results a.frame").first.click()
    visit.page.wait_for_selector("#viewer[open]")
    visit.settle()


def test_it_shows_everything_and_has_an_address(either: Visit) -> None:
    _open(either)
    about = either.page.inner_text("#about")
    assert either.ids[0] in about
    assert "year" in about
    assert "score" in either.page.inner_text("#reasons")
    assert "open=" in either.page.url
    either.page.reload()
    either.page.wait_for_selector("#viewer[open]")
    either.page.keyboard.press("Escape")
    either.page.wait_for_selector("#viewer", state="hidden")
    assert "open=" not in either.page.url


def test_back_closes_it(visit: Visit) -> None:
    _open(visit)
    visit.page.go_back()
    visit.page.wait_for_selector("#viewer", state="hidden")
    assert "q=red" in visit.page.url


def test_more_like_it(either: Visit) -> None:
    _open(either)
    id = either.ids[0]
    either.page.click("#like")
    either.settle()
    assert "like=" in either.page.url
    assert either.ids
    assert id not in either.ids


def test_where_a_text_is_shows_a_map(either: Visit) -> None:
    _open(either)
    either.page.fill("#where-text", "a red circle")
    either.page.press("#where-text", "Enter")
    either.page.wait_for_selector("#heat", state="visible")
    assert re.match(r"Strongest at \d+, \d+", either.page.inner_text("#where-said"))
    drawn = either.page.evaluate(
        """() => { const map = document.querySelector('#heat');
        const all = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
        return Math.max(...all.filter((_, place) => place % 4 === 3)); }"""
    )
    assert drawn > 100
    either.page.click("#where-off")
    either.page.wait_for_selector("#heat", state="hidden")


def test_a_part_is_searched_by_drawing(visit: Visit) -> None:
    _open(visit)
    stage = visit.page.locator("#stage").bounding_box()
    assert stage is not None
    visit.page.mouse.move(stage["x"] + 10, stage["y"] + 10)
    visit.page.mouse.down()
    visit.page.mouse.move(stage["x"] + stage["width"] * 0.8, stage["y"] + stage["height"] * 0.8)
    visit.page.mouse.up()
    assert re.match(r"Part: \d+ × \d+ pixels", visit.page.inner_text("#box-said"))
    visit.page.click("#by-part")
    visit.page.wait_for_url("**vector=*")
    visit.settle()
    assert visit.ids


def test_a_part_is_searched_by_keys(visit: Visit) -> None:
    _open(visit)
    visit.page.click("#draw")
    before = visit.page.inner_text("#box-said")
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("Shift+ArrowDown")
    assert visit.page.inner_text("#box-said") != before
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**vector=*")
    visit.settle()
    assert visit.ids


def test_arrows_go_from_image_to_image(visit: Visit) -> None:
    _open(visit)
    ids = visit.ids
    visit.page.keyboard.press("ArrowRight")
    visit.settle()
    assert ids[1] in visit.page.inner_text("#about")
    visit.page.keyboard.press("ArrowLeft")
    visit.settle()
    assert ids[0] in visit.page.inner_text("#about")


def test_the_file_is_downloaded(visit: Visit) -> None:
    _open(visit)
    with visit.page.expect_download() as waited:
        visit.page.click("#download")
    assert waited.value.suggested_filename.endswith(".png")
