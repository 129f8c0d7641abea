"""Loaders: examples on the device, on the host, or decoded when needed; the batches are the same.

A loader takes the indices of the next steps and yields, for each, (padded batch, indices) such that
`batches.take` of them is the step's batch. From the device it gives the whole split and the indices
as they are; otherwise it gathers just the images that are needed, renumbered, while the step before
runs. The programs, and what they see, are the same.

With several processes each gathers the images of its own shard of the batch only; a split that is
on the device is whole on every device.

The read-ahead is one thread: decoding releases the interpreter, and one batch ahead is all that a
device can use. (A loader with worker processes needs the same indices, copies every image
between processes, and adds a dependency.)
"""

import typing
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fcn_jax.config import CacheMode
from fcn_jax.data import batches, resize_cache
from fcn_jax.data.dataset import Facts, Records, Subset, facts_of
from fcn_jax.runtime import machine
from fcn_jax.runtime.terminal import progress
from fcn_jax.types import VOID, Batch, Example, InputError

MODES = typing.get_args(CacheMode)
READ_AHEAD = 2
"""Gathered batches that wait, at most."""

Loaded = Generator[tuple[Batch, np.ndarray], None, None]

Loader = Callable[[Iterable[np.ndarray]], Loaded]
"""Indices of each step, of any shape -> (padded batch on the device, indices of that shape)."""

Put = Callable[[Any], Any]
"""A tree of host arrays -> the same on the devices."""


class Shard(NamedTuple):
    """One process's part of each batch; where there is one process, the whole."""

    local: Callable[[int], slice]
    """The length of an axis that is sharded over the devices -> this process's part of it."""
    assemble: Put
    """A tree of this process's parts -> the whole, sharded over all devices."""


@dataclass(frozen=True)
class Split:
    """A split, ready to be loaded from."""

    ids: tuple[str, ...]
    counts: np.ndarray
    """int64 [K+1]: pixels of each class and, last, of void, at full resolution."""
    mode: str
    """`device`, `host` or `none`."""
    loader: Loader


@dataclass(frozen=True)
class Budget:
    """Bytes that padded batches may take."""

    device: int
    host: int


def budget() -> Budget:
    """Half of the host's available memory, and 40 % of each device's.

    On a CPU half of the former is divided among its devices: each has a copy.
    """
    free = machine.available_memory()
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    shared = free // (4 * jax.local_device_count())
    return Budget(int(0.4 * limit) if limit else shared, free // 2)


def open_split(
    examples: Sequence[Example],
    size: tuple[int, int] | None,
    num_classes: int,
    put: Put,
    mode: str = "auto",
    limits: Budget | None = None,
    shard: Shard | None = None,
) -> Split:
    """Open a split, and keep what the mode and the memory allow.

    Images are decoded by all cores, straight into the padded batch: for the device all at once, for
    the host when they are first needed. Resized images of prepared data are kept on disk too, so
    that the next start decodes nothing, see `resize_cache`.

    Args:
      examples: decoded on access.
      size: of the padded batch, to which images are resized; None for full resolution.
      num_classes: K.
      put: to the devices.
      mode: one of `MODES`; `auto` takes the first of device, host, none that fits `limits`.
      limits: bytes, the same on all processes; None to ask the machine.
      shard: of this process; None where there is one.

    Raises:
      InputError: if a mask holds a value that is neither a class nor void.
    """
    if mode not in MODES:
        raise InputError(f"choose one of {', '.join(MODES)}", field="cache", value=mode)
    facts = facts_of(examples)
    _check_labels(facts, num_classes)
    height, width = size or tuple(facts.shapes.max(0).tolist())
    if mode == "auto":
        limits, total = limits or budget(), len(examples) * height * width * 4
        mode = "none" if total > limits.host else "device" if total <= limits.device else "host"
    shape = height, width
    decode = lambda indices: _decoded(examples, size, shape, indices)
    mapped = None if mode == "none" else _mapped(examples, size)
    if mode == "device":
        loader = cached(put(_all_decoded(examples, size, shape) if mapped is None else mapped))
    else:
        read = decode
        if mapped is not None:
            read = lambda indices: Batch(*(part[indices] for part in mapped))
        elif mode == "host":
            read = _kept(decode, len(examples), shape)
        loader = streamed(read, len(examples), put, shard)
    pixels = facts.pixels.sum(0)
    return Split(facts.ids, np.append(pixels[:num_classes], pixels[VOID]), mode, loader)


def _check_labels(facts: Facts, num_classes: int) -> None:
    wrong = np.argwhere(facts.pixels[:, num_classes:VOID])
    if len(wrong):
        index, value = wrong[0].tolist()
        raise InputError(
            f"the mask of {facts.ids[index]} holds the class id {num_classes + value}, not "
            f"0..{num_classes - 1} or {VOID} (void): fix the mask"
        )


def _mapped(examples: Sequence[Example], size: tuple[int, int] | None) -> Batch | None:
    """All examples, resized, as one padded batch mapped from the disk; None if they are not there.

    The first time they are written there, but for a small part of a split.
    """
    records, indices = examples, None
    if isinstance(examples, Subset):
        records, indices = examples.source
    if size is None or not isinstance(records, Records) or 2 * len(examples) <= len(records):
        return None
    with progress("decoding images", len(examples)) as tick:
        mapped = resize_cache.open_resized(records, size, tick)
    if mapped is None or indices is None:
        return mapped
    return Batch(*(part[np.asarray(indices)] for part in mapped))


def _all_decoded(
    examples: Sequence[Example], size: tuple[int, int] | None, shape: tuple[int, int]
) -> Batch:
    count = len(examples)
    with progress("decoding images", count) as tick:
        return _decoded(examples, size, shape, np.arange(count), tick)


def _decoded(
    examples: Sequence[Example],
    size: tuple[int, int] | None,
    shape: tuple[int, int],
    indices: np.ndarray,
    tick: Callable[[], object] = lambda: None,
) -> Batch:
    """Some examples decoded by all cores, each at the top left, black and void around it."""
    batch = batches.uninitialized(len(indices), shape)

    def fill(row: int) -> None:
        example = examples[int(indices[row])]
        if size is not None:
            example = resize_cache.resize(example, size)
        batches.put(batch, row, example)
        tick()

    with ThreadPoolExecutor(machine.cores()) as pool:
        for _ in pool.map(fill, range(len(indices))):
            pass
    return batch


def _kept(
    decode: Callable[[np.ndarray], Batch], count: int, shape: tuple[int, int]
) -> Callable[[np.ndarray], Batch]:
    """`decode` that keeps in memory what it has decoded, so that the first epoch starts at once."""
    batch, missing = batches.uninitialized(count, shape), np.ones(count, bool)

    def read(indices: np.ndarray) -> Batch:
        new = indices[missing[indices]]
        if len(new):
            for whole, part in zip(batch, decode(new), strict=True):
                whole[new] = part
            missing[new] = False
        return Batch(*(part[indices] for part in batch))

    return read


def cached(padded: Batch) -> Loader:
    """A loader of what is on the device already."""
    return lambda steps: ((padded, indices) for indices in steps)


def streamed(
    read: Callable[[np.ndarray], Batch], count: int, put: Put, shard: Shard | None = None
) -> Loader:
    """A loader that reads what each step needs, `READ_AHEAD` steps ahead, in a thread.

    Args:
      read: existing indices [n], at least one -> their images, all of one static size.
      count: of the images that exist; any other index is filler, and stays so.
      put: to the devices.
      shard: of this process; None where there is one.
    """
    whole = Shard(lambda length: slice(length), put)
    gather = partial(_gather, read, count, shard or whole)

    def load(steps: Iterable[np.ndarray]) -> Loaded:
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(1, "read-ahead") as pool:
            try:
                for indices in steps:
                    waiting.append(pool.submit(gather, indices))
                    if len(waiting) > READ_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    return load


def _gather(
    read: Callable[[np.ndarray], Batch], count: int, shard: Shard, indices: np.ndarray
) -> tuple[Batch, np.ndarray]:
    """The images of a step on the devices, those of this process, and which each index means.

    Images follow the batch's axis, which may be sharded over the devices: what a device is to take
    lies on it, but for the filler.
    """
    order = np.arange(indices.size).reshape(indices.shape[::-1]).T
    mine = indices.T.ravel()[shard.local(indices.size)]
    # At least one, or there would be no image to make the filler of.
    known = np.where(mine < count, mine, 0)
    wanted, positions = np.unique(known, return_inverse=True)
    if len(wanted) == len(known):
        padded = read(known)
    else:
        padded = Batch(*(part[positions] for part in read(wanted)))
    numbers = np.where(indices < count, order, indices.size).astype(np.int32)
    return shard.assemble(padded), numbers
