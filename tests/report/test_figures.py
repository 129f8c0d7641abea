from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fcn_jax.report import figures

NAN = float("nan")


def axes_with(draw, *arguments):
    axes = Figure().subplots()
    draw(axes, *arguments)
    return axes


def shown(axes):
    """{legend text: (xs, ys) of its line}."""
    legend = axes.get_legend()
    lines = legend.legend_handles if legend else []
    texts = [text.get_text() for text in legend.get_texts()] if legend else []
    return dict(zip(texts, lines, strict=True))


def line_data(axes, index):
    line = axes.get_lines()[index]
    return list(line.get_xdata()), list(line.get_ydata())


def size(png: bytes):
    with Image.open(BytesIO(png)) as image:
        return image.size


def pixels(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def test_loss_plot_shows_both_losses_and_the_best_epoch(rows):
    axes = axes_with(figures.draw_loss, rows, figures.LIGHT)
    assert line_data(axes, 0) == ([1, 2, 3], [2.0, 1.5, 1.0])
    assert line_data(axes, 1) == ([1, 2, 3], [2.5, 2.0, 1.5])
    assert line_data(axes, 2)[0] == [2, 2]
    assert list(shown(axes)) == ["train", "validation", "best epoch: 2"]


def test_miou_plot_has_the_all_background_score_dashed(rows):
    axes = axes_with(figures.draw_miou, rows, figures.LIGHT, 0.0351)
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[0.0351, 0.0351]]
    assert "all-background" in shown(axes)


@pytest.mark.parametrize("missing", [None, NAN])
def test_missing_values_are_gaps_and_never_the_best(rows, missing):
    rows[1]["val"]["miou"] = missing
    assert figures.best_epoch(rows) == 3
    assert np.isnan(figures.series(rows, "val", "miou")[1][1])
    assert figures.best_epoch([]) is None


def test_the_first_of_equal_epochs_is_the_best(rows):
    rows[2]["val"]["miou"] = rows[1]["val"]["miou"]
    assert figures.best_epoch(rows) == 2


def test_single_epoch_is_a_dot_on_a_whole_axis(rows):
    axes = axes_with(figures.draw_miou, rows[:1], figures.LIGHT, None)
    assert axes.get_lines()[0].get_marker() == "o"
    ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
    assert ticks
    assert all(t == round(t) for t in ticks)


def test_rates_over_decades_get_a_logarithmic_axis(rows):
    assert axes_with(figures.draw_rate, rows, figures.LIGHT).get_yscale() == "linear"
    rows[2]["lr"] = 1e-6
    assert axes_with(figures.draw_rate, rows, figures.LIGHT).get_yscale() == "log"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_curves_draw_runs_of_any_length(tmp_path, rows, count):
    figures.write_curves(rows[:count], tmp_path / "curves.png", trivial_miou=0.1)
    width, height = size((tmp_path / "curves.png").read_bytes())
    assert width > 2 * height > 0


def test_curves_draw_a_run_that_only_diverged(tmp_path, rows):
    for row in rows:
        row["train"]["loss"] = row["val"]["loss"] = row["val"]["miou"] = NAN
    figures.write_curves(rows, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "猫", "a\nb", "<b>", "\udce9"])
def test_any_name_can_be_drawn(rows, name):
    line_plot = figures.runs_image(
        [(name, rows), ("two", rows)], ("val", "miou"), "mIoU", figures.DARK, 0.1
    )
    matrix = figures.confusion_image(np.eye(2, dtype=np.int64), [name, "two"], figures.LIGHT)
    for image in (line_plot, matrix):
        assert min(pixels(image).shape[:2]) > 100
        assert len(np.unique(pixels(image).reshape(-1, 3), axis=0)) > 10  # something is drawn


def test_names_with_underscore_or_dollar_reach_the_legend_unchanged(rows):
    axes = Figure().subplots()
    (line,) = axes.plot([1], [1])
    figures._legend(axes, [(line, "_a$b$")], figures.LIGHT)
    (text,) = axes.get_legend().get_texts()
    assert text.get_text() == "_a$b$"
    assert text.get_parse_math() is False


def test_rows_are_normalised_void_left_out_and_absent_classes_unknown():
    counts = np.array([[3, 1, 0], [0, 0, 0], [1, 1, 2], [9, 9, 9]])
    expected = [[0.75, 0.25, 0], [NAN] * 3, [0.25, 0.25, 0.5]]
    np.testing.assert_allclose(figures.row_normalised(counts), expected)


def test_largest_confusions_come_first():
    counts = np.array([[6, 4, 0], [0, 0, 0], [1, 1, 8]])
    pairs = figures.confusions(counts, ["a", "b", "c"], most=2)
    assert pairs == [("a", "b", 0.4), ("c", "a", 0.1)]
    assert figures.confusions(np.eye(3), ["a", "b", "c"]) == []


def test_drawing_leaves_no_global_figure_behind(tmp_path, rows):
    figures.write_curves(rows, tmp_path / "curves.png")
    import matplotlib._pylab_helpers as helpers

    assert helpers.Gcf.get_num_fig_managers() == 0
