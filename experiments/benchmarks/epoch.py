"""Where the time of an epoch goes: computing, input, or the host around both.

The data are a stand-in of VOC-2007's size, 209 training and 213 validation images of its shapes.
Three things are timed: a whole epoch of a real run, its steps alone on images that are there
already, and its input alone. Where no part waits for another the whole takes as long as the steps.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fcn_jax.config import CacheMode, Config
from fcn_jax.data import batches, prepare
from fcn_jax.training import loop, run_dir, setup
from fcn_jax.types import VOID, Example

COUNTS = {"train": 209, "val": 213}
SHAPES = ((375, 500), (375, 500), (500, 375), (333, 500))
CLASSES = 21


def stand_in(counts: dict[str, int] | None = None, shapes=SHAPES) -> prepare.Dataset:
    """Noise in VOC's shapes, decoded already; `counts` of images in each split."""
    rng = np.random.default_rng(0)

    def example(split: str, number: int) -> Example:
        shape = shapes[number % len(shapes)]
        mask = rng.integers(0, CLASSES, shape, np.uint8)
        mask[:8] = VOID
        return Example(f"{split}{number}", rng.integers(0, 256, (*shape, 3), np.uint8), mask)

    splits = {
        split: [example(split, number) for number in range(count)]
        for split, count in (counts or COUNTS).items()
    }
    names = tuple(f"class {number}" for number in range(CLASSES))
    return prepare.Dataset("stand-in", names, np.zeros((CLASSES, 3), np.uint8), splits)


def measure(config: Config, dataset: prepare.Dataset, cache: CacheMode) -> dict[str, Any]:
    """Seconds of one epoch: {"train", "val"} -> {"whole", "compute", "input"}.

    Args:
      config: of the run; its number of epochs does not matter.
      dataset: what it trains on.
      cache: where images are kept, one of `loader.MODES`.
    """
    made = setup.build(config, dataset, None, cache)
    size = config.data.batch_size
    rows, evaluated = made.epoch_indices(0), batches.eval_indices(len(made.val.ids), size)
    chunks = [
        np.resize(rows[i : i + made.programs.chunk], (made.programs.chunk, size))
        for i in range(0, len(rows), made.programs.chunk)
    ]
    state, key = made.initial_state(), made.train_key()

    def train(padded, taken) -> Any:
        nonlocal state
        state, values = made.programs.train(state, padded, taken, made.programs.chunk, key)
        return values

    def evaluate(padded, taken) -> Any:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return made.programs.evaluate(variables, padded, taken)

    result = {
        "train": {
            "compute": _compute(train, made.train.loader, chunks),
            "input": _input(made.train.loader, chunks),
        },
        "val": {
            "compute": _compute(evaluate, made.val.loader, evaluated),
            "input": _input(made.val.loader, evaluated),
        },
    }
    row = _last_epoch(config, dataset, cache)
    trained = made.steps_per_epoch * size / row["images_per_second"]
    # The last of the chunks is a short one, and takes as long as its steps.
    result["train"]["compute"] *= made.steps_per_epoch / (len(chunks) * made.programs.chunk)
    result["train"]["whole"], result["val"]["whole"] = trained, row["seconds"] - trained
    return result


def _last_epoch(config: Config, dataset: prepare.Dataset, cache: CacheMode) -> dict[str, Any]:
    """What a real run says of its second epoch; the first one compiles."""
    config = dataclasses.replace(config, epochs=2, patience=0)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, dataset, Path(folder) / "run", loop.Runtime(cache=cache, show=False))
        return run_dir.read_metrics(Path(folder) / "run")[-1]


def _compute(program: Callable[..., Any], load, steps: Iterable[np.ndarray]) -> float:
    """Seconds of all steps, each on the images of the first."""
    steps = list(steps)
    [(padded, taken)] = list(load(steps[:1]))
    jax.block_until_ready(program(padded, taken))
    start = time.perf_counter()
    result = None
    for _ in steps:
        result = program(padded, taken)
    jax.block_until_ready(result)
    return time.perf_counter() - start


def _input(load, steps: Iterable[np.ndarray]) -> float:
    """Seconds until all images are there, when nobody computes."""
    start = time.perf_counter()
    for padded, _ in load(list(steps)):
        jax.block_until_ready(padded)
    return time.perf_counter() - start
