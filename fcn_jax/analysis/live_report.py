"""The page of a run that is not finished: a callback that refreshes it."""

import logging
import threading
import time
from typing import Any

import numpy as np

from fcn_jax.analysis import run_report
from fcn_jax.config import Config
from fcn_jax.data import prepare
from fcn_jax.inference import predict
from fcn_jax.report import masks, pages
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, loop, run_dir, setup
from fcn_jax.training.callbacks import Callback, RunInfo
from fcn_jax.types import Example, InputError, first_best

PANELS = 4
"""Validation images shown, always the same ones."""

FRACTION = 0.02
"""Largest fraction of a run's time that is spent on refreshing, apart from the first page."""

_logger = logging.getLogger(__name__)


class LiveReport(Callback):
    """Writes report.html, curves.png and gallery.png of a run while it is trained.

    A page is written at the start, and after an epoch if enough time has passed since the last one
    that refreshing takes at most `FRACTION` of it: every epoch of a short run, at most every minute
    of a long one. It is made in a thread, so that training does not wait for it. Only what runs
    compiled programs is done by the thread that trains: augmenting a few images at the start, and
    predicting `PANELS` images with a new best checkpoint between epochs: during a training step,
    two devices of a CPU have deadlocked beside a prediction. Files are replaced whole: a kill
    leaves the page before.

    A page that cannot be written is logged, and does not end the run. On a full disk even that is
    left to the next save, which fails with an error.
    """

    def __init__(
        self, dataset: prepare.Dataset, command: str = "", base: Config | None = None
    ) -> None:
        """Watch a run on this data set.

        Args:
          dataset: what the run is trained on.
          command: how to repeat it, shown on the page.
          base: settings from which others are marked on the page; None: the defaults.
        """
        self._dataset, self._command, self._base = dataset, command, base
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._new_best = False
        self._panels: list[masks.Panel] = []
        self._bounds: dict[str, Any] = {}  # of the scores, as in result.json
        self._latest: np.ndarray | None = None  # confusion [K, K] of the last epoch
        self._best: tuple[int, np.ndarray | None] = (0, None)  # the best epoch, and its confusion
        self.cost = 0.0
        """Seconds that the last refresh took; without those that compiled a program."""
        self.refreshes = 0
        self._predicting = 0.0  # seconds of the last refresh that went into predicting

    def on_start(self, run: RunInfo) -> None:
        """Write a first page, of the data and the settings."""
        self._run = run
        self._environment = loop.environment()
        self._began = self._last = time.monotonic()
        self._page: dict[str, Any] = {}
        self._guarded(self._prepare)
        self._thread = threading.Thread(target=self._guarded, args=(self._first_page,))
        self._thread.start()

    def on_validation(self, result: evaluate.Evaluation) -> None:
        """Keep what metrics.jsonl does not have."""
        same = {"trivial": result.trivial, "trivial_name": result.trivial_name}
        self._bounds = {**same, "perfect": result.perfect}
        self._latest = result.counts[:, :-1].sum(0)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Refresh the page, if it is time."""
        self._new_best |= best
        if best:
            self._best = row["epoch"], self._latest
        busy = self._thread is not None and self._thread.is_alive()
        if busy or time.monotonic() - self._last < self.interval():
            return
        self._last, self._predicting = time.monotonic(), 0.0
        if self._new_best or not self._panels:
            self._guarded(self._predict)
        self._thread = threading.Thread(target=self._guarded, args=(self._refresh,))
        self._thread.start()

    def on_end(self, result: dict[str, Any] | None) -> None:
        """Write no more; say so on the page of a run that was stopped."""
        with self._writing:
            self._closed = True
        if result is None:
            self._guarded(self._write, "stopped")

    def interval(self) -> float:
        """Seconds between two refreshes, at least."""
        elapsed = time.monotonic() - self._began
        return max(self.cost / FRACTION, min(60.0, elapsed / 20))

    def wait(self) -> None:
        """Wait until a refresh in progress is done."""
        if self._thread is not None:
            self._thread.join()

    def _guarded(self, work: Any, *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:
            if not files.is_full(error):  # else the next save says so, and ends the run
                _logger.warning("the run's page could not be refreshed: %s", error)

    def _prepare(self) -> None:
        """All that stays the same."""
        run, config = self._run, self._run.config
        _, val = setup.examples(config, self._dataset)
        spaced = np.linspace(0, len(val) - 1, min(PANELS, len(val))).round().astype(int)
        self._examples: list[Example] = [val[int(i)] for i in spaced]
        self._page = run_report.page_data(
            config, self._dataset, run.parameters, self._command, self._base
        )

    def _first_page(self) -> None:
        with self._writing:
            if not self._closed:
                self._write("running")

    def _refresh(self) -> None:
        """Write everything again."""
        began = time.monotonic()
        with self._writing:
            if self._closed:
                return
            folder = self._run.folder
            run_report.write_images(folder, self._bounds, self._panels, self._dataset, dpi=100)
            self.cost = time.monotonic() - began + self._predicting
            self._write("running")
        self.cost = time.monotonic() - began + self._predicting
        self.refreshes += 1

    def _predict(self) -> None:
        """Panels of the best checkpoint on the disk; the newest may still be being written."""
        began, self._new_best = time.monotonic(), True
        try:
            restored = predict.load_checkpoint(self._run.folder)
        except InputError:  # the first one is still being written
            return
        self._new_best = restored.meta["progress"]["epoch"] < self._best[0]
        start, known = time.monotonic(), predict.programs(restored)
        first = run_report.panels_of(restored, self._examples[:1])
        compiling = time.monotonic() - start if predict.programs(restored) > known else 0.0
        self._panels = first + run_report.panels_of(restored, self._examples[1:])
        self._predicting = time.monotonic() - began - compiling

    def _write(self, state: str) -> None:
        if not self._page:  # stopped before the first page
            return
        folder, config = self._run.folder, self._run.config
        history = run_dir.read_metrics(folder)
        best = first_best([row["val"].get("miou") for row in history])
        epoch, confusion = self._best
        result = {
            **loop.describe(config, self._dataset.name),
            "epochs_run": f"{len(history)} of {config.epochs}",
            "seconds": sum(row["seconds"] for row in history) if history else None,
            "images_per_second": history[-1]["images_per_second"] if history else None,
            "val": history[best or 0]["val"] if history else {},
            "environment": self._environment,
            **self._bounds,
        }
        if best is not None:
            result["best_epoch"] = history[best]["epoch"]
        interval = self.interval()
        seconds = history[-1]["seconds"] if history else 600.0  # the first one compiles
        late = 300 + 3 * max(interval, seconds)
        data: pages.RunData = {
            **self._page,
            "result": result,
            "history": history,
            "panels": self._panels,
            "facts": [*self._page["facts"], *run_report.describe_result(result)],
            "downloads": run_report.downloads(folder),
            "live": pages.Live(state, min(60.0, max(3.0, interval)), late),
        }  # pyright: ignore[reportAssignmentType]
        if confusion is not None and epoch == result.get("best_epoch"):  # else of another process
            data["confusion"] = confusion
        pages.write_report(data, folder / "report.html")
