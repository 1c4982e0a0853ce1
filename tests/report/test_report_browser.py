"""Pages in headless Chromium: one browser, every page in it, both themes, wide and phone."""

import shutil

import pytest
from toy_runs import pictures, predictions, run_folder

from domainvl.report import write_report
from domainvl.report.comparison import compare
from domainvl.report.comparison_page import write_comparison

WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PAGES = {
    "multi-label": predictions(classes=5),
    "single-label": predictions(multilabel=False, classes=12),
    "zero-shot": predictions(adapted=None),
}

NAMES = [*PAGES, "pictures", "comparison"]

# Text whose own box cuts it off; boxes that are made to scroll do not count.
CLIPPED = """() => [...document.querySelectorAll('main *')].filter(e =>
    !e.closest('svg, .scroll, nav, pre') && e.childElementCount === 0 && e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).display !== 'inline' && e.clientWidth > 0).map(e => e.outerHTML.slice(0, 120))"""

# Texts of a plot that touch each other, and texts outside their plot.
CROWDED = """() => [...document.querySelectorAll('svg.plot')].flatMap(svg => {
    const outer = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    const out = boxes.filter(([, b]) => b.left < outer.left - 1 || b.right > outer.right + 1
        || b.bottom > outer.bottom + 1 || b.top < outer.top - 1).map(([t]) => 'outside: ' + t);
    const touch = boxes.flatMap(([t, a], i) => boxes.slice(i + 1).filter(([, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        .map(([u]) => 'touch: ' + t + ' and ' + u));
    return [...out, ...touch];
})"""

# Headings, captions and paragraphs that lie over each other.
OVERLAPPING = """() => {
    const boxes = [...document.querySelectorAll('h1, h2, h3, h4, p, figcaption, dt, dd, li, .big b, .tile *')]
        .filter(e => e.clientWidth > 0).map(e => [e, e.getBoundingClientRect()]);
    return boxes.flatMap(([e, a], i) => boxes.slice(i + 1).filter(([f, b]) => !e.contains(f) && !f.contains(e)
        && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        .map(([f]) => e.textContent.slice(0, 40) + ' | ' + f.textContent.slice(0, 40)));
}"""

# WCAG contrast of small text against the page.
FAINT = """() => {
    const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
        return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll('p, small, figcaption, th, td, dt, .sub, summary, nav a, svg.plot text')]
        .map(e => { const s = getComputedStyle(e), ink = light(e.closest('svg') ? s.fill : s.color);
            return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), e.textContent.slice(0, 30)]; })
        .filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'domainvl[dev]'")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    pages = {name: write_report(run_folder(root / name, found)) for name, found in PAGES.items()}
    runs = [run_folder(root / name, predictions(adapted=skill)) for name, skill in (("pictures", 2.0), ("poor", 0.5))]
    pages["pictures"] = write_report(runs[0], pictures(runs[0]))
    pages["comparison"] = write_comparison(compare([root / "pictures", root / "poor"]), root / "compare.html")
    return {name: page.as_uri() for name, page in pages.items()}


@pytest.fixture
def opened(browser, addresses):
    """Opens a page and fails on anything that it complains about or asks the network for."""
    complaints, pages = [], []

    def open_(name, viewport=WIDE, scheme="light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url != addresses[name] and complaints.append(request.url))
        page.goto(addresses[name])
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped_crowded_or_wider_than_the_screen(opened, name, viewport, scheme):
    page = opened(name, viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(CLIPPED) == []
    assert page.evaluate(CROWDED) == []
    assert page.evaluate(OVERLAPPING) == []
    assert page.evaluate(FAINT) == []


def test_figures_are_visible_and_say_what_they_are(opened):
    page = opened("multi-label")
    plots = page.locator("svg.plot")
    assert plots.count() >= 10
    for box in (plots.nth(place).bounding_box() for place in range(plots.count())):
        assert box["width"] > 150
        assert box["height"] > 120
    painted = page.evaluate(
        """() => [...document.querySelectorAll('svg .line, svg .band, svg .dot')].filter(e => {
            const s = getComputedStyle(e); return s.stroke === 'none' && s.fill === 'none';
        }).length"""
    )
    assert painted == 0
    assert page.evaluate("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label'))")
    assert page.evaluate("[...document.querySelectorAll('figure')].every(f => f.querySelector('figcaption'))")


def test_pictures_lie_under_their_maps(opened):
    page = opened("pictures", PHONE)
    views = page.locator("#maps .picture")
    assert views.count() > 0
    for view in (views.nth(place) for place in range(views.count())):
        frame = view.bounding_box()
        for image in view.locator("img").all():
            assert image.bounding_box() == frame
            assert image.evaluate("i => i.complete && i.naturalWidth > 0")
    assert page.locator("#maps .picture rect").first.bounding_box()["width"] > 10
    assert page.locator("#mistakes .card").count() > 0


def test_a_click_sorts_a_table_both_ways(opened):
    page = opened("multi-label")
    column = "[...document.querySelectorAll('#classes tbody tr')].map(r => Number(r.cells[3].dataset.value))"
    head = page.locator("#classes thead th:nth-child(4)")
    for order, wanted in (("descending", True), ("ascending", False)):
        head.locator("button").click()
        values = page.evaluate(column)
        assert values == sorted(values, reverse=wanted)
        assert head.get_attribute("aria-sort") == order
    page.locator("#classes thead th:nth-child(1) button").click()
    names = page.locator("#classes tbody th").all_text_contents()
    assert names == sorted(names, key=str.casefold)
    assert page.locator("#classes [aria-sort]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_button_turns_the_theme(opened, scheme):
    page = opened("zero-shot", scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    first, other = page.evaluate(paper), "dark" if scheme == "light" else "light"
    assert page.locator("#theme").text_content().lower() == other
    page.locator("#theme").click()
    assert page.evaluate(paper) != first
    page.locator("#theme").click()
    assert page.evaluate(paper) == first


def test_the_page_reads_without_scripts(browser, addresses):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(addresses["multi-label"])
    assert page.locator("#classes tbody tr").count() == 5
    assert page.locator("svg.plot").first.is_visible()
    context.close()
