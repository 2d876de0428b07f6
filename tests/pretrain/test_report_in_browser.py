"""The report in headless Chromium: it opens without a complaint or a request, sorts, hovers, hides, picks.

The browser is that of NEUROCHORUS_CHROMIUM, or the first of NAMES on PATH; without one the tests are skipped.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurochorus.launch.report import main
from tests.pretrain.report_files import SESSIONS, write_files

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE_MS = 120_000
"The machine may have much else to do."
DRAW_ALL = """async () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  for (const group of groups.values()) await group.draw();
  return document.querySelectorAll('figure.charts:not([data-drawn])').length; }"""


def browser_path() -> str | None:
    return os.environ.get("NEUROCHORUS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    path = browser_path()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on PATH and NEUROCHORUS_CHROMIUM is not set")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=QUIET, timeout=PATIENCE_MS)
        yield running
        running.close()


def new_page(browser, width: int, height: int, **more):
    page = browser.new_page(viewport={"width": width, "height": height}, **more)
    page.set_default_timeout(PATIENCE_MS)
    return page


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    assert main(write_files(folder)) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def opened(browser, file) -> Iterator[tuple]:
    """The page, with everything that it complained about and asked for."""
    page = new_page(browser, 1400, 900)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page, complaints, requests
    page.close()


@pytest.fixture
def page(opened):
    return opened[0]


def group(page, section: str, place: int = 0):
    """A chart group of a section, drawn."""
    found = page.locator(f"#{section} figure.charts").nth(place)
    found.scroll_into_view_if_needed()
    page.wait_for_function("figure => figure.dataset.drawn === 'true'", arg=found.element_handle())
    return found


def test_it_opens_and_draws_everything_without_a_complaint_or_a_request(opened, file):
    page, complaints, requests = opened
    assert page.evaluate(DRAW_ALL) == 0
    assert page.locator(".failed").count() == 0
    assert page.locator(".plot .main-svg").count() > 40
    assert complaints == []
    assert [address for address in requests if not address.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert page.title() == "neurochorus: report"  # no text of a file became markup


def test_charts_are_drawn_when_they_come_into_sight(browser, file):
    page = new_page(browser, 1400, 600)
    page.goto(file.as_uri())
    page.wait_for_selector("#forecast figure[data-drawn]")
    assert page.locator("#training figure[data-drawn]").count() == 0
    page.locator("#training").scroll_into_view_if_needed()
    page.wait_for_selector("#training figure[data-drawn]")
    page.close()


def test_charts_of_closed_details_are_drawn_when_they_are_opened(browser, file):
    page = new_page(browser, 1400, 900)
    page.goto(file.as_uri())
    page.wait_for_selector("#forecast figure[data-drawn]")
    one = page.locator("#scores details", has_text="Generated correlations").first
    one.locator("summary").first.scroll_into_view_if_needed()
    assert page.locator("#scores figure[data-drawn]").count() == 0
    one.locator("summary").first.click()
    page.wait_for_selector("#scores figure[data-drawn]")
    assert one.locator("figure .main-svg").first.bounding_box()["width"] > 800
    page.close()


def test_a_click_on_a_header_sorts(page):
    table = page.locator("#forecast table").nth(1)
    head = table.locator("thead th", has_text="ridge")
    column = head.evaluate("cell => cell.cellIndex")
    cells = f"table => [...table.tBodies[0].rows].map(row => Number(row.cells[{column}].dataset.value))"
    before = table.evaluate(cells)
    assert len(before) == len(SESSIONS)
    head.locator("button").click()
    assert table.evaluate(cells) == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert table.evaluate(cells) == sorted(before)
    names = "table => [...table.tBodies[0].rows].map(row => row.cells[0].textContent)"
    table.locator("thead button").first.click()
    assert table.evaluate(names)[:2] == ["otter_19", "otter_18"]  # numbers in names count as such


def test_words_in_the_field_filter_a_long_table(page):
    box = page.locator("#forecast .filtered")
    box.locator("input").fill("otter_1")
    assert box.locator("tbody tr:visible").count() == 11
    box.locator("input").fill("")
    assert box.locator("tbody tr:visible").count() == len(SESSIONS)


def test_pointing_at_a_mark_shows_its_value(page):
    figure = group(page, "forecast")
    mark = figure.locator(".scatterlayer .trace .points path.point").last
    place = mark.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    figure.locator(".hoverlayer text").first.wait_for()
    assert "mean 0.3950 ± " in " ".join(figure.locator(".hoverlayer text").all_text_contents())


def test_a_click_on_a_legend_hides_a_row_in_every_panel_and_shows_it_again(page):
    figure = group(page, "generated")
    button = figure.locator(".legend button", has_text="recorded")
    lines = (
        "figure => [...figure.querySelectorAll('.plot')].map(div => div.data.filter(t => t.visible === true).length)"
    )
    before = figure.evaluate(lines)
    drawn = figure.locator(".scatterlayer .trace").count()
    count = "figure.querySelectorAll('.scatterlayer .trace').length"
    button.click()
    page.wait_for_function(f"figure => {count} < {drawn}",
                           arg=figure.element_handle())  # fmt: skip
    assert button.get_attribute("aria-pressed") == "false"
    assert sum(figure.evaluate(lines)) == sum(before) - 1
    button.click()
    page.wait_for_function(f"figure => {count} === {drawn}",
                           arg=figure.element_handle())  # fmt: skip
    assert button.get_attribute("aria-pressed") == "true"


def test_a_session_a_trial_and_a_unit_can_be_picked(page):
    figure = group(page, "horizons")
    curve = "figure.querySelector('.plot').calcdata.find(points => points[0].trace.fill === 'none')"
    ends = f"figure => {curve}.map(point => point.y?.toFixed(2))"
    assert figure.evaluate(ends) == ["0.30", "0.20", None]
    figure.locator("select").select_option(label="otter_3")
    page.wait_for_function(f"figure => ({ends})(figure)[2] === '0.20'", arg=figure.element_handle())
    figure = group(page, "generated", 3)
    shown = "figure => JSON.stringify([...figure.querySelectorAll('.plot')].map(div => div.data.at(-1).y))"
    for select in (0, 1):
        before = figure.evaluate(shown)
        figure.locator("select").nth(select).select_option(index=1)
        page.wait_for_function(f"([figure, before]) => ({shown})(figure) !== before",
                               arg=[figure.element_handle(), before])  # fmt: skip


def test_a_narrow_dark_screen_is_not_overflown_and_colours_follow_its_scheme(browser, file):
    page = new_page(browser, 500, 900, color_scheme="dark")
    page.goto(file.as_uri())
    figure = group(page, "generated")
    assert page.evaluate("document.documentElement.scrollWidth") == 500
    ink = "figure => figure.querySelectorAll('.plot')[2].data.find(t => t.legendgroup === 'recorded').line.color"
    dark = figure.evaluate(ink)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"([figure, dark]) => ({ink})(figure) !== dark", arg=[figure.element_handle(), dark])
    assert figure.evaluate(ink) == "#1f2430"
    page.close()
