"""The only training loop: epochs, validation, early stopping, checkpoints, resuming.

All that decides what happens next is in `TrainState` (on the device) and `Progress` (here); both
are saved together, and everything else is a pure function of (config, epoch, step). So a run that
was interrupted and resumed ends with the same bits as one that was not; only clocks differ.
"""

import contextlib
import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fcn_jax import config as configs
from fcn_jax.data import prepare
from fcn_jax.runtime import distributed, files, signals
from fcn_jax.training import evaluate, precise_bn, progress, run_dir, setup
from fcn_jax.training.options import Runtime
from fcn_jax.types import InputError, TrainState, first_best
from fcn_jax.weights import checkpoint


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
    best_epoch: int = 0
    best_miou: float | None = None
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def finished(self, config: configs.Config) -> bool:
        """Whether all epochs are done, or none of the last `patience` was better."""
        stale = self.epoch - self.best_epoch
        return self.epoch >= config.epochs or bool(config.patience and stale >= config.patience)


class Interrupted(Exception):
    """The run was asked to stop, and has saved itself."""


class DivergedError(InputError):
    """The loss or the gradient is no longer finite."""


def train(
    config: configs.Config, dataset: prepare.Dataset, folder: Path, runtime: Runtime | None = None
) -> dict[str, Any]:
    """Train, or go on with, the run of `folder`; return what result.json holds.

    Writes config.json, metrics.jsonl, checkpoints/, and at the end eval-val.json and result.json.
    A run that has its result.json is not trained again. Several processes (see `hosts`) call it
    with the same arguments, on a file system that they share; all return the same.

    Args:
      config: the run.
      dataset: what `config.data.dataset` names, loaded.
      folder: made if new; one that holds the same run is resumed.
      runtime: where and how.

    Raises:
      InputError: for input that cannot be trained on, or a folder that holds another run.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    runtime = runtime or Runtime()
    folder = Path(folder)
    distributed.require_backend()
    with _precision(config), signals.handling() as requested, contextlib.ExitStack() as held:
        # All processes ask together, because they have to stop after the same step.
        interrupted = lambda: distributed.agree(requested())
        distributed.from_primary(lambda: held.enter_context(run_dir.claim(folder, config)))
        finished = distributed.from_primary(lambda: _finished(folder))
        if finished is not None:
            if runtime.show:
                print(f"{folder} holds this run, finished: nothing to train", file=sys.stderr)
            return finished
        made = setup.build(config, dataset, runtime.devices, runtime.cache)
        made.meta["origin"] = runtime.origin
        made.meta["config"] = configs.to_dict(config)
        _check_data(folder, made)
        checkpoints = checkpoint.Checkpoints(folder / run_dir.CHECKPOINTS)
        held.callback(checkpoints.close)
        state, done = _start(made, checkpoints, runtime)
        if interrupted():
            raise Interrupted(_untouched(folder))
        run = _Run(made, state, done, checkpoints, folder, runtime, interrupted)
        run.write_metrics()
        with contextlib.closing(run.bar):
            _train(run)
        checkpoints.wait()
        result = _finish(run)
        if interrupted():  # or the answer would wait for what the caller does with the result
            raise Interrupted(f"stopped after its last step; the result is in {folder}")
        return result


def _untouched(folder: Path) -> str:
    return f"stopped before it trained; {folder} is as it was"


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / run_dir.RESULT
    return files.read_json(path) if path.exists() else None


def _precision(config: configs.Config):
    return jax.default_matmul_precision(configs.MATMUL_PRECISION[config.precision])


def _check_data(folder: Path, made: setup.Session) -> None:
    """A run may only go on with the images it began with."""
    path = folder / "data.json"
    ours = {"train": list(made.train_ids), "val": list(made.val_ids), "classes": made.class_names}
    ours = {k: list(v) for k, v in ours.items()}

    def began_with() -> dict[str, list[str]]:
        if not path.exists():
            files.write_json(path, ours)
        return files.read_json(path)

    theirs = distributed.from_primary(began_with)
    for name, values in ours.items():
        if theirs.get(name) != values:
            raise InputError(
                f"{folder}: the run began with {len(theirs.get(name, []))} {name} entries, "
                f"the data set now has {len(values)} or other ones: restore the data, or choose "
                "another --workdir"
            )


def _start(made: setup.Session, checkpoints: checkpoint.Checkpoints, runtime: Runtime):
    """The state to go on from: the newest sound checkpoint, or a fresh one."""
    state = made.initial()
    restored = checkpoints.restore(state)
    if restored is None:
        return state, Progress()
    arrays, meta = restored
    done = Progress(**meta["progress"])
    if runtime.show and not done.finished(made.config):
        print(f"going on after epoch {done.epoch}, step {done.step}", flush=True)
    return made.place(arrays), done


class _Run:
    """A run in progress: the state, what the loop remembers, and the step not yet read back."""

    def __init__(self, made, state, done, checkpoints, folder, runtime, interrupted):
        self.made, self.state, self.done = made, state, done
        self.checkpoints, self.folder, self.runtime = checkpoints, folder, runtime
        self.interrupted: Callable[[], bool] = interrupted
        self.clock = time.perf_counter()
        self.pending: list[tuple[np.ndarray, dict[str, jax.Array]]] = []
        self.saved = self.place()
        """Where it was when it was last saved, or before it began."""
        self.batch_size = made.config.data.batch_size
        self.bar = progress.Progress(
            made.config.epochs,
            made.steps_per_epoch * self.batch_size,
            done.step * self.batch_size,
            runtime.show,
        )

    def place(self) -> tuple[int, int]:
        """How far it has got: two states of a run at the same place differ in their clocks only."""
        return self.done.epoch, self.done.step

    def train_epoch(self) -> None:
        """The rest of the current epoch, in chunks of steps that are one program each."""
        made, done = self.made, self.done
        self.lap()
        rows, key = made.rows(done.epoch), made.train_key()
        first = done.step - done.epoch * made.steps_per_epoch
        starts = range(first, made.steps_per_epoch, made.chunk)
        chunks = [rows[start : start + made.chunk] for start in starts]
        with contextlib.closing(made.train_feed(self.filled(c) for c in chunks)) as fed:
            for start, chunk, (canvases, taken) in zip(starts, chunks, fed, strict=True):
                self.train_chunk(start, chunk, canvases, taken, key)
        self.settle()
        done.train_seconds += self.lap()

    def filled(self, chunk: np.ndarray) -> np.ndarray:
        """The rows of a chunk at its static length; what is too much is not trained on."""
        return np.resize(chunk, (self.made.chunk, self.batch_size))

    def train_chunk(self, start, chunk, canvases, taken, key) -> None:
        """Some steps as one program; `taken` are the chunk's rows as `canvases` numbers them."""
        done = self.done
        self.state, values = self.made.train(self.state, canvases, taken, len(chunk), key)
        self.settle()  # the chunk before, while this one runs
        self.pending.append((chunk, values))
        done.step += len(chunk)
        mean = done.loss_sum / start if start else None
        self.bar.stepped(len(chunk) * self.batch_size, done.epoch + 1, mean)
        done.train_seconds += self.lap()
        if self.runtime.save_steps and done.step % self.runtime.save_steps < len(chunk):
            self.save()
        self.stop_if_asked()

    def lap(self) -> float:
        """Seconds since the last call."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def settle(self) -> None:
        """Read the losses of the last chunk; from here on `done` and `state` agree."""
        for rows, values in self.pending:
            loss, norm = (np.asarray(values[k])[: len(rows)] for k in ("loss", "grad_norm"))
            bad = np.flatnonzero(~(np.isfinite(loss) & np.isfinite(norm)))
            if bad.size:
                self.diverged(rows[bad[0]], len(rows) - int(bad[0]), float(loss[bad[0]]))
            for value in loss:
                self.done.loss_sum += float(value)
        if self.pending:
            self.pending.clear()
            self.done.train_seconds += self.lap()

    def diverged(self, rows: np.ndarray, back: int, loss: float) -> None:
        """Keep the offending batch for replay, and give up; the last good checkpoint stays."""
        step = self.done.step - back
        ids = [self.made.train_ids[i] for i in rows]
        path = self.folder / "diverged.json"
        # The step folds its number into the key: with it, its random numbers are known.
        key = jax.random.key_data(self.made.train_key()).tolist()
        record = {"step": step, "loss": repr(loss), "rows": rows.tolist(), "ids": ids, "key": key}
        if distributed.is_primary():
            files.write_json(path, record)
        raise DivergedError(
            f"the loss or its gradient is not finite at step {step} (loss {loss}, see {path}): "
            "try a lower --lr, --clip-norm 1, or --precision f32; the last checkpoint is kept"
        )

    def validate(self) -> bool:
        """End the epoch: evaluate, add its row to the history, say whether it is the best.

        Asked to stop on the way, it leaves the epoch unjudged: all of it is done again.
        """
        made, done = self.made, self.done
        judged = self.with_precise_bn() if made.config.bn_batches else self.state
        params, stats = judged.ema or (judged.params, judged.batch_stats)
        result = evaluate.evaluate(
            made.evaluate,
            {"params": params, "batch_stats": stats},
            made.val_feed,
            made.val_ids,
            made.class_names,
            self.batch_size,
            tick=self.stop_if_asked,
        )
        self.state = judged
        done.epoch += 1
        row = {
            "epoch": done.epoch,
            "step": done.step,
            "lr": float(made.schedule(done.step - 1)),
            "train": {"loss": done.loss_sum / made.steps_per_epoch},
            "val": result.summary,
            "seconds": done.train_seconds + self.lap(),
            "images_per_second": made.steps_per_epoch * self.batch_size / done.train_seconds,
        }
        done.seconds += row["seconds"]
        done.loss_sum = done.train_seconds = 0.0
        done.history.append(row)
        miou = result.summary["miou"]
        better = first_best([done.best_miou, miou]) == 1
        if better:
            done.best_epoch, done.best_miou = done.epoch, miou
        return better

    def with_precise_bn(self) -> TrainState:
        """The state with new statistics beside the parameters that are judged.

        Training goes on with it: it normalises by the batch, so nothing else depends on them.
        """
        made, state = self.made, self.state
        rows = made.rows(self.done.epoch)[: made.config.bn_batches]
        params, stats = state.ema or (state.params, state.batch_stats)
        with contextlib.closing(made.train_feed(rows)) as fed:
            stats = precise_bn.estimate(made.statistics, params, stats, fed)
        judged = {"ema": (params, stats)} if state.ema else {"batch_stats": stats}
        return state._replace(**judged)

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint in the background."""
        self.settle()
        meta = {**self.made.meta, "progress": dataclasses.asdict(self.done)}
        self.checkpoints.save(self.state, meta, score)
        self.saved = self.place()

    def write_metrics(self) -> None:
        """Write metrics.jsonl."""
        if distributed.is_primary():
            run_dir.write_metrics(self.folder, self.done.history)

    def stop_if_asked(self) -> None:
        """Where it is asked to stop, save what is not saved yet, and leave.

        To be called after every save too: it may have taken longer than a step.
        """
        if self.interrupted():
            if self.saved != self.place():
                self.save()
            self.leave()

    def farewell(self) -> str:
        """What is said where no more is to be saved."""
        step = self.saved[1]
        if not step:
            return _untouched(self.folder)
        return f"stopped after step {step}; saved in {self.folder}"

    def leave(self) -> None:
        """Stop, once what is being saved has been."""
        self.checkpoints.wait()
        raise Interrupted(self.farewell())


def _train(run: _Run) -> None:
    """Epochs until the run is finished."""
    done, config = run.done, run.made.config
    while not done.finished(config):
        run.train_epoch()
        run.stop_if_asked()
        better = run.validate()
        row = done.history[-1]
        run.bar.validated(row, better)
        run.write_metrics()
        if better or done.epoch % run.runtime.save_every == 0 or done.finished(config):
            run.save(row["val"]["miou"])
        run.stop_if_asked()


def _finish(run: _Run) -> dict[str, Any]:
    """Evaluate the best checkpoint, as read back from disk, and write the result."""
    made, done, folder = run.made, run.done, run.folder
    variables, meta = checkpoint.load(folder / run_dir.CHECKPOINTS)  # by all, as orbax wants it
    result = evaluate.evaluate(
        made.evaluate,
        made.replicate(variables),
        made.val_feed,
        made.val_ids,
        made.class_names,
        run.batch_size,
        tick=lambda: run.leave() if run.interrupted() else None,
        trivial=made.trivial,
    )
    speeds = [row["images_per_second"] for row in done.history]
    config = made.config
    data = {
        "experiment": config.experiment,
        "arch": config.model.arch,
        "dataset": config.data.dataset,
        "overfit": config.data.overfit,
        "split_train": config.data.split_train,
        "seed": config.seed,
        "epochs_run": done.epoch,
        "best_epoch": meta["progress"]["epoch"],
        "seconds": done.seconds,
        # The first epoch pays for compiling.
        "images_per_second": float(np.median(speeds[1:] or speeds)),
        "val": result.summary,
        "trivial": result.trivial,
        "trivial_name": result.trivial_name,
        "perfect": result.perfect,
        "collapsed": result.collapsed,
        "environment": environment(),
    }

    def write() -> dict[str, Any]:
        evaluate.save(result, folder)
        files.write_json(folder / run_dir.RESULT, data)
        return data

    return distributed.from_primary(write)


def environment() -> dict[str, Any]:
    """The machine and the versions a result was made with."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": distributed.count(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "flax", "optax")},
    }
