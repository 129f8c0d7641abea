"""The pages in a real browser: no error, no request, sorting, enlarging and filtering work."""

import shutil
import time

import pytest
from PIL import Image

from fcn_jax.report import gallery, pages
from tests.report import browser as driving
from tests.report.conftest import CONFUSION, NAMES, PALETTE, make_panel, make_result, make_rows

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM
    assert DRIVER
    with driving.started(CHROMIUM, DRIVER, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(whole_run, tmp_path_factory):
    """Every kind of page in one folder."""
    folder = tmp_path_factory.mktemp("site")
    pages.write_report(whole_run, folder / "run.html")
    live = pages.RunData(**whole_run, live=pages.Live("running", 1))
    pages.write_report(live, folder / "live.html")
    evaluation = pages.RunData(**whole_run, split="test")
    evaluation["result"] = {**make_result(), "test": make_result()["val"]}
    pages.write_report(evaluation, folder / "evaluation.html")
    runs: list[pages.Run] = [
        {
            "name": f"run {i}", "result": [make_result(0.3 + 0.1 * i, seed) for seed in range(2)],
            "history": make_rows(),
            "config": {"lr": 0.1 * i}, "confusion": CONFUSION, "panels": [make_panel()],
        }
        for i in range(3)
    ]  # fmt: skip
    pair = {"a": "run 0", "b": "run 1", "difference": 0.1, "low": 0.05, "high": 0.2, "p": 0.01}
    pages.write_comparison(
        runs, folder / "comparison.html", class_names=NAMES, palette=PALETTE, pairs=[pair]
    )
    panel, predictions = make_panel(), []
    for i, fractions in enumerate([[0.9, 0.1, 0], [1, 0, 0], [0.5, 0.5, 0]]):
        name = f"photo {i}-overlay.jpg"
        gallery.with_legend(panel.image, [panel.truth], NAMES, PALETTE).save(folder / name)
        made = gallery.Prediction(f"photo {i}.jpg", name, gallery.thumbnail(panel.image), fractions)
        predictions.append(made)
    pages.write_predictions(
        predictions, folder / "predictions.html", class_names=NAMES, palette=PALETTE
    )
    return folder


KINDS = ("run", "live", "evaluation", "comparison", "predictions")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_no_error_no_request_and_nothing_wider_than_the_window(browser, site, kind, width):
    browser.console()
    browser.requests()
    page = site / f"{kind}.html"
    browser.open(page, width)
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.console() == []
    assert set(browser.requests()) == {page.as_uri()}


@pytest.mark.parametrize("kind", ["run", "evaluation"])
def test_a_click_on_a_heading_sorts_the_classes(browser, site, kind):
    browser.open(site / f"{kind}.html")
    names = """return [...document.querySelectorAll("#classes tbody tr")]
                   .map((row) => row.cells[0].textContent)"""
    click = 'document.querySelector("#classes").tHead.rows[0].cells[{}].click();'
    assert browser.run(names) == ["background", "cat", "dog"]
    browser.run(click.format(2))  # IoU: 0.8, 0.25, absent
    assert browser.run(names) == ["background", "cat", "dog"]
    browser.run(click.format(2))
    assert browser.run(names) == ["cat", "background", "dog"]  # absent ones stay last
    browser.run(click.format(0))
    assert browser.run(names) == ["dog", "cat", "background"]


def test_a_click_on_a_heading_sorts_the_runs(browser, site):
    browser.open(site / "comparison.html")
    names = """return [...document.querySelectorAll("#scores tbody tr")]
                   .map((row) => row.cells[0].textContent)"""
    assert browser.run(names) == ["run 0", "run 1", "run 2"]
    browser.run('document.querySelector("#scores").tHead.rows[0].cells[1].click();')
    assert browser.run(names) == ["run 2", "run 1", "run 0"]
    foot = 'return document.querySelector("#scores tfoot").rows[0].cells[0].textContent'
    assert browser.run(foot) == "all-background"


SHOWN = """const picture = document.querySelector("#box[open] img, #box[open] svg");
           return picture && picture.getBoundingClientRect().width"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_click_enlarges_and_another_closes(browser, site, kind):
    browser.open(site / f"{kind}.html")
    for selector in ("figure.zoom", *(["figure.chart"] if kind != "predictions" else [])):
        before = browser.run(
            f"return document.querySelector('{selector} img, {selector} svg')"
            ".getBoundingClientRect().width"
        )
        browser.run(f"document.querySelector('{selector}').click();")
        assert browser.run(SHOWN) > 1.5 * before
        browser.run('document.getElementById("box").click();')
        assert browser.run(SHOWN) is None
    assert browser.console() == []


def test_enlarging_a_prediction_loads_its_overlay(browser, site):
    browser.open(site / "predictions.html")
    browser.requests()
    browser.run('document.querySelector("figure.zoom").click();')
    loaded = "const i = document.querySelector('#box img'); return i.complete && i.naturalWidth"
    end = time.monotonic() + 5
    while not browser.run(loaded) and time.monotonic() < end:
        time.sleep(0.05)
    with Image.open(site / "photo 0-overlay.jpg") as image:
        assert browser.run(loaded) == image.width
    assert browser.requests() == [(site / "photo 0-overlay.jpg").as_uri()]
    assert browser.console() == []


def test_the_filter_shows_images_of_a_class_those_with_most_first(browser, site):
    browser.open(site / "predictions.html")
    choose = """const filter = document.getElementById("filter");
                filter.value = "{}"; filter.dispatchEvent(new Event("change"));"""
    names = """return [...document.querySelectorAll(".card:not([hidden]) figcaption")]
                   .map((text) => text.textContent)"""
    browser.run(choose.format(1))
    assert browser.run(names) == ["photo 2.jpg", "photo 0.jpg"]
    assert browser.run('return document.getElementById("shown").textContent') == "2"
    browser.run(choose.format(""))
    assert sorted(browser.run(names)) == ["photo 0.jpg", "photo 1.jpg", "photo 2.jpg"]


def test_a_live_page_tells_its_age_and_reloads(browser, site):
    browser.open(site / "live.html")
    text = 'return document.getElementById("live").textContent'
    assert browser.run(text).startswith("running · updated ")
    browser.run("window.before = true;")
    for _ in range(60):
        if not browser.run("return window.before || false"):
            break
        time.sleep(0.1)
    assert not browser.run("return window.before || false")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_the_devices(browser, site, theme):
    browser.open(site / "run.html", theme=theme)
    colour = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(243, 245, 248)", "dark": "rgb(16, 19, 26)"}[theme]
    heat = browser.run('return getComputedStyle(document.querySelector("td.heat")).backgroundColor')
    assert heat == {"light": "rgba(0, 103, 165, 0.494)", "dark": "rgba(90, 180, 240, 0.404)"}[theme]


CONTRASTS = """
const parse = (text) => {
  const n = text.match(/[\\d.]+/g).map(Number);
  return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1];
};
const over = (a, b) => [0, 1, 2].map((i) => a[3] * a[i] + (1 - a[3]) * b[i]).concat(1);
const ground = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    layers.push(parse(getComputedStyle(e).backgroundColor));
  }
  return layers.reduceRight((below, layer) => over(layer, below), [255, 255, 255, 1]);
};
const light = (c) => {
  const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const low = new Set();
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.closest("option, script")) continue;
  const style = getComputedStyle(e), below = ground(e);
  const ink = over(parse(e instanceof SVGElement ? style.fill : style.color), below);
  const [a, b] = [light(ink), light(below)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) low.add(`${e.tagName} ${ratio.toFixed(2)} ${e.textContent.trim()}`);
}
return [...low];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_text_stands_out_from_its_ground(browser, site, kind, theme):
    """A contrast of 4.5 to 1, as WCAG 2 asks of text: formula from there."""
    browser.open(site / f"{kind}.html", theme=theme)
    assert browser.run(CONTRASTS) == []
