"""Plots: curves of one run and of many, and confusion matrices. Object API of matplotlib only."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fcn_jax.report.text import is_number, plain
from fcn_jax.runtime import files
from fcn_jax.types import first_best

Rows = Sequence[Mapping[str, Any]]


class Theme(NamedTuple):
    """The colours of a plot, on light or on dark ground."""

    ground: str
    ink: str
    faint: str
    lines: tuple[str, ...]
    heat: str
    """The full colour of a heat map, whose zero is the ground."""


LIGHT = Theme(
    "#ffffff",
    "#1d2330",
    "#c9ced8",
    ("#0067a5", "#d55e00", "#00845f", "#a8327d", "#7a5c00", "#5b4bc4", "#555555"),
    "#0b5394",
)
DARK = Theme(
    "#1a1e27",
    "#e6e9ef",
    "#454c5c",
    ("#5ab4f0", "#ff9554", "#3fd0a0", "#f08ac8", "#e0c050", "#a99cff", "#c8c8c8"),
    "#6cc0ff",
)
STYLES = ("-", "--", "-.", ":")


def series(rows: Rows, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of one nested entry of the metrics rows; NaN where a row has none."""
    epochs, values = [], []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        epochs.append(row["epoch"])
        values.append(value if is_number(value) else np.nan)
    return np.array(epochs, float), np.array(values, float)


def best_epoch(rows: Rows) -> int | None:
    """The epoch of the highest validation mIoU, the first of equals; None if no row has one."""
    epochs, values = series(rows, "val", "miou")
    best = first_best(values.tolist())
    return None if best is None else int(epochs[best])


def _figure(width: float, height: float, theme: Theme) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, facecolor=theme.ground, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    with warnings.catch_warnings():  # a class name in a script that the font lacks shows as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", facecolor=figure.get_facecolor())
    return buffer.getvalue()


def _style(axes: Axes, theme: Theme, title: str) -> None:
    axes.set_facecolor(theme.ground)
    axes.set_title(title, color=theme.ink, fontsize=12, loc="left", fontweight="bold")
    axes.tick_params(colors=theme.ink, labelsize=10)
    axes.grid(True, color=theme.faint, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("epoch", color=theme.ink, fontsize=10)


def _line(
    axes: Axes, rows: Rows, keys: tuple[str, ...], colour: str, style: str = "-"
) -> Any | None:
    """Draw one series; single epochs get a dot, for a line of one point would not be seen."""
    epochs, values = series(rows, *keys)
    known = np.isfinite(values)
    if not known.any():
        return None
    marker = "o" if known.sum() <= 30 else ""
    if len(epochs) == 1:  # else the axis would count in hundredths of an epoch
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    (line,) = axes.plot(
        epochs, values, style, color=colour, linewidth=1.7, marker=marker, markersize=3
    )
    return line


def _legend(owner: Any, entries: Sequence[tuple[Any, str]], theme: Theme, **options: Any) -> None:
    """A legend whose names are drawn as they are: no mathematics in `$`, none hidden by `_`."""
    entries = [(line, plain(name, 40)) for line, name in entries if line is not None]
    if not entries:
        return
    legend = owner.legend(
        [line for line, _ in entries],
        [f"entry {i}" for i in range(len(entries))],
        fontsize=9.5,
        labelcolor=theme.ink,
        facecolor=theme.ground,
        edgecolor=theme.faint,
        **options,
    )
    for text, (_, name) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _mark_best(axes: Axes, rows: Rows, theme: Theme) -> Any | None:
    best = best_epoch(rows)
    if best is None:
        return None
    return axes.axvline(best, color=theme.ink, linewidth=1, linestyle=":", zorder=1)


def _nothing(axes: Axes, theme: Theme, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=theme.ink, fontsize=10)


def draw_loss(axes: Axes, rows: Rows, theme: Theme) -> None:
    """Train and validation loss over epochs."""
    _style(axes, theme, "Loss")
    train = _line(axes, rows, ("train", "loss"), theme.lines[0])
    val = _line(axes, rows, ("val", "loss"), theme.lines[1])
    if train is None and val is None:
        return _nothing(axes, theme, "no epoch finished yet")
    mark = _mark_best(axes, rows, theme)
    entries = [(train, "train"), (val, "validation"), (mark, f"best epoch: {best_epoch(rows)}")]
    _legend(axes, entries, theme, loc="best")


def draw_miou(
    axes: Axes,
    rows: Rows,
    theme: Theme,
    trivial: float | None,
    trivial_name: str = "all-background",
) -> None:
    """Validation mIoU over epochs, the score of the constant prediction dashed."""
    _style(axes, theme, "Validation mIoU")
    val = _line(axes, rows, ("val", "miou"), theme.lines[1])
    floor = None
    if is_number(trivial):
        floor = axes.axhline(float(trivial or 0), color=theme.ink, linewidth=1.2, linestyle="--")
    if val is None:
        _nothing(axes, theme, "no epoch finished yet")
    else:
        axes.set_ylim(bottom=0)
    mark = _mark_best(axes, rows, theme)
    entries = [(val, "validation"), (floor, trivial_name)]
    _legend(axes, [*entries, (mark, f"best epoch: {best_epoch(rows)}")], theme, loc="best")


def draw_rate(axes: Axes, rows: Rows, theme: Theme) -> None:
    """Learning rate at the end of each epoch; a logarithmic axis if it spans a wide range."""
    _style(axes, theme, "Learning rate")
    if _line(axes, rows, ("lr",), theme.lines[2]) is None:
        return _nothing(axes, theme, "no rate logged")
    values = series(rows, "lr")[1]
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def write_curves(
    rows: Rows,
    path: str | Path,
    *,
    trivial_miou: float | None = None,
    trivial_name: str = "all-background",
) -> None:
    """Draw curves.png: loss, validation mIoU and learning rate over the epochs.

    Rows are the lines of metrics.jsonl; `trivial_miou` is the score of the constant prediction,
    drawn dashed.
    """
    figure = _figure(13, 3.8, LIGHT)
    loss, miou, rate = figure.subplots(1, 3)
    draw_loss(loss, rows, LIGHT)
    draw_miou(miou, rows, LIGHT, trivial_miou, trivial_name)
    draw_rate(rate, rows, LIGHT)
    files.write_bytes(path, _png(figure))


def curve_images(
    rows: Rows,
    theme: Theme,
    trivial_miou: float | None = None,
    trivial_name: str = "all-background",
) -> list[bytes]:
    """The three plots of `curves` as three PNGs, each wide enough to be read on a phone."""
    images = []
    for draw in (
        lambda axes: draw_loss(axes, rows, theme),
        lambda axes: draw_miou(axes, rows, theme, trivial_miou, trivial_name),
        lambda axes: draw_rate(axes, rows, theme),
    ):
        figure = _figure(4.4, 3.1, theme)
        draw(figure.subplots())
        images.append(_png(figure))
    return images


def runs_image(
    runs: Sequence[tuple[str, Rows]],
    keys: tuple[str, ...],
    title: str,
    theme: Theme,
    trivial: float | None = None,
) -> bytes:
    """One series of many runs on one plot (a PNG), the legend below; a colour and style a run."""
    figure = _figure(4.8, 3.4 + 0.2 * ((len(runs) + 2) // 2), theme)
    axes = figure.subplots()
    _style(axes, theme, title)
    entries = []
    for i, (name, rows) in enumerate(runs):
        colour = theme.lines[i % len(theme.lines)]
        style = STYLES[(i // len(theme.lines)) % len(STYLES)]
        entries.append((_line(axes, rows, keys, colour, style), name))
    if not any(line for line, _ in entries):
        _nothing(axes, theme, "no epoch finished yet")
    if is_number(trivial):
        floor = axes.axhline(float(trivial or 0), color=theme.ink, linewidth=1.2, linestyle="--")
        entries.append((floor, "all-background"))
    _legend(figure, entries, theme, loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def row_normalised(matrix: np.ndarray) -> np.ndarray:
    """Counts [K or K+1, K] -> fractions [K, K]; NaN for an empty row, void left out."""
    square = np.asarray(matrix, np.float64)[: matrix.shape[1]]
    total = square.sum(axis=1, keepdims=True)
    return np.divide(square, total, out=np.full_like(square, np.nan), where=total > 0)


def confusions(
    matrix: np.ndarray, class_names: Sequence[str], most: int = 8
) -> list[tuple[str, str, float]]:
    """The largest off-diagonal fractions: (truth, predicted as, fraction of the truth's pixels)."""
    fractions = np.nan_to_num(row_normalised(matrix))
    np.fill_diagonal(fractions, 0)
    order = np.argsort(-fractions, axis=None, kind="stable")[:most]
    pairs = [divmod(int(i), len(fractions)) for i in order]
    return [
        (class_names[t], class_names[p], float(fractions[t, p]))
        for t, p in pairs
        if fractions[t, p]
    ]


def confusion_image(matrix: np.ndarray, class_names: Sequence[str], theme: Theme) -> bytes:
    """A row-normalised confusion matrix as a heat map (a PNG); classes absent in truth hatched."""
    fractions = row_normalised(matrix)
    count = len(fractions)
    side = min(2.4 + 0.26 * count, 16)
    figure = _figure(side, side, theme)
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("heat", [theme.ground, theme.heat])
    colours = colours.with_extremes(bad=(*to_rgb(theme.faint), 0.5))
    axes.imshow(fractions, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    size = 9 if count <= 30 else 6
    names = [plain(name, 18) for name in class_names]
    labels = {"fontsize": size, "color": theme.ink, "parse_math": False}
    axes.set_xticks(range(count), names, rotation=90, **labels)
    axes.set_yticks(range(count), names, **labels)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted as (each row in % of its true pixels)", color=theme.ink, fontsize=9)
    axes.set_ylabel("truth", color=theme.ink, fontsize=9)
    for spine in axes.spines.values():
        spine.set_color(theme.faint)
    if count <= 30:
        for (row, column), fraction in np.ndenumerate(fractions):
            if fraction >= 0.005:
                ink = theme.ground if fraction > 0.5 else theme.ink
                axes.text(
                    column, row, f"{100 * fraction:.0f}", ha="center", va="center",
                    fontsize=7, color=ink,
                )  # fmt: skip
    return _png(figure)
