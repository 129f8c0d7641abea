"""The trainer: a run's state on the devices, and how an epoch changes it."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from fcn_jax.runtime import distributed, files
from fcn_jax.training import evaluate, precise_bn, run_dir
from fcn_jax.training.callbacks import Callback, StepInfo
from fcn_jax.training.saving import Progress, Saver
from fcn_jax.training.setup import Setup
from fcn_jax.types import Batch, InputError, TrainState, first_best


class DivergedError(InputError):
    """The loss or the gradient is no longer finite."""


class Trainer:
    """A run in progress.

    A step's losses are read back while the next one runs, so `state` is one call of the program
    ahead of `progress`; `settle` brings them together.
    """

    def __init__(
        self,
        setup: Setup,
        state: TrainState,
        progress: Progress,
        saver: Saver,
        folder: Path,
        save_steps: int = 0,
        callbacks: Sequence[Callback] = (),
    ):
        """Continue from `state`, which belongs to `progress`."""
        self.setup, self.state, self.progress = setup, state, progress
        self.saver, self.folder, self.save_steps = saver, folder, save_steps
        self.callbacks = callbacks
        self.batch_size = setup.config.data.batch_size
        self._clock = time.perf_counter()
        self._pending: list[tuple[np.ndarray, dict[str, jax.Array]]] = []
        self._compiling: float | None = None
        """Seconds until the first call of the program was compiled."""

    def train_epoch(self) -> None:
        """Train the rest of the current epoch, in chunks of steps that are one program each."""
        setup, progress = self.setup, self.progress
        self._elapsed()
        indices, key = setup.epoch_indices(progress.epoch), setup.train_key()
        first, length = progress.step - progress.epoch * setup.steps_per_epoch, setup.programs.chunk
        chunks = [
            indices[start : start + length] for start in range(first, setup.steps_per_epoch, length)
        ]
        # A chunk's static length is made by repeating it; the surplus is not trained on.
        filled = (np.resize(chunk, (length, self.batch_size)) for chunk in chunks)
        with contextlib.closing(setup.train.loader(filled)) as loaded:
            for chunk, (images, taken) in zip(chunks, loaded, strict=True):
                self.train_chunk(chunk, images, taken, key)
        self.settle()
        progress.train_seconds += self._elapsed()

    def train_chunk(
        self, chunk: np.ndarray, images: Batch, taken: np.ndarray, key: jax.Array
    ) -> None:
        """Make some steps as one program.

        Args:
          chunk: indices of the split's images, [steps, batch size].
          images: what the loader gives of them.
          taken: the same indices as `images` numbers them.
          key: that every step folds its number into.
        """
        progress = self.progress
        program = self.setup.programs.train
        self.state, values = program(self.state, images, taken, len(chunk), key)
        if self._compiling is None:
            self._compiling = time.perf_counter() - self._clock
            jax.block_until_ready(values)
            progress.warmup_steps += len(chunk)
            progress.warmup_seconds += time.perf_counter() - self._clock
        self.settle()  # the chunk before, while this one runs
        self._pending.append((chunk, values))
        progress.step += len(chunk)
        progress.train_seconds += self._elapsed()
        if self.save_steps and progress.step % self.save_steps < len(chunk):
            self.save()
        self.stop_if_requested()

    def settle(self) -> None:
        """Read the losses of the last chunk; from here on `progress` and `state` agree."""
        progress = self.progress
        for chunk, values in self._pending:
            losses, norms = (np.asarray(values[k])[: len(chunk)] for k in ("loss", "grad_norm"))
            bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(norms)))
            if bad.size:
                self._raise_diverged(chunk[bad[0]], len(chunk) - int(bad[0]), float(losses[bad[0]]))
            before = progress.step - len(chunk)
            for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
                progress.loss_sum += float(loss)
                self._report_step(before + i, float(loss), float(norm))
        if self._pending:
            self._pending.clear()
            progress.train_seconds += self._elapsed()

    def _report_step(self, step: int, loss: float, norm: float) -> None:
        if not self.callbacks:
            return
        epoch = self.progress.epoch
        mean = self.progress.loss_sum / (step - epoch * self.setup.steps_per_epoch)
        for callback in self.callbacks:
            callback.on_step(StepInfo(step, epoch + 1, loss, norm, mean))

    def _raise_diverged(self, indices: np.ndarray, back: int, loss: float) -> None:
        """Keep the offending batch for replay, and give up; the last valid checkpoint stays."""
        step = self.progress.step - back
        ids = [self.setup.train.ids[i] for i in indices]
        path = self.folder / run_dir.DIVERGED
        # The step folds its number into the key: with it, its random numbers are known.
        key = jax.random.key_data(self.setup.train_key()).tolist()
        record = {"step": step, "loss": repr(loss), "indices": indices.tolist(), "ids": ids}
        if distributed.is_primary():
            files.write_json(path, {**record, "key": key})
        raise DivergedError(
            f"the loss or its gradient is not finite at step {step} (loss {loss}, see {path}): "
            "try a lower optim.lr, an optim.clip_norm of 1, or the precision f32; "
            "the last checkpoint is kept"
        )

    def validate(self) -> tuple[evaluate.Evaluation, bool]:
        """End the epoch: evaluate, and add its row to the history.

        If a stop is requested on the way, the epoch is left without a validation, which is then
        repeated as a whole.

        Returns:
          The evaluation, and whether the epoch is the best so far.
        """
        setup, progress = self.setup, self.progress
        evaluated = self._with_precise_bn() if setup.config.bn_batches else self.state
        params, stats = evaluated.ema or (evaluated.params, evaluated.batch_stats)
        result = evaluate.evaluate(
            setup.programs.evaluate,
            {"params": params, "batch_stats": stats},
            setup.val.loader,
            setup.val.ids,
            setup.class_names,
            self.batch_size,
            tick=self.stop_if_requested,
            trivial=setup.trivial,
        )
        self.state = evaluated
        progress.epoch += 1
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": float(np.asarray(setup.schedule(progress.step - 1))),
            "train": {"loss": progress.loss_sum / setup.steps_per_epoch},
            "val": result.summary,
            "seconds": progress.train_seconds + self._elapsed(),
            "images_per_second": self._images_per_second(),
        }
        progress.seconds += row["seconds"]
        progress.loss_sum = progress.train_seconds = progress.warmup_seconds = 0.0
        progress.warmup_steps = 0
        progress.history.append(row)
        best = first_best([progress.best_miou, result.summary["miou"]]) == 1
        if best:
            progress.best_epoch, progress.best_miou = progress.epoch, result.summary["miou"]
        return result, best

    def _images_per_second(self) -> float:
        """Of the epoch's training, without the chunks that were waited for while compiling."""
        progress, steps = self.progress, self.setup.steps_per_epoch
        warmup = progress.warmup_steps, progress.warmup_seconds
        if progress.warmup_steps == steps:  # all is one chunk; on a CPU a call computes, too
            on_cpu = self.setup.programs.chunk == 1
            warmup = 0, 0.0 if on_cpu else self._compiling or 0.0
        return (steps - warmup[0]) * self.batch_size / (progress.train_seconds - warmup[1])

    def _with_precise_bn(self) -> TrainState:
        """The state with re-estimated statistics for the parameters that are evaluated.

        Training continues with it: it normalises by the batch, so nothing else depends on them.
        """
        setup, state = self.setup, self.state
        indices = setup.epoch_indices(self.progress.epoch)[: setup.config.bn_batches]
        params, stats = state.ema or (state.params, state.batch_stats)
        with contextlib.closing(setup.train.loader(indices)) as loaded:
            stats = precise_bn.estimate(setup.programs.statistics, params, stats, loaded)
        evaluated = {"ema": (params, stats)} if state.ema else {"batch_stats": stats}
        return state._replace(**evaluated)

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint in the background."""
        self.saver.save(*self._settled(), score)

    def stop_if_requested(self) -> None:
        """If a stop was requested, save and raise Interrupted."""
        self.saver.stop_if_requested(self._settled)

    def _settled(self) -> tuple[TrainState, Progress]:
        self.settle()
        return self.state, self.progress

    def _elapsed(self) -> float:
        """Seconds since the last call."""
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before
