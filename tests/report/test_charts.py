import re
from xml.etree import ElementTree

import numpy as np
import pytest

from fcn_jax.report import charts

NAN = float("nan")


def parsed(markup):
    """The figure as a tree; the markup is well-formed XML."""
    return ElementTree.fromstring(markup)


def paths(figure, kind):
    """The path of the group or element of this class in the chart itself."""
    svg = figure.find("svg")
    found = [e for e in svg.iter() if e.get("class") == kind]
    return [p.get("d") for e in found for p in ([e] if e.tag == "path" else e.iter("path"))]


def points(path):
    return [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d.]+ [\d.-]+)", path)]


def legend(figure):
    return [span.findtext(".") or span[0].tail for span in figure.find("div").iter("span")]


@pytest.mark.parametrize("missing", [None, NAN, float("inf")])
def test_missing_values_are_gaps_and_never_the_best(rows, missing):
    rows[1]["val"]["miou"] = missing
    assert charts.best_epoch(rows) == 3
    assert np.isnan(charts.series(rows, "val", "miou")[1][1])
    assert charts.best_epoch([]) is None


def test_the_first_of_equal_epochs_is_the_best(rows):
    rows[2]["val"]["miou"] = rows[1]["val"]["miou"]
    assert charts.best_epoch(rows) == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.036, [0, 0.01, 0.02, 0.03]),
        (-3, 7, [-2, 0, 2, 4, 6]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_ticks_of_epochs_are_whole():
    assert charts.ticks(1, 3, 8, whole=True) == [1, 2, 3]


def test_a_line_lies_where_its_values_are():
    line = charts.Line("a", np.array([1.0, 2, 3]), np.array([0.0, 1, 0.5]))
    (path,) = paths(parsed(charts.line_chart("title", [line], zero=True)), "l0")
    (x1, y1), (x2, y2), (x3, y3) = points(path)
    assert (x1, x3) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert x2 == pytest.approx((x1 + x3) / 2)
    assert y1 == charts.HEIGHT - charts.BOTTOM  # zero is the floor
    assert y3 == pytest.approx((y1 + y2) / 2, abs=0.1)
    assert y2 < y3  # upwards


def test_a_line_breaks_where_a_value_is_missing():
    line = charts.Line("a", np.array([1.0, 2, 3, 4]), np.array([1.0, NAN, 2, 3]))
    (path,) = paths(parsed(charts.line_chart("title", [line])), "l0")
    assert re.sub(r"[^ML]", "", str(path)) == "MML"


def test_run_charts_name_best_epoch_and_trivial_score(rows):
    loss, miou, rate = map(parsed, charts.run_charts(rows, 0.1, "majority class"))
    assert legend(loss) == ["train", "validation", "best epoch: 2"]
    assert legend(miou) == ["validation", "majority class", "best epoch: 2"]
    assert [c.findtext("h3") for c in (loss, miou, rate)] == [
        "Loss", "Validation mIoU", "Learning rate",
    ]  # fmt: skip
    assert len(paths(miou, "level")) == len(paths(miou, "mark")) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_short_runs_have_charts_too(rows, count):
    for chart in map(parsed, charts.run_charts(rows[:count], 0.1, "x")):
        assert (chart.findtext("p") == "no epoch finished yet") == (count == 0)


def test_many_runs_differ_in_colour_or_dashes(rows):
    runs = [(f"run {i}", rows) for i in range(10)]
    chart = parsed(charts.comparison_charts(runs, None, "")[0])
    marks = [
        (group.get("class"), path.get("stroke-dasharray"))
        for group in chart.iterfind("svg//g")
        for path in group.iter("path")
    ]
    assert len(set(marks)) == len(marks) == 10
    assert legend(chart) == [name for name, _ in runs]


@pytest.mark.parametrize("name", ["<script>", "&", '"', "\udce9", "\x00"])
def test_names_stay_text(rows, name):
    chart = charts.comparison_charts([(name, rows)], 0.1, "x")[0]
    assert legend(parsed(chart.encode("utf-8", "replace").decode()))[0] == name.replace(
        "\udce9", "\ufffd"
    ).replace("\x00", "\ufffd")


def test_a_single_epoch_stands_in_the_middle_with_its_number():
    figure = parsed(charts.line_chart("Loss", [charts.Line("train", np.array([7.0]), np.ones(1))]))
    (dot,) = figure.iter("circle")
    (number,) = (t for t in figure.iter("text") if t.text == "7")
    assert dot.get("cx") == number.get("x")
    assert not [t for t in figure.iter("text") if t.text in ("6", "8")]
