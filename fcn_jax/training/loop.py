"""The training loop: epochs, validation, early stopping, checkpoints, resuming.

All that decides what happens next is in `TrainState` (on the devices) and `Progress` (on the host);
both are saved together, and everything else is a pure function of (config, epoch, step). So a run
that was interrupted and resumed ends with the same bits as one that was not; only clocks differ.
"""

import contextlib
import copy
import logging
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fcn_jax import config as configs
from fcn_jax.config import Runtime as Runtime
from fcn_jax.data import prepare
from fcn_jax.models import flops
from fcn_jax.runtime import distributed, files, machine, signals, source, text
from fcn_jax.training import evaluate, progress, run_dir, setup
from fcn_jax.training.callbacks import Callback, RunInfo
from fcn_jax.training.saving import Interrupted as Interrupted
from fcn_jax.training.saving import Progress, Saver
from fcn_jax.training.trainer import DivergedError as DivergedError
from fcn_jax.training.trainer import Trainer
from fcn_jax.types import TrainState
from fcn_jax.weights import checkpoint

_logger = logging.getLogger(progress.__name__)


def train(
    config: configs.Config,
    dataset: prepare.Dataset,
    folder: Path | str,
    runtime: Runtime | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, or resume, the run of `folder`; return what result.json holds.

    Writes config.json, metrics.jsonl, checkpoints/, and at the end eval-val.json and result.json.
    A run that has its result.json is not trained again. Several processes (see `distributed`) call
    it with the same arguments, on a file system that they share; all return the same.

    Args:
      config: the settings of the run.
      dataset: what `config.data.dataset` names, loaded.
      folder: the run folder, created if missing; one that holds the same run is resumed.
      runtime: devices, caching, saving and progress output.
      callbacks: called at the start, after steps and epochs, and at the end.

    Raises:
      InputError: for input that cannot be trained on, or a folder that holds another run.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    runtime, folder = runtime or Runtime(), Path(folder)
    config = configs.with_absolute_paths(config)
    distributed.require_backend()
    precision = jax.default_matmul_precision(configs.MATMUL_PRECISION[config.precision])
    with precision, signals.handling() as requested, contextlib.ExitStack() as held:
        # All processes decide together, because they have to stop after the same step.
        stop_requested = lambda: distributed.agree(requested())
        distributed.from_primary(lambda: held.enter_context(run_dir.claim(folder, config)))
        finished = distributed.from_primary(lambda: _finished(folder))
        if finished is not None:
            data = {"classes": list(dataset.class_names), **evaluate.identity(dataset)}
            distributed.from_primary(lambda: run_dir.check_data(folder, data))
            if runtime.show:
                _logger.info("%s holds this run, which is finished: nothing to train", folder)
            return finished
        made = setup.build(config, dataset, runtime.devices, runtime.cache)
        made.meta["origin"] = runtime.origin
        made.meta["config"] = configs.to_dict(config)
        data = {"train": made.train.ids, "val": made.val.ids, "classes": made.class_names}
        data = {**{k: list(v) for k, v in data.items()}, **made.meta["data"]}
        distributed.from_primary(lambda: run_dir.check_data(folder, data))
        checkpoints = checkpoint.Checkpoints(folder / run_dir.CHECKPOINTS)
        held.callback(checkpoints.close)
        state, done = _start(made, checkpoints)
        saver = Saver(checkpoints, folder, made.meta, stop_requested, done)
        saver.stop_if_requested(lambda: (state, done))
        distributed.from_primary(lambda: run_dir.begin(folder, config, data))
        watching = _callbacks(runtime, callbacks)
        if runtime.show:
            _log_start(made, state, done, folder)
        trainer = Trainer(made, state, done, saver, folder, runtime.save_steps, watching)
        return _watched(watching, _info(made, state, done, folder), lambda: _run(trainer, runtime))


def _watched(
    callbacks: Sequence[Callback], info: RunInfo, run: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Call `run` between the callbacks' start and end."""
    result = None
    with contextlib.ExitStack() as ends:
        for callback in callbacks:
            callback.on_start(info)
            ends.callback(lambda c=callback: c.on_end(copy.deepcopy(result)))
        result = run()
    return result


def _callbacks(runtime: Runtime, callbacks: Sequence[Callback]) -> list[Callback]:
    if not distributed.is_primary():
        return []
    shown = [progress.ProgressBar(), progress.EpochLog()] if runtime.show else []
    return [*shown, *callbacks]


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / run_dir.RESULT
    return files.read_json(path) if path.exists() else None


def _start(made: setup.Setup, checkpoints: checkpoint.Checkpoints) -> tuple[TrainState, Progress]:
    """The state to start from: the newest valid checkpoint, or a new one."""
    state = made.initial_state()
    restored = checkpoints.restore(state)
    if restored is None:
        return state, Progress()
    arrays, meta = restored
    return made.placement.put_state(arrays), Progress(**meta["progress"])


def _info(made: setup.Setup, state: TrainState, done: Progress, folder: Path) -> RunInfo:
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return RunInfo(
        made.config, folder, made.class_names, parameters, made.steps_per_epoch, done.step
    )


def _log_start(made: setup.Setup, state: TrainState, done: Progress, folder: Path) -> None:
    """A few lines on the device, the data, the network and the run."""
    config, count = made.config, text.count
    info, device = _info(made, state, done, folder), jax.devices()[0]
    sharding = made.placement.batch_sharding
    used = 1 if sharding is None else sharding.mesh.size
    void = made.train.counts[-1] / max(1, made.train.counts.sum())
    height, width = config.data.image_size
    operations = flops.forward_flops(setup.model_of(made.meta["model"]), (1, height, width, 3))
    billions = f"{operations / 1e9:{',.0f' if operations >= 1e11 else '.3g'}}"
    _logger.info("device: %d x %s, %s", used, device.device_kind, config.precision)
    _logger.info(
        "data: %s, %d train and %s, %s, %.1f %% void",
        made.meta["data"]["name"], len(made.train.ids), count(len(made.val.ids), "val image"),
        count(len(made.class_names), "class"), 100 * void,
    )  # fmt: skip
    _logger.info(
        "network: %s, %s, %s GFLOPs an image at %dx%d",
        config.model.arch, count(info.parameters, "parameter"), billions, height, width,
    )  # fmt: skip
    where = f"resumed after step {done.step} in" if done.step else "new in"
    _logger.info(
        "run: %s of %s, batches of %d, %s %s",
        count(config.epochs, "epoch"), count(made.steps_per_epoch, "step"), config.data.batch_size,
        where, folder,
    )  # fmt: skip


def _run(trainer: Trainer, runtime: Runtime) -> dict[str, Any]:
    """Train until the run is finished, evaluate the best checkpoint, write the result."""
    done, config = trainer.progress, trainer.setup.config
    trainer.saver.write_metrics(done)
    while not done.finished(config):
        trainer.train_epoch()
        trainer.stop_if_requested()
        result, best = trainer.validate()
        row = done.history[-1]
        trainer.saver.write_metrics(done)
        if best or done.epoch % runtime.save_every == 0 or done.finished(config):
            trainer.save(row["val"]["miou"])
        for callback in trainer.callbacks:
            callback.on_validation(result._replace(summary=copy.deepcopy(result.summary)))
            callback.on_epoch(copy.deepcopy(row), best)
        del result  # it may be large
        trainer.stop_if_requested()
    trainer.saver.wait()
    return _finish(trainer)


def _finish(trainer: Trainer) -> dict[str, Any]:
    """Evaluate the best checkpoint, as read back from disk, and write the result."""
    made, done, folder = trainer.setup, trainer.progress, trainer.folder
    variables, meta = checkpoint.load(folder / run_dir.CHECKPOINTS)
    result = evaluate.evaluate(
        made.programs.evaluate,
        made.placement.replicate(variables),
        made.val.loader,
        made.val.ids,
        made.class_names,
        trainer.batch_size,
        tick=trainer.stop_if_requested,
        trivial=made.trivial,
    )
    speeds = [row["images_per_second"] for row in done.history]
    config = made.config
    data = {
        **describe(config, made.meta["data"]["name"]),
        "epochs_run": done.epoch,
        "best_epoch": meta["progress"]["epoch"],
        "seconds": done.seconds,
        "images_per_second": float(np.median(speeds)),
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


def describe(config: configs.Config, dataset: str) -> dict[str, Any]:
    """What tells one run from another in its result.json."""
    return {
        "experiment": config.experiment,
        "arch": config.model.arch,
        "dataset": dataset,
        "overfit": config.data.overfit,
        "split_train": config.data.split_train,
        "seed": config.seed,
    }


def environment() -> dict[str, Any]:
    """The machine and the versions a result was made with."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": distributed.count(),
        "cpu": platform.processor() or platform.machine(),
        "cores": machine.cores(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "flax", "optax")},
        **source.versions(),
    }
