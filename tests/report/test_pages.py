import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fcn_jax.report import pages, tables

NAMES = ("background", "cat", "dog")
PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
HOSTILE = "<script>alert(1)</script>\"><img src=x onerror='alert(2)'>{{ 7*7 }}&\udce9"


class Page(HTMLParser):
    """A page taken apart: tags with attributes, and the text that a reader sees."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.open = [], [], [""]
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        self.open.append("/" + tag)

    def handle_data(self, data):
        if self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def assert_harmless(page):
    assert not page.attributes("script")
    assert not page.attributes("link")
    assert not page.attributes("iframe")
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
    for image in page.attributes("img"):
        assert image["src"].startswith("data:image/")
    for source in page.attributes("source"):
        assert source["srcset"].startswith("data:image/")
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "49" not in page.text.split()  # {{ 7*7 }} was not run
    policy = [m for m in page.attributes("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy[0]["content"]


def decoded(uri):
    return Image.open(BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.fixture(scope="module")
def report(whole_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    pages.write_report(whole_run, path)
    return Page(path)


@pytest.fixture
def data(whole_run, result, panel):
    """A run to change; without the plots, which take time."""
    return {**whole_run, "result": result, "panels": [panel], "rows": [], "confusion": None}


@pytest.fixture
def runs(result, panel):
    paper = {"iou": 0.0612, "pixel_accuracy": 0.704}
    second = {**result, "seed": 1, "val": {**result["val"], "miou": 0.725}}
    return [
        {
            "name": "cosine",
            "result": [result, second],
            "paper": paper,
            "note": "A note.",
            "panels": [panel],
        },
        {"name": "tuned", "result": [{**result, "collapsed": True}], "panels": [panel]},
    ]


def compared(runs, path, names=NAMES, **options):
    pages.write_comparison(runs, path, class_names=names, palette=PALETTE, **options)
    return Page(path)


def test_report_needs_nothing_from_outside(report):
    assert_harmless(report)
    assert "width=device-width" in report.source
    assert "prefers-color-scheme: dark" in report.source
    assert "@media print" in report.source


def test_report_headline_has_all_background_beside(report):
    assert (
        "mIoU 0.5250 all-background 0.1000 ours / all-background 5.2\N{MULTIPLICATION SIGN}"
        in report.text
    )
    assert "Collapsed" not in report.text


def test_report_shows_scores_classes_config_environment_command(report):
    for words in (
        "paper's IoU, per image 0.0500 0.0500 0.1245",
        "cat 0.250 0.000",
        "dog \N{EN DASH} \N{EN DASH}",
        "optim.lr 0.0001",
        "devices.kind cpu",
        "python -m experiments.run --arch fcn",
        "2 min 5 s",
        "cat \N{RIGHTWARDS ARROW} background 30 %",
    ):
        assert words in report.text.replace("\xa0", " "), words


def test_report_bars_are_as_long_as_the_scores(report):
    widths = [i.get("style") for i in report.attributes("i")]
    assert "width:80.00%" in widths
    assert "width:25.00%" in widths


def test_masks_in_the_page_are_the_masks(report, panel):
    first, second = [i["src"] for i in report.attributes("img") if i.get("class") == "mask"]
    for uri, mask in ((first, panel.truth), (second, panel.prediction)):
        with decoded(uri) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), mask)


def test_legend_of_the_page_agrees_with_the_palette(report):
    page = report.source[report.source.index('<div class="legend">') :]
    legend = re.findall(r'background:(#\w{6})"></i>(\w+)<', page[: page.index("</div>")])
    expected = [("#000000", "background"), ("#800000", "cat"), ("#e0e0c0", "void")]
    assert legend == expected


def test_every_plot_comes_in_both_themes(report):
    light = [i for i in report.attributes("img") if not i["src"].startswith("data:image/jpeg")]
    plots = [i for i in light if i.get("class") != "mask"]
    assert len(plots) == len(report.attributes("source")) == 4  # three curves, one confusion
    for plot, source in zip(plots, report.attributes("source"), strict=True):
        with decoded(plot["src"]) as day, decoded(source["srcset"]) as night:
            assert day.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
            assert night.convert("RGB").getpixel((0, 0)) == (26, 30, 39)


def test_collapsed_run_is_called_so(data, tmp_path):
    data["result"]["collapsed"] = True
    pages.write_report(data, tmp_path / "report.html")
    assert f"Collapsed: {tables.COLLAPSED}." in Page(tmp_path / "report.html").text


def test_report_of_the_least_possible_run(result, tmp_path):
    result["val"] = {"miou": None, "iou": {}}
    least = {"class_names": NAMES, "palette": PALETTE, "result": {"val": result["val"]}}
    pages.write_report(least, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "mIoU \N{EN DASH}" in page.text
    assert "Training" not in page.text
    assert "Images" not in page.text


def test_report_of_one_epoch_and_a_network_without_classes_in_truth(data, rows, tmp_path):
    data["rows"] = rows[:1]
    data["confusion"] = np.zeros((4, 3), np.int64)
    pages.write_report(data, tmp_path / "report.html")
    assert "Most frequent confusions" not in Page(tmp_path / "report.html").text


def test_hostile_names_stay_text_in_the_report(data, whole_run, tmp_path):
    data["confusion"] = whole_run["confusion"]
    data["class_names"] = names = ("background", HOSTILE[:30], HOSTILE[30:60])
    data["panels"] = [data["panels"][0]._replace(title=HOSTILE)]
    data["config"] = {HOSTILE: HOSTILE}
    data["command"] = HOSTILE
    for key in ("experiment", "arch", "dataset"):
        data["result"][key] = HOSTILE
    data["result"]["environment"] = {HOSTILE: {HOSTILE: HOSTILE}}
    data["result"]["val"]["iou"] = dict.fromkeys(names, 0.5)
    pages.write_report(data, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert_harmless(page)
    assert "<script>alert(1)</script>" in page.text  # as words, for a reader to see


def test_hostile_names_stay_text_in_the_comparison(runs, panel, whole_run, tmp_path):
    for run in runs:
        run.update(rows=whole_run["rows"], confusion=whole_run["confusion"])
        run.update(name=run["name"] + HOSTILE, note=HOSTILE)
        run["panels"] = [panel._replace(title=HOSTILE)]
        run["result"][0].update(arch=HOSTILE, seed=HOSTILE)
    pair = {"a": HOSTILE, "b": HOSTILE, "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.01}
    page = compared(
        runs, tmp_path / "c.html", ("background", HOSTILE, "x"), title=HOSTILE, pairs=[pair],
        differences=[HOSTILE], environment={HOSTILE: HOSTILE}, command=HOSTILE,
    )  # fmt: skip
    assert_harmless(page)
    assert "<script>alert(1)</script>" in page.text


def test_comparison_lays_paper_ours_floor_and_ceiling_side_by_side(runs, tmp_path):
    page = compared(runs, tmp_path / "c.html")
    assert_harmless(page)
    assert "cosine 0.6250 ± 0.1414 0.1000 1.0000" in page.text.replace("\xa0", " ")
    assert "The paper prints no such number." in page.text
    assert "cosine 0.0612 0.0500 ± 0.0000 0.0500 0.1245" in page.text.replace("\xa0", " ")
    assert "tuned collapsed \N{EN DASH} 0.0500 0.0500 0.1245" in page.text
    assert tables.COLLAPSED in page.text
    assert "What differs from the paper, and why" in page.text
    assert "A note." in page.text


def test_comparison_without_the_paper_does_not_speak_of_it(runs, tmp_path):
    del runs[0]["paper"]
    page = compared(runs, tmp_path / "c.html")
    assert "The paper prints" not in page.text
    assert "What differs from the paper" not in page.text


def test_the_same_pictures_stand_under_every_network(runs, panel, tmp_path):
    wrong = panel._replace(prediction=np.zeros_like(panel.truth))
    runs[1]["panels"] = [wrong, panel._replace(title="only here")]
    page = compared(runs, tmp_path / "c.html")
    masks = [i for i in page.attributes("img") if i.get("class") == "mask"]
    assert [i["alt"] for i in masks[:3]] == [
        "truth",
        "cosine, mIoU 0.569",
        "tuned, mIoU 0.411",  # background 460 / 560, cat 0
    ]
    for image, mask in zip(masks, (panel.truth, panel.prediction, wrong.prediction), strict=False):
        with decoded(image["src"]) as image:
            np.testing.assert_array_equal(np.asarray(image), mask)
    assert "best: 000001, mIoU 0.569" in page.text


def test_comparison_plots_all_runs_and_every_confusion(runs, whole_run, tmp_path):
    for run in runs:
        run.update(rows=whole_run["rows"], confusion=whole_run["confusion"], panels=[])
    page = compared(runs, tmp_path / "c.html")
    assert [i["alt"] for i in page.attributes("img")] == [
        "Validation mIoU of all runs",
        "Train loss of all runs",
        "Validation loss of all runs",
        "confusion matrix",
        "confusion matrix",
    ]


def test_pairs_are_written_with_sign_interval_and_p(runs, tmp_path):
    pair = {"a": "cosine", "b": "tuned", "difference": 0.0512, "low": -0.01, "high": 0.1, "p": 1e-5}
    page = compared(runs, tmp_path / "c.html", pairs=[pair])
    assert "cosine against tuned +0.051 -0.010 to +0.100 < 0.001" in page.text


def test_comparison_of_bare_results(result, tmp_path):
    page = compared([{"name": "a", "result": [result]}], tmp_path / "c.html")
    assert "a 0.5250 0.1000 1.0000" in page.text
    for heading in ("Training", "The same images", "Confusion matrices", "To reproduce"):
        assert heading not in page.text


def test_large_masks_are_made_smaller_without_inventing_classes(panel):
    mask = np.kron(panel.truth, np.ones((40, 40), np.uint8))
    with decoded(pages._mask(mask, PALETTE)) as image:
        assert max(image.size) == pages.THUMB
        assert set(np.unique(np.asarray(image))) == {0, 1, 255}
