"""The built pages in a browser without a network: formulas are drawn, code and tables are whole."""

import re

import pytest

from tests.docs.pages import ROOT
from tests.report.chromium import Chromium, find

pytest.importorskip("sphinx_copybutton", reason="the documentation's packages are not installed")

pytestmark = [
    pytest.mark.slow,  # builds the documentation, opens every page
    pytest.mark.skipif(find() is None, reason="no chromium is installed"),
    pytest.mark.timeout(1800),
]

WIDE = 1400
LOOK = """(() => {
  const over = (some, text) => [...document.querySelectorAll(some)].filter(e => e.scrollWidth > e.clientWidth + 1).map(text);
  return {
    page: document.documentElement.scrollWidth - innerWidth,
    code: over("article pre", e => e.textContent.slice(0, 80)),
    tables: over("article .table-wrapper", e => e.textContent.replace(/\\s+/g, " ").slice(0, 80)),
    formulas: [...document.querySelectorAll("article math")].map(e => [e.textContent.slice(0, 40), e.getBoundingClientRect()])
      .filter(([, box]) => box.width < 3 || box.height < 5).map(([text]) => text),
    wide: over("article .math", e => e.textContent.slice(0, 40)),
    maths: document.querySelectorAll("article math").length,
    broken: [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.src),
    buttons: document.querySelectorAll("article .highlight button.copybtn").length,
    blocks: document.querySelectorAll("article .highlight pre").length,
  };
})()"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The documentation, built with every warning an error."""
    from sphinx.cmd.build import main

    out = tmp_path_factory.mktemp("html")
    assert main(["-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def looks(built):
    """What each page looks like at 1400 pixels, and what the browser asked for."""
    pages = [page for page in sorted(built.rglob("*.html")) if "_modules" not in page.parts and page.name != "search.html"]
    with Chromium(WIDE, 900) as browser:
        browser.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
        seen = {}
        for page in pages:
            browser.ask("Page.navigate", url=page.as_uri())
            browser.run("new Promise(r => document.readyState === 'complete' ? r() : addEventListener('load', r))")
            browser.run("document.querySelectorAll('img[loading]').forEach(e => e.loading = 'eager')")
            seen[str(page.relative_to(built))] = browser.run(LOOK)
        return seen, list(browser.requests)


def test_pages_are_whole_at_1400_pixels_and_without_a_network(looks):
    seen, asked = looks
    for page, look in seen.items():
        for what in ("code", "tables", "wide", "formulas", "broken"):  # cut off, not drawn, not there
            assert look[what] == [], f"{page}: {what}"
        assert look["page"] <= 0, page
        assert look["buttons"] == look["blocks"], page  # to copy code
    assert sum(look["maths"] for look in seen.values()) > 150
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []


def test_every_public_class_has_a_page_with_an_example(built):
    import importlib

    shown = re.findall(r"^   (lightning_focal\.\S+)$", (ROOT / "docs/reference/api.md").read_text(encoding="utf-8"), re.MULTILINE)
    count = 0
    for name in shown:
        module = importlib.import_module(name)
        classes = [each for each in getattr(module, "__all__", ()) if isinstance(getattr(module, each), type)]
        for each in classes:
            page = built / "reference" / "api" / f"{name}.{each}.html"
            assert page.exists(), f"{name}.{each} has no page"
            assert re.search(r'class="[^"]*highlight-(?!none|text)', page.read_text(encoding="utf-8")), (
                f"{page.name} has no example"
            )
            count += 1
    assert count > 80
