"""The built site in headless Chromium, served on loopback (``make test-docs``): not part of the suite, as it wants a
browser and ``make docs`` before it. ``CHROMIUM`` names the browser, ``SITE`` the folder; pictures of five pages at two
widths go to ``out/site``.
"""

import functools
import http.server
import os
import re
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
SITE = Path(os.environ.get("SITE", ROOT / "docs/_build/full/html"))
OUT = ROOT / "out" / "site"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SHOWN = ("index", "first_steps", "idea/couplings", "tutorials/hard_posterior", "api/bijections")
TABS = "first_steps.html", "tutorials/hard_posterior.html"  # pages that have some


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )  # a container's root has none
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page that keeps what went wrong in ``page.problems``."""
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.problems = []
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("response", lambda answer: answer.status >= 400 and page.problems.append(f"{answer.status} {answer.url}"))
    page.on("requestfailed", lambda request: page.problems.append(f"failed {request.url}"))
    yield page
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_all_its_pictures_and_no_error_and_fits_a_phone(page, address, name):
    page.goto(f"{address}/{name}", wait_until="networkidle")
    for image in page.locator("img").all():
        assert image.get_attribute("alt"), image.get_attribute("src")
        image.evaluate("i => i.decode()")
    assert not page.locator("mjx-merror").count(), "a formula that MathJax cannot read"
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], "the page scrolls sideways"
    assert not page.problems


@pytest.mark.parametrize("name", TABS)
def test_a_language_once_chosen_is_that_of_all_tabs(page, address, name):
    page.goto(f"{address}/{name}")
    tabs = page.locator("article .sd-tab-set")
    assert tabs.count() >= 3
    for language in ("NumPyro", "Pyro", "NumPyro"):
        tabs.first.get_by_text(language, exact=True).first.click()
        for i in range(tabs.count()):
            chosen = tabs.nth(i).locator("input:checked + label").inner_text()
            assert chosen == language
            assert tabs.nth(i).locator(".sd-tab-content:visible").count() == 1
    page.goto(f"{address}/index.html")
    assert page.locator("article .sd-tab-set input:checked + label").first.inner_text() == "NumPyro"
    assert not page.problems


def test_the_search_finds_the_inverse_autoregressive_flow(page, address):
    page.goto(f"{address}/search.html?q=inverse+autoregressive")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('found')")
    found = [link.get_attribute("href") for link in page.locator("#search-results li a").all()]
    assert any("idea/autoregressive" in href for href in found), found
    assert not page.problems


def test_the_search_finds_a_name_of_the_reference(page, address):
    page.goto(f"{address}/search.html?q=plot_warped_grid")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a[href*='ppl_flows.plots.plot_warped_grid']").count()


def test_the_dark_mode_is_dark(page, address):
    page.goto(f"{address}/index.html")
    light = brightness(page)
    for _ in range(3):  # auto, light, dark
        if page.locator("body").get_attribute("data-theme") != "dark":
            page.locator(".theme-toggle:visible").first.click()
    assert page.locator("body").get_attribute("data-theme") == "dark"
    assert light > 200
    assert brightness(page) < 60
    page.goto(f"{address}/first_steps.html")
    assert brightness(page) < 60, "it is kept from page to page"


def brightness(page):
    """Of what is behind the text, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.querySelector('.page .main') || document.body).backgroundColor")
    if colour.endswith(", 0)"):  # transparent: the body's
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize(("width", "size"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_screenshots(page, address, name, width, size):
    page.set_viewport_size(size)
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name.replace('/', '_')}_{width}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000


class Links(HTMLParser):
    """Addresses that a page names, and places in it that can be named."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]


def test_no_link_inside_the_site_is_broken():
    pages = {name: Links((SITE / name).read_text()) for name in PAGES}
    assert len(pages) > 30
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = name if not parts.path else os.path.normpath(Path(name).parent / unquote(parts.path))
            here = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].places
            if not here or not (SITE / target).is_file():
                broken.append(f"{name}: {link}")
    assert not broken


def test_every_notebook_is_one():
    import nbformat

    notebooks = list((SITE / "_notebooks").rglob("*.ipynb"))
    assert len(notebooks) >= 5
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert any(cell.cell_type == "code" and cell.outputs for cell in notebook.cells), path


def test_nothing_names_the_machine_that_made_the_site():
    texts = [path for path in SITE.rglob("*") if path.suffix in (".html", ".ipynb", ".js")]
    for path in texts:
        text = path.read_text(errors="ignore")
        assert str(ROOT) not in text, path
        assert sys.prefix not in text, path
