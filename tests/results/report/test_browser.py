"""The report in a real headless Chromium. Run: python -m pytest -m slow tests/results/report/test_browser.py."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovbench.results.formats.to_csv import render as to_csv
from ovbench.results.report.build import build_report
from ovbench.results.report.gather import gather
from ovbench.results.table import build_tables
from tests.results.report.browser import MISSING, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: chromium, chromium-driver)"
    ),
]
_ROWS = "return [...document.querySelectorAll('#table-1-main tbody tr')].filter(r => !r.hidden).map(r => r.dataset.row)"


@pytest.fixture(scope="module")
def browser(shared_world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "report.html"
    page = build_report(gather([shared_world.store.root]), draw=shared_world.draw, cache=shared_world.cache)
    path.write_text(page, encoding="utf-8")
    with Browser(folder / "profile") as found:
        found.open(path)
        yield found


@pytest.fixture(autouse=True)
def no_fault(browser: Browser) -> Iterator[None]:
    """Reloads the page for each test, and looks for errors in the console after it."""
    browser.run("localStorage.clear()")
    browser.reload()
    assert browser.run("return document.documentElement.dataset.ready") == "true"
    yield
    assert browser.console() == []
    assert browser.run("return document.documentElement.dataset.errors") == "0"


def _sort_by(browser: Browser, column: int) -> list[str]:
    browser.click(f"#table-1-main thead th:nth-child({column}) button")
    return browser.run(_ROWS)


def test_click_on_a_head_sorts_and_another_turns_the_order_round(browser: Browser) -> None:
    assert _sort_by(browser, 2) == ["ovis3/mini", "clip/mini", "siglip/mini", "random/mini", "chance"]
    assert browser.run("return document.querySelector('#table-1-main th:nth-child(2)').ariaSort") == "descending"
    assert _sort_by(browser, 2) == ["chance", "random/mini", "siglip/mini", "clip/mini", "ovis3/mini"]


def test_missing_values_stay_last_either_way(browser: Browser) -> None:
    place = 1 + browser.run(
        "return [...document.querySelectorAll('#table-1-main th')].findIndex(h => h.innerText.includes('mini-pope'))"
    )
    assert _sort_by(browser, place)[-1] == "siglip/mini"
    assert _sort_by(browser, place)[-1] == "siglip/mini"


def test_distances_sort_the_smallest_first(browser: Browser) -> None:
    browser.click("#table-2-main thead th:nth-child(2) button")
    rows = browser.run("return [...document.querySelectorAll('#table-2-main tbody tr')].map(r => r.dataset.row)")
    assert rows == ["ovis3/mini", "clip/mini", "random/mini"]


def test_columns_are_sorted_by_the_keyboard(browser: Browser) -> None:
    browser.run("document.querySelector('#table-1-main th:nth-child(1) button').focus()")
    browser.type("#table-1-main th:nth-child(1) button", "\ue007")  # Enter
    assert browser.run(_ROWS) == ["chance", "clip/mini", "ovis3/mini", "random/mini", "siglip/mini"]


def test_rows_are_filtered_by_name_and_controls_can_be_left_out(browser: Browser) -> None:
    browser.type("[data-filter='table-1-main']", "clip")
    assert browser.run(_ROWS) == ["clip/mini"]
    count = browser.run("return document.querySelector('[data-count=\"table-1-main\"]').textContent")
    assert count == "1 of 5 rows"
    browser.reload()
    browser.click("[data-controls='table-1-main']")
    assert set(browser.run(_ROWS)) == {"ovis3/mini", "clip/mini", "siglip/mini"}


def test_question_opens_with_its_picture_and_every_answer(browser: Browser) -> None:
    assert browser.run("return document.querySelectorAll('.question[open]').length") == 0
    browser.click(".question summary")
    found: dict[str, Any] = browser.run(
        "const q = document.querySelector('.question'); const i = q.querySelector('img');"
        "return i.decode().then(() => ({open: q.open, width: i.naturalWidth,"
        " rows: [...q.querySelectorAll('.said tbody th')].map(e => e.innerText)}))"
    )
    assert found["open"]
    assert found["width"] == 64
    assert found["rows"] == ["ovis3/mini", "clip/mini", "siglip/mini", "random/mini"]


def test_questions_are_filtered_by_outcome_and_text(browser: Browser) -> None:
    shown = "return [...document.querySelectorAll('.question')].filter(q => !q.hidden).map(q => q.dataset.outcome)"
    browser.run(
        "const s = document.querySelector('[name=outcome]'); s.value = 'split';"
        "s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert set(browser.run(shown)) == {"split"}
    browser.type("[name=text]", "what is at 2?")
    assert len(browser.run(shown)) == 1


def test_markup_in_a_question_does_nothing(browser: Browser) -> None:
    assert browser.run("return document.title") == "ovbench report"
    assert browser.run("return document.querySelectorAll('img[src=x]').length") == 0


def test_numbers_on_the_page_are_those_of_the_csv(browser: Browser, shared_world: SimpleNamespace) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(build_tables(shared_world.store.records())))))
    wanted = {
        line["row"]: line["value"]
        for line in lines
        if line["task"] == "mini-seed" and line["headline"] == "true" and line["control"] == "none"
    }
    shown = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('#table-1-main tbody tr')]"
        ".map(r => [r.dataset.row, r.cells[1].dataset.value]))"
    )
    assert shown == wanted
    text = browser.run("return document.querySelector('tr[data-row=\"ovis3/mini\"] td .number').innerText")
    assert text.rstrip("*=") == f"{float(wanted['ovis3/mini']):.1f}"


def test_theme_follows_the_system_until_it_is_chosen(browser: Browser) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    browser.dark(False)
    assert browser.run(paper) == "rgb(255, 255, 255)"
    browser.dark(True)
    assert browser.run(paper) == "rgb(20, 23, 27)"
    browser.click("#theme")  # light
    assert browser.run(paper) == "rgb(255, 255, 255)"
    browser.reload()
    assert browser.run(paper) == "rgb(255, 255, 255)"
    browser.dark(False)


@pytest.mark.parametrize("width", [420, 1280])
def test_page_is_never_wider_than_the_window(browser: Browser, width: int) -> None:
    browser.resize(width, 900)
    assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")


def test_nothing_was_asked_of_the_network(browser: Browser) -> None:
    asked = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []


def test_screenshot_is_not_blank(browser: Browser, tmp_path: Path) -> None:
    from PIL import Image

    browser.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 50
