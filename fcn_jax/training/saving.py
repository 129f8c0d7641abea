"""Saving a run, and stopping it.

A run that is asked to stop finishes its step, saves what is not saved yet, and raises
`Interrupted` with a message that says how far it has come.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcn_jax import config as configs
from fcn_jax.runtime import distributed
from fcn_jax.training import run_dir
from fcn_jax.types import TrainState
from fcn_jax.weights.checkpoint import Checkpoints


@dataclass
class Progress:
    """What the loop remembers on the host; JSON values, saved with every checkpoint."""

    epoch: int = 0
    """Epochs completed and validated."""
    step: int = 0
    """Updates made."""
    loss_sum: float = 0.0
    """Of the steps of the unfinished epoch, added in order."""
    train_seconds: float = 0.0
    """Spent on the steps of the unfinished epoch."""
    warmup_steps: int = 0
    warmup_seconds: float = 0.0
    """Of them, those of each process's first chunk, which compiles."""
    best_epoch: int = 0
    best_miou: float | None = None
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def finished(self, config: configs.Config) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better."""
        stale = self.epoch - self.best_epoch
        return self.epoch >= config.epochs or bool(config.patience and stale >= config.patience)

    def position(self) -> tuple[int, int]:
        """Two states of a run at the same position differ in their clocks only."""
        return self.epoch, self.step


class Interrupted(Exception):
    """The run was asked to stop, and has saved itself."""


class Saver:
    """Writes a run's checkpoints and metrics, and stops it."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        folder: Path,
        meta: dict[str, Any],
        stop_requested: Callable[[], bool],
        progress: Progress,
    ):
        """Make the saver of a run that is saved as far as `progress` says."""
        self._checkpoints, self._folder, self._meta = checkpoints, folder, meta
        self._stop_requested = stop_requested
        self._saved = progress.position()

    def save(self, state: TrainState, progress: Progress, score: float | None = None) -> None:
        """Write a checkpoint in the background."""
        meta = {**self._meta, "progress": dataclasses.asdict(progress)}
        self._checkpoints.save(state, meta, score)
        self._saved = progress.position()

    def wait(self) -> None:
        """Return when nothing is being written; raise what the last save met."""
        self._checkpoints.wait()

    def write_metrics(self, progress: Progress) -> None:
        """Write metrics.jsonl."""
        if distributed.is_primary():
            run_dir.write_metrics(self._folder, progress.history)

    def stop_if_requested(self, read: Callable[[], tuple[TrainState, Progress]]) -> None:
        """If a stop was requested, save what is not saved yet and raise Interrupted.

        To be called after every save too, which may have taken longer than a step.

        Args:
          read: gives the state and the progress, which belong together.
        """
        if not self._stop_requested():
            return
        state, progress = read()
        if self._saved != progress.position():
            self.save(state, progress)
        self._checkpoints.wait()
        raise Interrupted(
            f"stopped after step {progress.step}; saved in {self._folder}"
            if progress.step
            else f"stopped before the first step; {self._folder} is as it was"
        )
