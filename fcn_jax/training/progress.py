"""Progress of a training for a person: a bar for the steps, and a line that stays per epoch.

The lines are logged; a command or a notebook decides where they appear. The bar is drawn on a
terminal and in a notebook only, because a log file would fill with half-drawn bars.
"""

import logging
import sys
import time
from typing import Any

from tqdm.auto import tqdm

from fcn_jax.training.callbacks import Callback, RunInfo, StepInfo

_logger = logging.getLogger(__name__)


class ProgressBar(Callback):
    """A bar of the images trained on: loss, validation mIoU, images/s, time left."""

    def on_start(self, run: RunInfo) -> None:
        """Draw it."""
        self._epochs, self._images = run.config.epochs, run.config.data.batch_size
        self._values: dict[str, str] = {}
        self._bar = tqdm(
            total=self._epochs * run.steps_per_epoch * self._images,
            initial=run.step * self._images,
            unit="img",
            dynamic_ncols=True,
            smoothing=0.1,
            leave=False,
            file=sys.stderr,
            disable=not (sys.stderr.isatty() or "ipykernel" in sys.modules),
        )

    def on_step(self, step: StepInfo) -> None:
        """Move it."""
        self._bar.set_description(f"epoch {step.epoch}/{self._epochs}", refresh=False)
        self._values["loss"] = f"{step.mean_loss:.3f}"
        self._bar.set_postfix(self._values, refresh=False)
        self._bar.update(self._images)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Show the score."""
        self._values["mIoU"] = _number(row["val"]["miou"]) + ("*" if best else "")
        self._bar.set_postfix(self._values)

    def on_end(self, result: dict[str, Any] | None) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


class EpochLog(Callback):
    """Logs how long compiling took, and one line for each epoch."""

    def on_start(self, run: RunInfo) -> None:
        """Announce the compilation."""
        self._epochs, self._best = run.config.epochs, "-"
        self._seconds: list[float] = []
        self._waited = 0.0
        self._start, self._compiling = time.monotonic(), True
        _logger.info("compiling the training step ...")

    def on_step(self, step: StepInfo) -> None:
        """Say when the first step is done."""
        if self._compiling:
            self._compiling, self._waited = False, time.monotonic() - self._start
            _logger.info("first step after %.1f s", self._waited)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Log the epoch's line."""
        miou = _number(row["val"]["miou"])
        self._best = f"{miou} (epoch {row['epoch']})" if best else self._best
        self._seconds.append(max(0.0, row["seconds"] - self._waited))
        self._waited = 0.0
        usual = sorted(self._seconds)[(len(self._seconds) - 1) // 2]  # without other compilations
        left = usual * (self._epochs - row["epoch"])
        _logger.info(
            "epoch %d/%d  loss %s  val loss %s  mIoU %s  best %s  %.1f img/s  %s left",
            row["epoch"], self._epochs, _number(row["train"]["loss"]), _number(row["val"]["loss"]),
            miou, self._best, row["images_per_second"], duration(left),
        )  # fmt: skip


def duration(seconds: float) -> str:
    """`9 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`, `3 classes`."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
