"""Progress of a training for a person: a bar for the steps, and a line that stays per epoch.

The lines are logged; a command or a notebook decides where they appear, and may colour those with
the attribute `best`. The bar is drawn on a terminal and in a notebook only, because a log file
would fill with half-drawn bars.
"""

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import jax

from fcn_jax import config as configs
from fcn_jax.runtime import files, terminal, text
from fcn_jax.training.callbacks import Callback, RunInfo, StepInfo
from fcn_jax.types import InputError

_logger = logging.getLogger(__name__)

BAR = "{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left{postfix}"
"""With loss and mIoU it fits into 80 columns."""

HEADING = ("epoch", "loss", "val loss", "mIoU", "best (epoch)", "img/s", "left")

HEADED = 20
"""Lines of epochs below one heading."""


class ProgressBar(Callback):
    """A bar of the images trained on: images/s, time left, loss, validation mIoU."""

    def on_start(self, run: RunInfo) -> None:
        """Wait for the first step, which compiles."""
        self._run, self._bar, self._miou = run, None, ""

    def on_step(self, step: StepInfo) -> None:
        """Draw it, or move it."""
        epochs, images = self._run.config.epochs, self._run.config.data.batch_size
        if self._bar is None:
            self._bar = terminal.bar(
                epochs * self._run.steps_per_epoch * images,
                initial=step.step * images,
                desc=f"epoch {step.epoch}/{epochs}",
                unit=" img",
                smoothing=0.1,
                bar_format=BAR,
            )
        self._bar.set_description_str(f"epoch {step.epoch}/{epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {step.mean_loss:.3f}{self._miou}", refresh=False)
        self._bar.update(step.step * images - self._bar.n)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Show the score."""
        self._miou = f", mIoU {text.number(row['val']['miou'], missing='-')}"

    def on_end(self, result: dict[str, Any] | None) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


class EpochLog(Callback):
    """Logs how long compiling took, and a table with a line for each epoch."""

    def on_start(self, run: RunInfo) -> None:
        """Announce the compilation."""
        self._epochs, self._best = run.config.epochs, "-"
        self._seconds: list[float] = []
        self._waited = 0.0
        self._start, self._compiling = time.monotonic(), True
        self._first = FirstStep(run.config)
        usual = self._first.last_time()
        known = "" if usual is None else f", about {text.duration(round(usual))} as the last time"
        _logger.info("compiling the training step%s ...", known)

    def on_step(self, step: StepInfo) -> None:
        """Say when the first step is done."""
        if self._compiling:
            self._compiling, self._waited = False, time.monotonic() - self._start
            _logger.info("first step after %.1f s", self._waited)
            self._first.remember(self._waited)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Log the epoch's line."""
        epoch, miou = row["epoch"], text.number(row["val"]["miou"], missing="-")
        self._best = f"{miou} ({epoch})" if best else self._best
        if len(self._seconds) % HEADED == 0:
            _logger.info("%s", _line(*HEADING))
        self._seconds.append(max(0.0, row["seconds"] - self._waited))
        self._waited = 0.0
        usual = sorted(self._seconds)[(len(self._seconds) - 1) // 2]  # without other compilations
        losses = (text.number(row[part]["loss"], missing="-") for part in ("train", "val"))
        speed = f"{row['images_per_second']:.1f}"
        left = text.duration(round(usual * (self._epochs - epoch)))
        line = _line(f"{epoch}/{self._epochs}", *losses, miou, self._best, speed, left)
        _logger.info("%s", line, extra={"best": best})


class FirstStep:
    """How long the first step of such a training took the last time on this machine.

    It is kept beside the compiled programs, which decide about it; where they are not kept, nothing
    is known.
    """

    def __init__(self, config: configs.Config):
        """Of trainings with these shapes."""
        cache, device = _cache(), jax.devices()[0]
        self._path = Path(cache) / "first-steps.json" if cache else None
        height, width = config.data.image_size
        shapes = f"{config.data.batch_size}x{height}x{width} {config.precision}"
        self._key = f"{config.model.arch} {shapes} {jax.device_count()} {device.device_kind}"

    def last_time(self) -> float | None:
        """Seconds, or None if it is not known."""
        return self._all().get(self._key)

    def remember(self, seconds: float) -> None:
        """Keep it for the next time."""
        if self._path is not None:
            with contextlib.suppress(InputError):
                files.write_json(self._path, self._all() | {self._key: seconds})

    def _all(self) -> dict[str, float]:
        try:
            known = files.read_json(self._path) if self._path else {}
            return {key: float(seconds) for key, seconds in known.items()}
        except (InputError, ValueError, TypeError, AttributeError):
            return {}  # there is none yet, or it is damaged


def _cache() -> str | None:
    return jax.config.values["jax_compilation_cache_dir"]


def _line(*cells: str) -> str:
    """A line of the table, in the order of its heading: 75 columns."""
    widths = (9, 8, 8, 6, 13, 7, 12)
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
