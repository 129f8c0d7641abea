"""Callbacks of a training: what `train` calls at its start, after steps and epochs, and at the end.

They only watch: nothing that they do changes the run. An error in one ends the training, as any
other error does; what was saved before remains. In a run of several processes only the primary
process calls them. A Weights & Biases logger in five lines:

    class WandB(Callback):
        def on_start(self, run): wandb.init(project="fcn_jax", config=to_dict(run.config))
        def on_step(self, step): wandb.log({"train/loss": step.loss}, step=step.step)
        def on_epoch(self, row, best): wandb.log({"val/miou": row["val"]["miou"]}, step=row["step"])

    train(config, dataset, folder, callbacks=[WandB()])
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fcn_jax import config as configs
from fcn_jax.types import InputError

if TYPE_CHECKING:
    from fcn_jax.training.evaluate import Evaluation


class RunInfo(NamedTuple):
    """What is known when a training starts."""

    config: configs.Config
    folder: Path
    class_names: tuple[str, ...]
    parameters: int
    steps_per_epoch: int
    step: int
    """Updates made before: 0 for a new run, more for one that is resumed."""


class StepInfo(NamedTuple):
    """A finished training step."""

    step: int
    """Updates made, this one included."""
    epoch: int
    """From 1."""
    loss: float
    grad_norm: float
    mean_loss: float
    """Of the epoch so far."""


class Callback:
    """Base class; each method does nothing unless it is overridden."""

    def on_start(self, run: RunInfo) -> None:
        """Before the first step."""

    def on_step(self, step: StepInfo) -> None:
        """After a step, in order; on an accelerator several steps are reported together."""

    def on_validation(self, result: "Evaluation") -> None:
        """After the validation of an epoch, before `on_epoch`.

        Args:
          result: the counts of each image, and the scores of constant and perfect predictions.
        """

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """After the validation of an epoch.

        Args:
          row: its line of metrics.jsonl: epoch, step, lr, train, val, seconds, images_per_second.
          best: whether it is the best epoch so far.
        """

    def on_end(self, result: dict[str, Any] | None) -> None:
        """At the end; `result` is that of result.json, or None if the run was stopped or failed."""


class TensorBoard(Callback):
    """Writes losses, scores and the configuration for TensorBoard; needs the extra `tensorboard`.

    >>> train(config, dataset, folder, callbacks=[TensorBoard()])  # doctest: +SKIP
    """

    def __init__(self, folder: Path | str | None = None):
        """Write to `folder`; None for `tensorboard` in the run's folder."""
        self._folder = folder

    def on_start(self, run: RunInfo) -> None:
        """Open the event file."""
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError:
            message = (
                "tensorboardX is not installed: install the extra tensorboard, as in README.md"
            )
            raise InputError(message) from None
        # What a run wrote between its last save and its end is made, and written, again.
        again = run.step + 1 if run.step else None
        folder = str(self._folder or run.folder / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=again)
        text = json.dumps(configs.to_dict(run.config), indent=1)
        self._writer.add_text("config", f"```\n{text}\n```", run.step)

    def on_step(self, step: StepInfo) -> None:
        """Write the loss and the gradient's norm."""
        self._writer.add_scalar("train/loss", step.loss, step.step)
        self._writer.add_scalar("train/grad_norm", step.grad_norm, step.step)

    def on_epoch(self, row: dict[str, Any], best: bool) -> None:
        """Write the scores, each class's IoU and the learning rate."""
        values = {f"val/{k}": v for k, v in row["val"].items() if isinstance(v, float)}
        values |= {f"iou/{k}": v for k, v in row["val"]["iou"].items() if v is not None}
        values |= {"lr": row["lr"], "train/epoch_loss": row["train"]["loss"]}
        for name, value in values.items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def on_end(self, result: dict[str, Any] | None) -> None:
        """Close the event file."""
        self._writer.close()
