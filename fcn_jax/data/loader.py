"""Canvases on the device, on the host or decoded when wanted: the same batches in every mode.

A feed takes the rows of the next steps and yields, for each, (canvases, rows) such that
`batches.take` of them is the batch. From the device it hands out the whole split and the rows as
they are; otherwise it gathers just the rows that are wanted, numbered anew, while the step before
runs. The programs, and what they see, are the same.

With several processes each gathers the canvases of its own share of the batch only; a split that is
on the device is whole on every device.

The read-ahead is one thread: decoding releases the interpreter, and one batch ahead is all that a
device can use. (A loader with processes would have to be told the same rows, pays for copying every
picture between processes, and adds a dependency.)
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fcn_jax.data import batches, resize_cache
from fcn_jax.data.dataset import Records, Subset, facts_of
from fcn_jax.data.progress import progress
from fcn_jax.types import VOID, Batch, Example, InputError

MODES = ("auto", "device", "host", "none")
READ_AHEAD = 2
"""Gathered batches that wait, at most."""

Fed = Generator[tuple[Batch, np.ndarray], None, None]

Feed = Callable[[Iterable[np.ndarray]], Fed]
"""Rows of each step, of any shape -> (canvases on the device, rows of the same shape)."""

Put = Callable[[Any], Any]
"""A tree of host arrays -> the same on the devices."""


class Share(NamedTuple):
    """One process's part of what is fed, where there are several."""

    own: Callable[[int], slice]
    """The length of an axis that is spread over the devices -> this process's part of it."""
    assemble: Put
    """A tree of this process's parts -> the whole, spread over all devices."""


@dataclass(frozen=True)
class Split:
    """A split, ready to be fed."""

    ids: tuple[str, ...]
    counts: np.ndarray
    """int64 [K+1]: pixels of each class and, last, of void, at full resolution."""
    mode: str
    """`device`, `host` or `none`."""
    feed: Feed


@dataclass(frozen=True)
class Budget:
    """Bytes that canvases may take."""

    device: int
    host: int


def budget() -> Budget:
    """Half of the host's free memory, and 40 % of each device's.

    On a CPU half of the former is shared out among its devices: each has a copy of its own.
    """
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        free = 4 * 2**30
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
    share: Share | None = None,
) -> Split:
    """Open a split, and keep what the mode and the memory allow.

    What is kept is decoded by all cores, straight into the padded batch; resized images of prepared
    data are kept on disk too, so that the next start decodes nothing, see `resize_cache`.

    Args:
      examples: decoded on access.
      size: of the padded batch, to which images are resized; None for full resolution.
      num_classes: K.
      put: to the devices.
      mode: one of `MODES`; `auto` takes the first of device, host, none that fits `limits`.
      limits: bytes, the same on all processes; None to ask the machine.
      share: of this process; None for all.
    """
    if mode not in MODES:
        raise InputError(f"choose one of {', '.join(MODES)}", field="cache", value=mode)
    facts = facts_of(examples)
    height, width = size or tuple(facts.shapes.max(0).tolist())
    if mode == "auto":
        limits, total = limits or budget(), len(examples) * height * width * 4
        mode = "none" if total > limits.host else "device" if total <= limits.device else "host"
    if mode == "none":

        def read(rows: np.ndarray) -> Batch:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                found = list(pool.map(lambda row: _sized(examples[int(row)], size), rows))
            return batches.full_resolution(found, (height, width))

        feed = streamed(read, len(examples), put, share)
    else:
        canvases = _resident(examples, size, (height, width))
        feed = cached(put(canvases)) if mode == "device" else hosted(canvases, put, share)
    pixels = facts.pixels.sum(0)
    return Split(facts.ids, np.append(pixels[:num_classes], pixels[VOID]), mode, feed)


def _resident(
    examples: Sequence[Example], size: tuple[int, int] | None, shape: tuple[int, int]
) -> Batch:
    """All examples as one padded batch in memory, or mapped from the disk."""
    records, indices = examples, None
    if isinstance(examples, Subset):
        records, indices = examples.source
    with progress("decoding images", len(examples)) as tick:
        # For a small part of a split it is not worth to write all of it.
        if size is not None and isinstance(records, Records) and 2 * len(examples) > len(records):
            mapped = resize_cache.open_resized(records, size, tick)
            if mapped is not None:
                if indices is None:
                    return mapped
                return Batch(*(part[np.asarray(indices)] for part in mapped))
        return _decoded(examples, size, shape, tick)


def _decoded(
    examples: Sequence[Example],
    size: tuple[int, int] | None,
    shape: tuple[int, int],
    tick: Callable[[], object],
) -> Batch:
    """All examples decoded by all cores, each at the top left, black and void around it."""
    count = len(examples)
    batch = Batch(
        np.zeros((count, *shape, 3), np.uint8),
        np.full((count, *shape), VOID, np.uint8),
        np.zeros((count, 2), np.int32),
    )

    def fill(index: int) -> None:
        example = _sized(examples[index], size)
        rows, columns = example.mask.shape
        batch.image[index, :rows, :columns] = example.image
        batch.mask[index, :rows, :columns] = example.mask
        batch.size[index] = rows, columns
        tick()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(fill, range(count)):
            pass
    return batch


def _sized(example: Example, size: tuple[int, int] | None) -> Example:
    return example if size is None else resize_cache.resize(example, size)


def cached(canvases: Batch) -> Feed:
    """A feed of canvases that are on the device already."""
    return lambda steps: ((canvases, rows) for rows in steps)


def hosted(canvases: Batch, put: Put, share: Share | None = None) -> Feed:
    """A feed of canvases in the host's memory."""
    take = lambda rows: Batch(*(part[rows] for part in canvases))
    return streamed(take, len(canvases.mask), put, share)


def streamed(
    read: Callable[[np.ndarray], Batch], count: int, put: Put, share: Share | None = None
) -> Feed:
    """A feed that reads what each step wants, `READ_AHEAD` steps ahead, in a thread.

    Args:
      read: existing rows [n] -> their canvases, at least one row, all of one static size.
      count: of the rows that exist; any other is filler, and stays so.
      put: to the devices.
      share: of this process; None for all.
    """

    def gather(rows: np.ndarray) -> tuple[Batch, np.ndarray]:
        if share is not None:
            return gather_share(rows, share)
        wanted, places = np.unique(rows, return_inverse=True)
        found = read(wanted[wanted < count])
        # Filled up to a static length, so that one program serves every step; none of it is taken.
        spare = rows.size - len(found.mask)
        canvases = Batch(*(np.pad(a, ((0, spare), *((0, 0),) * (a.ndim - 1))) for a in found))
        numbers = np.where(rows < count, places.reshape(rows.shape), rows.size)
        return put(canvases), numbers.astype(np.int32)

    def gather_share(rows: np.ndarray, share: Share) -> tuple[Batch, np.ndarray]:
        # Canvases follow the batch's axis, which is spread over the devices: what a device is to
        # take lies on it, but for the filler.
        order = np.arange(rows.size).reshape(rows.shape[::-1]).T
        mine = rows.T.ravel()[share.own(rows.size)]
        # At least one row, or there would be no canvas to make the filler of.
        known = np.where(mine < count, mine, 0)
        wanted, places = np.unique(known, return_inverse=True)
        found = read(wanted)
        canvases = Batch(*(np.asarray(part)[places] for part in found))
        return share.assemble(canvases), np.where(rows < count, order, rows.size).astype(np.int32)

    def feed(steps: Iterable[np.ndarray]) -> Fed:
        waiting: deque[Future] = deque()
        with ThreadPoolExecutor(1, "read-ahead") as pool:
            try:
                for rows in steps:
                    waiting.append(pool.submit(gather, rows))
                    if len(waiting) > READ_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    return feed
