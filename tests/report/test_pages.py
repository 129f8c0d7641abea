import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fcn_jax.report import charts, gallery, pages, tables
from fcn_jax.report.masks import ERROR_COLOURS

NAMES = ("background", "cat", "dog")
PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
HOSTILE = "<script>alert(1)</script>\"><img src=x onerror='alert(2)'>{{ 7*7 }}&\udce9"


class Page(HTMLParser):
    """A page taken apart: tags with attributes, and the text that a reader sees."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.open = [], [], [""]
        self.source = path.read_text("utf-8").replace("<wbr>", "")  # where a name may break
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        self.open.append("/" + tag)

    def handle_data(self, data):
        if self.open[-1] not in ("style", "title", "script"):
            self.words.append(data)

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def assert_harmless(page):
    """Nothing comes from outside; the only script is the page's own, known by its hash."""
    assert len(page.attributes("script")) == 1
    script = page.source.split("<script>")[1].split("</script>")[0]
    assert script == (pages.TEMPLATES / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = [m["content"] for m in page.attributes("meta") if "http-equiv" in m]
    assert policy[0].startswith("default-src 'none'; img-src data:")
    assert policy[0].endswith(f"script-src 'sha256-{digest}'")
    assert not page.attributes("link")
    assert not page.attributes("iframe")
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
    for image in page.attributes("img"):
        assert image["src"].startswith("data:image/")
    for link in page.attributes("a"):
        assert link["href"].startswith("./")
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "49" not in page.text.split()  # {{ 7*7 }} was not run


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
    return {**whole_run, "result": result, "panels": [panel], "history": [], "confusion": None}


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
        "mIoU 0.5250 all-background 0.1000 times all-background 5.2\N{MULTIPLICATION SIGN}"
        in report.text
    )
    assert "Collapsed" not in report.text


def test_report_shows_scores_classes_config_environment_command(report):
    for words in (
        "paper's IoU, per image 0.0500 0.0500 0.1245",
        "cat 0.250 0.700 0.778 100 0.000",
        "dog \N{EN DASH} \N{EN DASH} \N{EN DASH} 0 \N{EN DASH}",
        "optim.lr 0.0001",
        "devices.kind cpu",
        "python -m experiments.run --arch fcn",
        "parameters 1,234",
        "time 2 min 5 s",
        "Files beside this page: result.json , a b.json",
        "cat \N{RIGHTWARDS ARROW} background 30 %",
    ):
        assert words in report.text.replace("\xa0", " "), words


def test_report_bars_are_as_long_as_the_scores(report):
    widths = [i.get("style") for i in report.attributes("i")]
    assert "width:80.00%" in widths
    assert "width:25.00%" in widths


def test_masks_in_the_page_are_the_masks(report, panel):
    first, second, _ = [i["src"] for i in report.attributes("img") if i.get("class") == "mask"]
    for uri, mask in ((first, panel.truth), (second, panel.prediction)):
        with decoded(uri) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), mask)


def test_legend_of_the_page_agrees_with_the_palette(report):
    page = report.source[report.source.index("<h2>Images</h2>") :]
    page = page[page.index('<div class="legend">') :]
    legend = re.findall(r'background:(#\w{6})"></i>(\w+)<', page[: page.index("</div>")])
    expected = [("#000000", "background"), ("#800000", "cat"), ("#e0e0c0", "void")]
    assert legend == expected


def colours(theme):
    """The style sheet's colours: {name: (r, g, b)}, and the heat's largest opacity."""
    css = (pages.TEMPLATES / "base.html").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    text = {"light": light, "dark": dark.split("* {")[0]}[theme]
    found = {
        name: tuple(bytes.fromhex(value))
        for name, value in re.findall(r"--([\w-]+): #([0-9a-f]{6});", text)
    }
    heat = re.search(r"--heat: (\d+), (\d+), (\d+); --heat-most: ([\d.]+)", text)
    assert heat
    return found, tuple(map(int, heat.groups()[:3])), float(heat[4])


def contrast(one, other):
    """WCAG 2's ratio of two sRGB colours."""

    def luminance(colour):
        parts = [c / 255 for c in colour]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_confusion_matrix_are_legible_in_both_themes(theme):
    found, heat, most = colours(theme)
    for text, ground in (
        ("ink", "card"), ("ink", "page"), ("soft", "card"), ("soft", "page"), ("ours", "card"),
        ("warn", "warn-ground"),
    ):  # fmt: skip
        assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for fraction in np.linspace(0, 1, 21):
        opacity = fraction * most
        cell = [opacity * h + (1 - opacity) * g for h, g in zip(heat, found["card"], strict=True)]
        assert contrast(found["ink"], cell) >= 4.5, fraction
    for i in range(charts.COLOURS):
        assert contrast(found[f"line-{i}"], found["card"]) >= 3, i


def test_confusion_matrix_is_a_table_of_percentages(report):
    cells = [a for a in report.attributes("td") if a.get("class") in ("heat", "none")]
    assert [a.get("style", "hatched") for a in cells] == [
        "--f:0.900", "--f:0.100", "--f:0.000",
        "--f:0.300", "--f:0.700", "--f:0.000",
        "hatched", "hatched", "hatched",
    ]  # fmt: skip
    assert "background 90 10 cat 30 70 dog" in report.text


def test_confusion_matrix_of_many_classes_is_a_transparent_image():
    matrix = np.eye(50, dtype=np.int64)
    matrix[0, 1] = 3
    made = pages._confusion(matrix, [f"class {i}" for i in range(50)])
    assert made["rows"] == []
    with decoded(made["image"]) as image:
        alpha = np.asarray(image)[..., 3]
    assert (alpha[0, 0], alpha[0, 1], alpha[1, 0], alpha[1, 1]) == (64, 191, 0, 255)


def test_settings_that_were_changed_are_marked(report):
    marked = re.findall(
        r'<dt class="changed">([^<]+)</dt><dd class="changed">([^<]+)</dd>', report.source
    )
    assert marked == [("optim.lr", "0.0001")]


def test_training_images_stand_on_the_page_with_their_masks(report, panel):
    photos = [i for i in report.attributes("img") if i["alt"] == "mask over it"]
    assert len(photos) == 1
    with decoded(photos[0]["src"]) as image:
        assert image.size == (30, 20)


def test_errors_stand_beside_the_prediction(report):
    assert [i["alt"] for i in report.attributes("img")[:5]] == [
        "image", "truth", "prediction", "errors", "overlay",
    ]  # fmt: skip
    with decoded(report.attributes("img")[3]["src"]) as image:
        assert image.convert("RGB").getpixel((2, 10)) == ERROR_COLOURS["missed object"]


def test_a_finished_page_does_not_reload(report):
    assert not any(tag.get("id") == "live" for _, tag in report.tags)
    assert 'http-equiv="refresh"' not in report.source


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_live_page_says_how_old_it_is_and_reloads_while_running(data, tmp_path, state):
    before = time.time()
    live = pages.RunData(**data, live=pages.Live(state, 7.5))
    pages.write_report(live, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert_harmless(page)
    (live,) = [tag for _, tag in page.tags if tag.get("id") == "live"]
    assert live["data-state"] == state
    assert before <= float(live["data-updated"]) <= time.time()
    assert live["data-every"] == "7.5"
    refreshes = [m["content"] for m in page.attributes("meta") if m.get("http-equiv") == "refresh"]
    assert refreshes == (["8"] if state == "running" else [])


def test_collapsed_run_is_called_so(data, tmp_path):
    data["result"]["collapsed"] = True
    pages.write_report(data, tmp_path / "report.html")
    assert f"Collapsed: {tables.COLLAPSED}." in Page(tmp_path / "report.html").text


def test_report_of_the_least_possible_run(result, tmp_path):
    result["val"] = {"miou": None, "iou": {}}
    least = pages.RunData(class_names=NAMES, palette=PALETTE, result={"val": result["val"]})
    pages.write_report(least, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "mIoU \N{EN DASH}" in page.text
    assert "Training" not in page.text
    assert "Images" not in page.text


def test_report_of_one_epoch_and_a_network_without_classes_in_truth(data, rows, tmp_path):
    data["history"] = rows[:1]
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
        run.update(history=whole_run["history"], confusion=whole_run["confusion"])
        run.update(name=run["name"] + HOSTILE, note=HOSTILE)
        run["panels"] = [panel._replace(title=HOSTILE)]
        run["result"][0].update(arch=HOSTILE, seed=HOSTILE, environment={HOSTILE: HOSTILE})
    pair = {"a": HOSTILE, "b": HOSTILE, "difference": 0.1, "low": 0.0, "high": 0.2, "p": 0.01}
    page = compared(
        runs, tmp_path / "c.html", ("background", HOSTILE, "x"), title=HOSTILE, pairs=[pair],
        command=HOSTILE,
    )  # fmt: skip
    assert_harmless(page)
    assert "<script>alert(1)</script>" in page.text


def test_comparison_has_one_table_of_scores(runs, tmp_path):
    page = compared(runs, tmp_path / "c.html")
    assert_harmless(page)
    text = page.text.replace("\xa0", " ")
    assert "cosine 0.6250 ± 0.1414 0.7500 ± 0.0000 0.5000 ± 0.0000 0.6000 ± 0.0000 0.0612" in text
    assert "tuned collapsed 0.5250 0.7500 0.5000 0.6000 \N{EN DASH} 0.0500 0.2000" in text
    assert "all-background 0.1000 0.7500 0.5000 0.6000 \N{EN DASH} 0.0500" in text
    assert "perfect 1.0000 1.0000 1.0000 1.0000 \N{EN DASH} 0.1245 0.6735" in text
    assert len([t for t in page.attributes("table") if t.get("id") == "scores"]) == 1
    assert tables.COLLAPSED in text
    assert "What the paper says, and what its scripts did" in text
    assert "A note." in text


def test_comparison_shows_the_settings_that_differ(runs, tmp_path):
    runs[0]["config"] = {"optim": {"lr": 0.1, "name": "adam"}, "seed": 0}
    runs[1]["config"] = {"optim": {"lr": 0.25, "name": "adam"}, "seed": 5}
    text = compared(runs, tmp_path / "c.html").text
    assert "setting cosine tuned optim.lr 0.1 0.25 " in text
    assert "optim.name" not in text
    runs[1]["config"] = {**runs[0]["config"], "seed": 3}
    assert "Settings that differ" not in compared(runs, tmp_path / "c.html").text
    runs[0]["result"].pop()  # one seed each: it is a setting like others
    assert "setting cosine tuned seed 0 3 " in compared(runs, tmp_path / "c.html").text


def test_comparison_without_the_paper_does_not_speak_of_it(runs, tmp_path):
    del runs[0]["paper"]
    page = compared(runs, tmp_path / "c.html")
    assert "printed" not in page.text
    assert "what its scripts did" not in page.text


def test_classes_are_compared_with_mean_and_std(runs, tmp_path):
    runs[0]["result"][1]["val"]["iou"] = {"background": 0.6, "cat": 0.35, "dog": None}
    text = compared(runs, tmp_path / "c.html").text.replace("\xa0", " ")
    assert "cat 0.300 ± 0.071 0.250" in text
    assert "dog \N{EN DASH} \N{EN DASH}" in text


def test_the_same_pictures_stand_under_every_network(runs, panel, tmp_path):
    wrong = panel._replace(prediction=np.zeros_like(panel.truth))
    runs[1]["panels"] = [wrong, panel._replace(title="only here")]
    runs[0]["scores"], runs[1]["scores"] = {"000001": 0.5694}, {"000001": None}
    page = compared(runs, tmp_path / "c.html")
    masks = [i for i in page.attributes("img") if i.get("class") == "mask"]
    assert [i["alt"] for i in masks[:3]] == [
        "truth",
        "cosine, mIoU 0.569",
        "tuned, mIoU \N{EN DASH}",
    ]
    for image, mask in zip(masks, (panel.truth, panel.prediction, wrong.prediction), strict=False):
        with decoded(image["src"]) as image:
            np.testing.assert_array_equal(np.asarray(image), mask)


def test_comparison_has_charts_of_all_runs_and_every_confusion(runs, whole_run, tmp_path):
    for run in runs:
        run.update(history=whole_run["history"], confusion=whole_run["confusion"], panels=[])
    page = compared(runs, tmp_path / "c.html")
    assert page.source.count('<figure class="chart">') == 3
    assert len([t for t in page.attributes("table") if t.get("class") == "confusion large"]) == 2


def test_pairs_are_written_with_sign_interval_and_p(runs, tmp_path):
    pair = {"a": "cosine", "b": "tuned", "difference": 0.0512, "low": -0.01, "high": 0.1, "p": 1e-5}
    tiny = {**pair, "difference": -0.00003, "low": -0.00005, "high": -0.00001}
    page = compared(runs, tmp_path / "c.html", pairs=[pair, tiny])
    assert "cosine against tuned +0.0512 -0.0100 to +0.1000 < 0.001" in page.text
    assert "cosine against tuned -0.000030 -0.000050 to -0.000010 < 0.001" in page.text


def test_comparison_of_bare_results(result, tmp_path):
    del result["environment"]
    page = compared([{"name": "a", "result": [result]}], tmp_path / "c.html")
    assert "a 0.5250 0.7500" in page.text
    for heading in ("Training", "The same images", "Confusion matrices", "To reproduce"):
        assert heading not in page.text


def test_predictions_have_thumbnails_areas_and_a_filter(panel, tmp_path):
    thumbnail = gallery.thumbnail(panel.image)
    made = [
        gallery.Prediction("a/one.jpg", "a/one-overlay.jpg", thumbnail, [0.75, 0.25, 0]),
        gallery.Prediction(HOSTILE, "x y%.jpg", thumbnail, [1, 0, 0]),
    ]
    pages.write_predictions(made, tmp_path / "i.html", class_names=NAMES, palette=PALETTE)
    page = Page(tmp_path / "i.html")
    assert_harmless(page)
    cards = [tag for _, tag in page.tags if tag.get("class") == "card"]
    assert [json.loads(c["data-areas"]) for c in cards] == [{"0": 0.75, "1": 0.25}, {"0": 1}]
    assert [i["data-full"] for i in page.attributes("img")] == [
        "./a/one-overlay.jpg", "./x%20y%25.jpg",
    ]  # fmt: skip
    assert "all classes background (2 images) cat (1 image)" in page.text
    assert "a/one.jpg background 75.0 % cat 25.0 %" in page.text.replace("\xa0", " ")


@pytest.mark.parametrize(
    ("names", "heading", "shown"),
    [
        (["/a/b/1.jpg", "/a/b/c/2.jpg"], "2 images from /a/b", ["1.jpg", "c/2.jpg"]),
        (["1.jpg", "/a/2.jpg"], "2 images", ["1.jpg", "/a/2.jpg"]),
    ],
)
def test_the_folder_of_all_predicted_images_is_named_once(tmp_path, names, heading, shown):
    made = [gallery.Prediction(name, "o.jpg", b"", [1, 0, 0]) for name in names]
    pages.write_predictions(made, tmp_path / "i.html", class_names=NAMES, palette=PALETTE)
    page = Page(tmp_path / "i.html")
    assert f"{heading} Show" in page.text
    assert [i["alt"] for i in page.attributes("img")] == shown


def test_a_page_of_predictions_stays_small_enough_to_open(panel, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MOST_PREDICTIONS", 2)
    made = [gallery.Prediction(f"{i}.jpg", f"{i}.jpg", b"", [1, 0, 0]) for i in range(5)]
    pages.write_predictions(made, tmp_path / "i.html", class_names=NAMES, palette=PALETTE)
    page = Page(tmp_path / "i.html")
    assert "5 images; the first 2 are shown here" in page.text
    assert len([tag for _, tag in page.tags if tag.get("class") == "card"]) == 2


def test_large_masks_are_made_smaller_without_inventing_classes(panel):
    mask = np.kron(panel.truth, np.ones((40, 40), np.uint8))
    with decoded(pages._mask(mask, PALETTE)) as image:
        assert max(image.size) == pages.THUMB
        assert set(np.unique(np.asarray(image))) == {0, 1, 255}
