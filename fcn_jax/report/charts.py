"""Line charts as inline SVG: sharp at any size, in the colours of the page's theme, and cheap.

A chart of a page takes a millisecond, a matplotlib figure some 200; pages are written while a
network trains. `figures` draws the same with matplotlib, for files and notebooks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape

from fcn_jax.runtime.text import is_number, plain
from fcn_jax.types import first_best

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 60, 10, 10, 38
COLOURS = 7
"""Line colours that the page's style sheet defines, `line-0` and on; then dashes tell apart."""

DASHES = ("", "7 4", "2 3", "7 3 2 3")

MARKERS = 60
"""Lines of at most so many points get a dot for each, with its value as a tooltip."""

History = Sequence[Mapping[str, Any]]
"""The lines of metrics.jsonl, one an epoch."""


class Line(NamedTuple):
    """One series of a chart; NaN is a gap."""

    name: str
    x: np.ndarray
    y: np.ndarray


def series(history: History, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of one nested entry of the history; NaN where an epoch has none."""
    epochs, values = [], []
    for row in history:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        epochs.append(row["epoch"])
        values.append(value if is_number(value) else np.nan)
    return np.array(epochs, float), np.array(values, float)


def best_epoch(history: History) -> int | None:
    """The epoch of the highest validation mIoU, the first of equals; None if no epoch has one."""
    epochs, values = series(history, "val", "miou")
    best = first_best(values.tolist())
    return None if best is None else int(epochs[best])


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high], about `count`."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(f * power for f in (1, 2, 5, 10) if span / (f * power) <= count)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame(NamedTuple):
    """The ranges that a chart shows, and where a point of them lies."""

    first: float
    last: float
    low: float
    high: float
    alone: bool
    """Whether there is one epoch, which stands in the middle."""

    def x(self, epoch: float) -> float:
        """From the left, in units of the view box."""
        part = (epoch - self.first) / (self.last - self.first)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """From the top."""
        part = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        """Grid lines and numbers."""
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 3}" class="center">epoch</text>']
        for value in ticks(self.low, self.high):
            y, number = f"{self.y(value):.1f}", f"{value:.4g}"
            parts.append(f'<path class="grid" d="M{LEFT} {y}H{right}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".35em" class="end">{number}</text>')
        epochs = ticks(self.first, self.last, 8, whole=True)
        for value in [(self.first + self.last) / 2] if self.alone else epochs:
            x = f"{self.x(value):.1f}"
            parts.append(f'<text x="{x}" y="{floor + 17}" class="center">{value:.0f}</text>')
        return parts


def _frame(lines: Sequence[Line], level: float | None, zero: bool) -> _Frame:
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    values = np.append(values, ([] if level is None else [level]) + ([0.0] if zero else []))
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    epochs = np.concatenate([line.x for line in lines])
    first, last = float(epochs.min()), float(epochs.max())
    alone = first == last
    return _Frame(first - alone, last + alone, low if zero else low - margin, high + margin, alone)


def line_chart(
    title: str,
    lines: Sequence[Line],
    level: tuple[str, float] | None = None,
    mark: tuple[str, float] | None = None,
    zero: bool = False,
) -> Markup:
    """A figure with title, axes over the epochs, lines and a legend.

    Args:
      title: above it.
      lines: with at least one number, or the chart says that there is none yet.
      level: (name, value) of a dashed horizontal line.
      mark: (name, epoch) of a dotted vertical line.
      zero: whether the axis starts at zero; no value may be below then.
    """
    known = [line for line in lines if np.isfinite(line.y).any()]
    if not known:
        empty = "no epoch finished yet" if not any(line.y.size for line in lines) else "no value"
        return _figure(title, Markup('<p class="soft">{}</p>').format(empty), [])
    frame = _frame(known, level[1] if level else None, zero)
    parts = frame.axes()
    legend = [(f"l{i % COLOURS}", _dash(i), line.name) for i, line in enumerate(lines)]
    if level:
        parts.append(f'<path class="level" d="M{LEFT} {frame.y(level[1]):.1f}H{WIDTH - RIGHT}"/>')
        legend.append(("level", "", level[0]))
    if mark:
        parts.append(f'<path class="mark" d="M{frame.x(mark[1]):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        legend.append(("mark", "", mark[0]))
    parts += [_line(line, i, frame) for i, line in enumerate(lines) if np.isfinite(line.y).any()]
    label = escape(plain(title))
    open_tag = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    return _figure(title, Markup(f"{open_tag}{''.join(parts)}</svg>"), legend)


def _dash(index: int) -> str:
    return DASHES[index // COLOURS % len(DASHES)]


def _line(line: Line, index: int, frame: _Frame) -> str:
    """One path, broken where values are missing, and the dots of a short line."""
    path, pen = [], "M"
    for epoch, value in zip(line.x, line.y, strict=True):
        if np.isfinite(value):
            path.append(f"{pen}{frame.x(epoch):.1f} {frame.y(value):.1f}")
        pen = "L" if np.isfinite(value) else "M"
    dots = [
        f'<circle cx="{frame.x(e):.1f}" cy="{frame.y(v):.1f}" r="2.5">'
        f"<title>{escape(plain(line.name))}, "
        f"epoch {e:.0f}: {v:.4g}</title></circle>"
        for e, v in zip(line.x, line.y, strict=True)
        if np.isfinite(v) and len(line.x) <= MARKERS
    ]
    dash = f' stroke-dasharray="{_dash(index)}"' if _dash(index) else ""
    return f'<g class="l{index % COLOURS}"><path{dash} d="{"".join(path)}"/>{"".join(dots)}</g>'


def _figure(title: str, body: Markup, legend: Sequence[tuple[str, str, str]]) -> Markup:
    """Everything around a chart; legend entries are (class, dashes, name)."""
    keys = "".join(
        f'<span><svg class="swatch" viewBox="0 0 24 8"><g class="{kind}"><path d="M0 4H24"'
        f' stroke-dasharray="{dash}"/></g></svg>{escape(plain(name, 40))}</span>'
        for kind, dash, name in legend
    )
    caption = f"<h3>{escape(plain(title))}</h3>"
    return Markup(f'<figure class="chart">{caption}{body}<div class="legend">{keys}</div></figure>')


def run_charts(history: History, trivial: Any = None, trivial_name: str = "") -> list[Markup]:
    """Loss, validation mIoU and learning rate of one run."""
    best = best_epoch(history)
    mark = None if best is None else (f"best epoch: {best}", float(best))
    level = (trivial_name, float(trivial)) if is_number(trivial) else None
    losses = [
        Line("train", *series(history, "train", "loss")),
        Line("validation", *series(history, "val", "loss")),
    ]
    return [
        line_chart("Loss", losses, mark=mark),
        line_chart(
            "Validation mIoU", [Line("validation", *series(history, "val", "miou"))], level, mark,
            zero=True,
        ),
        line_chart("Learning rate", [Line("at the end of the epoch", *series(history, "lr"))],
                   zero=True),
    ]  # fmt: skip


def comparison_charts(
    runs: Sequence[tuple[str, History]], trivial: float | None, trivial_name: str
) -> list[Markup]:
    """Validation mIoU and both losses of several runs, a colour and style each."""
    level = None if trivial is None else (trivial_name, trivial)
    plots = (
        ("Validation mIoU", ("val", "miou"), level, True),
        ("Train loss", ("train", "loss"), None, False),
        ("Validation loss", ("val", "loss"), None, False),
    )
    return [
        line_chart(title, [Line(name, *series(rows, *keys)) for name, rows in runs], floor,
                   zero=zero)
        for title, keys, floor, zero in plots
    ]  # fmt: skip
