"""The page clicked through: what asks the engine in another way on both, all else on one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fed_indexes import fed
from page_visit import Visit, visited
from playwright.sync_api import Browser, Route
from running_service import RunningService
from small_pictures import paint

from clipsearch.server.settings import ServerSettings


def test_words_find_and_are_marked(either: Visit) -> None:
    either.go("/")
    either.page.fill("#q", "red circle")
    either.page.press("#q", "Enter")
    either.settle()
    first = either.page.locator("#results .card").first
    assert first.locator("mark").all_inner_texts() == ["red", "circle"]
    assert re.search(r"\d+ found in \d+ ms", either.page.inner_text("#summary"))
    assert either.page.title() == "red circle – clipsearch"
    assert "q=red+circle" in either.page.url


def test_the_address_gives_everything_again(visit: Visit) -> None:
    visit.go("/?q=red&mode=bm25&filter=class%3Dcircle%7Csquare")
    shown = visit.ids
    assert shown
    assert visit.page.locator(".chip[aria-pressed=true]").count() == 2
    assert visit.page.input_value("#mode") == "bm25"
    visit.page.reload()
    visit.settle()
    assert visit.ids == shown


def test_back_and_forward_go_through_questions(visit: Visit) -> None:
    visit.go("/?q=red")
    red = visit.ids
    visit.page.fill("#q", "blue")
    visit.page.press("#q", "Enter")
    visit.settle()
    assert visit.ids != red
    visit.page.go_back()
    visit.settle()
    assert visit.ids == red
    assert visit.page.input_value("#q") == "red"
    visit.page.go_forward()
    visit.settle()
    assert visit.page.input_value("#q") == "blue"


def test_a_chip_filters_and_counts(visit: Visit) -> None:
    visit.go("/?q=red")
    chip = visit.page.locator(".chip", has_text="circle").first
    count = int(chip.locator(".count").inner_text())
    chip.click()
    visit.settle()
    assert visit.page.inner_text("#summary").startswith(f"{count} found")
    visit.page.locator(".chip[aria-pressed=true]").click()
    visit.settle()
    assert "filter" not in visit.page.url


def test_a_range_of_numbers_filters(visit: Visit) -> None:
    visit.go("/?q=red")
    visit.page.fill("[aria-label='year from']", "2018")
    visit.page.press("[aria-label='year from']", "Tab")
    visit.settle()
    assert "filter=year%3D2018.." in visit.page.url
    assert 0 < len(visit.ids) < 10


def test_the_slider_ranks_again_without_a_step_back(visit: Visit) -> None:
    visit.go("/?q=red+circle")
    both = visit.ids
    visit.page.focus("#weight")
    for _ in range(20):
        visit.page.keyboard.press("ArrowRight")
    visit.page.wait_for_url("**weight=100*")
    visit.settle()
    by_image = visit.ids
    assert by_image != both
    visit.go("/?q=red+circle&mode=vector")
    assert by_image[:10] == visit.ids[:10]


def test_an_image_is_searched_by_and_lives_in_the_address(either: Visit, shapes: Path) -> None:
    image = next((shapes.parent / "red").glob("circle*.png"))
    either.go("/")
    either.page.set_input_files("#file", image)
    either.page.wait_for_url("**vector=*")
    either.settle()
    assert either.ids[0] == f"red/{image.name}"
    assert either.page.locator("#parts .part img").count() == 1
    address = either.page.url.removeprefix(either.url)
    shown = either.ids
    either.go(address)
    assert either.ids == shown
    either.page.click("#parts .part button")
    either.settle()
    assert "vector=" not in either.page.url


def test_an_image_is_dropped_and_pasted(visit: Visit, shapes: Path) -> None:
    image = next((shapes.parent / "blue").glob("*.png"))
    visit.go("/")
    give = """async ([event, bytes]) => {
        const file = new File([new Uint8Array(bytes)], "a.png", {type: "image/png"});
        const transfer = new DataTransfer();
        transfer.items.add(file);
        const init = {bubbles: true, cancelable: true};
        document.body.dispatchEvent(event === "drop"
            ? new DragEvent("drop", {...init, dataTransfer: transfer})
            : new ClipboardEvent("paste", {...init, clipboardData: transfer}));
    }"""
    for number, event in enumerate(("drop", "paste"), 1):
        visit.page.evaluate(give, [event, list(image.read_bytes())])
        visit.page.locator("#parts .part").nth(number - 1).wait_for()
        visit.settle()
        assert visit.ids[0] == f"blue/{image.name}"


def test_more_images_come_as_one_scrolls(visit: Visit) -> None:
    visit.go("/?q=a&mode=hybrid")
    assert len(visit.ids) == 30
    visit.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    visit.page.locator("#results .card").nth(31).wait_for()
    visit.settle()
    assert len(set(visit.ids)) == len(visit.ids)


def test_the_modes_stand_side_by_side(either: Visit) -> None:
    either.go("/?q=red+circle")
    either.page.click("#compare")
    either.settle()
    assert either.page.locator(".compared section").count() == 3
    badges = either.page.locator(".badge.joined")
    assert badges.count() >= 2
    number = badges.first.inner_text().split(" · ")[1]
    same = either.page.locator(".card", has=either.page.locator(f".badge:text('· {number}')"))
    assert len({each.get_attribute("data-id") for each in same.all()}) >= 1
    assert either.page.locator(".compared svg path").count() >= 1


def test_nothing_found_says_what_to_do(visit: Visit) -> None:
    visit.go("/?q=zebra&mode=bm25&filter=class%3Dcircle")
    assert visit.page.inner_text(".telling h2") == "Nothing found"
    visit.page.click("text=Search by image too")
    visit.settle()
    assert visit.ids
    visit.go("/?q=zebra&mode=bm25&filter=class%3Dcircle")
    visit.page.click("text=Leave out the filters")
    visit.settle()
    assert "filter" not in visit.page.url


def test_markup_in_captions_tags_and_ids_is_text(visit: Visit) -> None:
    visit.go("/?q=red+green+blue+yellow")
    assert visit.page.locator("#results [onerror], #results svg").count() == 0
    assert visit.page.title().endswith("clipsearch")
    hostile = visit.page.locator("#results .card", has_text="onerror")
    if hostile.count():
        hostile.first.locator("a.frame").click()
        visit.page.wait_for_selector("#viewer[open]")
        assert visit.page.locator("#viewer [onerror], #viewer script").count() == 0


def test_without_scripts_text_is_found(browser_without_scripts: Visit) -> None:
    page = browser_without_scripts.page
    page.goto(browser_without_scripts.url)
    page.fill("#q", "red circle")
    page.press("#q", "Enter")
    page.wait_for_url("**q=red+circle")
    assert page.locator("#results .card img").count() == 30
    assert page.locator(".script:visible").count() == 0
    page.click("noscript a")
    assert "page=2" in page.url
    page.locator("#results a.frame").first.click()
    assert page.url.endswith("/file")


@pytest.fixture(scope="module")
def placed(
    browser: Browser, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visit]:
    """A page over three images with places and dates."""
    work = tmp_path_factory.mktemp("placed")
    rows = ["image,caption,latitude,longitude,taken"]
    for number, (place, day) in enumerate(
        (
            ("48.137,11.575", "2019-06-01"),
            ("48.2,11.6", "2020-01-01"),
            ("-33.9,151.2", "2021-01-01"),
        )
    ):
        paint(work / f"{number}.png", number, (40, 40))
        rows.append(f"{number}.png,a picture,{place},{day}")
    (work / "photos.csv").write_text("\n".join(rows), encoding="utf-8")
    index = fed(work / "photos.csv", str(work / "photos.index"), encoder_folder, work)
    with (
        RunningService(ServerSettings(index, work / "cache")) as running,
        visited(browser, running.url) as visit,
    ):
        yield visit


def test_places_are_filtered_by_a_distance(placed: Visit) -> None:
    placed.go("/?q=picture")
    assert placed.page.locator("[aria-label^=latitude], [aria-label^=longitude]").count() == 0
    placed.page.fill("[aria-label='near place']", "48.137, 11.575")
    placed.page.press("[aria-label='near place']", "Enter")
    placed.settle()
    assert placed.ids == ["0.png"]
    placed.page.fill("[aria-label='near within']", "20 km")
    placed.page.press("[aria-label='near within']", "Tab")
    placed.page.wait_for_url("**20+km*")
    placed.settle()
    assert set(placed.ids) == {"0.png", "1.png"}
    placed.page.reload()
    placed.settle()
    assert placed.page.input_value("[aria-label='near place']") == "48.137, 11.575"
    placed.page.fill("[aria-label='near place']", "")
    placed.page.press("[aria-label='near place']", "Tab")
    placed.page.wait_for_url(lambda address: "near" not in address)
    placed.settle()
    assert len(placed.ids) == 3


def test_a_wrong_date_is_told_at_its_field(placed: Visit) -> None:
    placed.go("/?q=picture")
    field = placed.page.locator("[aria-label='taken from']")
    assert field.get_attribute("placeholder") == "2019"
    for wrong in ("01.06.2019", "2019-13", "yesterday"):
        field.fill(wrong)
        field.press("Tab")
        assert field.evaluate("each => each.matches(':invalid') && each === document.activeElement")
        assert "filter" not in placed.page.url
    field.fill("2019-07")
    field.press("Tab")
    placed.page.wait_for_url("**taken%3D2019-07..*")
    placed.settle()
    assert set(placed.ids) == {"1.png", "2.png"}


def test_only_what_can_be_used_is_offered(visit: Visit) -> None:
    visit.go("/")
    offered = visit.page.locator(".controls > :visible")
    assert [each.split()[0] for each in offered.all_inner_texts()] == ["Order"]
    visit.page.fill("#q", "red")
    visit.page.press("#q", "Enter")
    visit.settle()
    assert offered.count() == 6


def test_no_number_is_minus_zero(visit: Visit) -> None:
    def below_zero(route: Route) -> None:
        answer = route.fetch().json()
        for hit in answer["hits"]:
            hit["cosine"] = -0.0001
        route.fulfill(json=answer)

    visit.page.route("**/v1/search", below_zero)
    visit.go("/?q=red")
    assert "image 0.000" in visit.page.inner_text("#results")
    assert "-0.000" not in visit.page.inner_text("#results")
