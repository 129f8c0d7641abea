"""Matplotlib figures: the curves of a run and a confusion matrix, for files and notebooks.

Only matplotlib's object interface is used, so that a figure can be drawn in any thread and no
global state is left behind. In a notebook a `Figure` shows itself.
"""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from fcn_jax.report.charts import History, best_epoch, series
from fcn_jax.report.confusions import row_normalised
from fcn_jax.report.tables import trivial_name
from fcn_jax.runtime.text import is_number, plain
from fcn_jax.types import InputError

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    message = f"{error.name} is not installed: install the extra train, as in README.md"
    raise InputError(message) from None

INK, FAINT = "#1d2330", "#c9ced8"
COLOURS = ("#0067a5", "#d55e00", "#00845f")


def blank(width: float, height: float, dpi: int = 160) -> Figure:
    """An empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    buffer = BytesIO()
    with warnings.catch_warnings():  # a class name in a script that the font lacks shows as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plot(axes: Axes, title: str, history: History, *lines: tuple[str, ...]) -> list[str]:
    """One subplot; each line is (legend, colour, keys...). Returns the legends that were drawn."""
    axes.set_title(title, color=INK, fontsize=12, loc="left", fontweight="bold")
    axes.tick_params(colors=INK, labelsize=10)
    axes.grid(True, color=FAINT, linewidth=0.6, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("epoch", color=INK, fontsize=10)
    names = []
    for name, colour, *keys in lines:
        epochs, values = series(history, *keys)
        if not np.isfinite(values).any():
            continue
        if len(epochs) == 1:  # else the axis would count in hundredths of an epoch
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        marker = "o" if np.isfinite(values).sum() <= 30 else ""
        axes.plot(epochs, values, color=colour, linewidth=1.7, marker=marker, markersize=3)
        names.append(name)
    if not names:
        empty = "no value" if history else "no epoch finished yet"
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center")
    return names


def curves(history: History, result: Mapping[str, Any] | None = None, dpi: int = 160) -> Figure:
    """Loss, validation mIoU and learning rate over the epochs.

    Args:
      history: the lines of metrics.jsonl.
      result: as result.json; the trivial predictor's score is taken from it, a dashed line.
      dpi: pixels per inch; the figure is 13 inches wide.
    """
    figure = blank(13, 3.8, dpi)
    loss, miou, rate = figure.subplots(1, 3)
    blue, orange, green = COLOURS
    loss_names = _plot(
        loss, "Loss", history, ("train", blue, "train", "loss"),
        ("validation", orange, "val", "loss"),
    )  # fmt: skip
    miou_names = _plot(miou, "Validation mIoU", history, ("validation", orange, "val", "miou"))
    _plot(rate, "Learning rate", history, ("rate", green, "lr"))
    rate.set_ylim(bottom=0)
    floor = ((result or {}).get("trivial") or {}).get("miou")
    if is_number(floor):
        miou.axhline(floor, color=INK, linewidth=1.2, linestyle="--")
        miou_names.append(trivial_name(result or {}))
    if series(history, "val", "miou")[0].size:
        miou.set_ylim(bottom=0)
    best = best_epoch(history)
    for axes, names in ((loss, loss_names), (miou, miou_names)):
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=":")
            names.append(f"best epoch: {best}")
        if names:
            axes.legend(axes.get_lines(), names, fontsize=9.5, edgecolor=FAINT)
    return figure


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """A row-normalised confusion matrix: [K, K] counts, rows are the truth."""
    fractions = row_normalised(matrix)
    count = len(fractions)
    side = min(2.4 + 0.26 * count, 16)
    figure = blank(side, side)
    axes = figure.subplots()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [plain(name, 18) for name in class_names]
    labels = {"fontsize": 9 if count <= 30 else 6, "color": INK, "parse_math": False}
    axes.set_xticks(range(count), names, rotation=90, **labels)
    axes.set_yticks(range(count), names, **labels)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted as (each row in % of its true pixels)", color=INK, fontsize=9)
    axes.set_ylabel("truth", color=INK, fontsize=9)
    for (row, column), fraction in np.ndenumerate(fractions):
        if fraction >= 0.005 and count <= 30:
            ink = "white" if fraction > 0.5 else INK
            text = f"{100 * fraction:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    return figure
