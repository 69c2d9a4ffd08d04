"""The report's page in headless Chromium: quiet, open to everyone, as wide as the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report_examples import write_rich_page
from tests.runtimes.browser import Browser, browsing

pytestmark = pytest.mark.slow

RULES = "axe.run(document, {resultTypes: ['violations']})"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page with every section, and one of the published rows."""
    return write_rich_page(tmp_path_factory.mktemp("report"))


def open_page(browser: Browser, page: Path, *, width: int, dark: bool = False) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.call("Emulation.setEmulatedMedia", media="", features=[scheme])
    browser.open(page.as_uri())
    browser.wait(f"location.href === '{page.as_uri()}' && document.readyState === 'complete'")


@pytest.mark.parametrize("name", ["rich", "published"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_open_to_everyone(
    browser: Browser, pages: dict[str, Path], npm_folder: Path, name: str, dark: bool, width: int
) -> None:
    open_page(browser, pages[name], width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    axe = npm_folder / "node_modules" / "axe-core" / "axe.min.js"
    browser.evaluate(f"{axe.read_text(encoding='utf-8')};0")
    found: dict[str, Any] = browser.evaluate(
        f"{RULES}.then(said => ({{passed: said.passes.length, wrong: said.violations.map(rule => "
        "[rule.id, rule.help, rule.nodes[0].html.slice(0, 200)])}))"
    )
    assert found["wrong"] == []
    assert found["passed"] > 20


@pytest.mark.parametrize("name", ["rich", "published"])
@pytest.mark.parametrize("width", [1280, 400, 320])
def test_the_page_is_quiet_and_no_wider_than_the_screen(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    open_page(browser, pages[name], width=width)
    asked = [one for one in browser.requests if not one.startswith("data:")]
    assert asked == [pages[name].as_uri()]
    assert browser.complaints == []
    browser.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = browser.evaluate(
        """[...document.querySelectorAll('svg text')].filter(one => {
          const box = one.getBoundingClientRect();
          const view = one.ownerSVGElement.getBoundingClientRect();
          return box.left < view.left - 2 || box.right > view.right + 2
            || box.top < view.top - 2 || box.bottom > view.bottom + 2;
        }).map(one => one.textContent)"""
    )
    assert outside == []


def test_no_text_of_a_chart_lies_on_another(browser: Browser, pages: dict[str, Path]) -> None:
    open_page(browser, pages["rich"], width=1280)
    touching = browser.evaluate(
        """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
          // What is turned has a box larger than itself.
          const texts = [...svg.querySelectorAll(':scope > text')]
            .map(one => [one.textContent, one.getBoundingClientRect()]);
          return texts.flatMap(([name, a], place) => texts.slice(place + 1)
            .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
              && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 5)
            .map(([other]) => [svg.querySelector('title').textContent, name, other]));
        })"""
    )
    assert touching == []


def test_the_policy_lets_nothing_run_or_load(browser: Browser, pages: dict[str, Path]) -> None:
    open_page(browser, pages["rich"], width=1280)
    ran = browser.evaluate(
        """(() => {
          const one = document.createElement('script');
          one.textContent = 'window.ran = 1';
          document.body.append(one);
          return window.ran === 1;
        })()"""
    )
    assert ran is False
    said = browser.evaluate("fetch('data:,x').then(() => '', error => error.message)")
    assert said == "Failed to fetch"


def test_the_keyboard_reaches_tables_and_footnotes(
    browser: Browser, pages: dict[str, Path]
) -> None:
    open_page(browser, pages["rich"], width=400)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    reached = set()
    for _ in range(40):
        browser.press("Tab", 9)
        reached.add(browser.evaluate("document.activeElement.className"))
        outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert reached >= {"scroll", "note"}


def test_a_footnote_in_a_closed_list_is_shown(browser: Browser, pages: dict[str, Path]) -> None:
    open_page(browser, pages["rich"], width=1280)
    browser.evaluate("document.querySelector('a[href^=\"#row-\"]').click()")
    browser.wait("document.querySelector(':target')?.checkVisibility()", seconds=10)


def test_paper_shows_charts_and_sources_on_white(browser: Browser, pages: dict[str, Path]) -> None:
    open_page(browser, pages["rich"], width=760, dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print")
    style = "getComputedStyle(document.body)"
    assert browser.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("document.documentElement.scrollWidth") <= 760
    assert browser.evaluate("document.querySelector('details.sources li').checkVisibility()")
    assert not browser.evaluate("document.querySelector('figure table').checkVisibility()")
    paper = browser.call("Page.printToPDF")["data"]
    assert paper.startswith("JVBERi")  # %PDF
