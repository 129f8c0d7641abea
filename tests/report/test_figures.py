from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fcn_jax.report import figures

NAN = float("nan")


def line_data(axes, index):
    line = axes.get_lines()[index]
    return list(line.get_xdata()), list(line.get_ydata())


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_curves_show_both_losses_and_the_best_epoch(rows):
    loss, _, _ = figures.curves(rows).axes
    assert line_data(loss, 0) == ([1, 2, 3], [2.0, 1.5, 1.0])
    assert line_data(loss, 1) == ([1, 2, 3], [2.5, 2.0, 1.5])
    assert line_data(loss, 2)[0] == [2, 2]
    assert legend(loss) == ["train", "validation", "best epoch: 2"]


def test_the_trivial_score_is_a_dashed_line_with_its_name(rows):
    result = {"trivial": {"miou": 0.0351}, "trivial_name": "majority class"}
    _, miou, _ = figures.curves(rows, result).axes
    dashed = [line for line in miou.get_lines() if line.get_linestyle() == "--"]
    assert [np.asarray(line.get_ydata()).tolist() for line in dashed] == [[0.0351, 0.0351]]
    assert legend(miou) == ["validation", "majority class", "best epoch: 2"]


def test_the_learning_rate_has_a_linear_axis_from_zero(rows):
    rows[2]["lr"] = 1e-6
    rate = figures.curves(rows).axes[2]
    assert rate.get_yscale() == "linear"
    assert rate.get_ylim()[0] == 0


def test_single_epoch_is_a_dot_on_a_whole_axis(rows):
    axes = figures.curves(rows[:1]).axes[1]
    assert axes.get_lines()[0].get_marker() == "o"
    ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    assert ticks
    assert all(t == round(t) for t in ticks)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_curves_of_any_length_are_drawn(rows, count):
    png = figures.png(figures.curves(rows[:count], {"trivial": {"miou": 0.1}}, dpi=50))
    with Image.open(BytesIO(png)) as image:
        assert image.size == (650, 190)


def test_curves_of_a_run_that_only_diverged_say_so(rows):
    for row in rows:
        row["train"]["loss"] = row["val"]["loss"] = row["val"]["miou"] = NAN
    loss, miou, _ = figures.curves(rows).axes
    for axes in (loss, miou):
        assert [text.get_text() for text in axes.texts] == ["no value"]
        assert not axes.get_lines()
    loss, *_ = figures.curves([]).axes
    assert [text.get_text() for text in loss.texts] == ["no epoch finished yet"]


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "猫", "a\nb", "<b>", "\udce9"])
def test_any_class_name_can_be_drawn(name):
    figure = figures.confusion(np.array([[3, 1], [0, 4]]), [name, "two"])
    with Image.open(BytesIO(figures.png(figure))) as image:
        assert min(image.size) > 100
    (axes,) = figure.axes
    cells = [text.get_text() for text in axes.texts]
    assert cells == ["75", "25", "100"]


def test_figures_leave_no_global_state_behind(rows):
    figures.curves(rows)
    import matplotlib._pylab_helpers as helpers

    assert helpers.Gcf.get_num_fig_managers() == 0
