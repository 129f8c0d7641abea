"""Runs of several processes: their mesh, their shardings, and what they decide together.

With one process every function here returns what it was given, and no collective is compiled. With
several, each function that says "all" is collective: all processes call it, in the same order, from
the main thread. The primary process alone reads and writes the run's folder, except that orbax
wants to save from all: the folder has to be on a file system that they share.
"""

import logging
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from fcn_jax.types import InputError, TrainState

T = TypeVar("T")
_logger = logging.getLogger(__name__)

CONNECT_SECONDS = 300
"""How long a process waits for the others at the start."""


@contextmanager
def joined(
    coordinator: str | None = None, process: int | None = None, count: int | None = None
) -> Iterator[None]:
    """Join the other processes; to be entered before anything runs on a device.

    A process that fails inside ends at once, without waiting for the others at the exit, where they
    would never arrive; the rest is then ended by jax, which notices that it has gone.

    Args:
      coordinator: host:port of process 0; None to find the cluster (Slurm, MPI, Cloud TPU, ...).
      process: this one's number; None to find it.
      count: of the processes; None to find it.

    Raises:
      InputError: if the others cannot be found or reached.
    """
    if coordinator is not None and process:
        _await(coordinator)
    try:
        jax.distributed.initialize(
            coordinator, count, process, initialization_timeout=CONNECT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the processes could not be joined ({what}): "
            "give the coordinator, the number of this process and how many there are"
        ) from error
    try:
        yield
    except InputError as error:
        _exit(str(error), 2)
    except KeyboardInterrupt:
        _exit("stopped", 130)
    except Exception:
        _exit(traceback.format_exc(), 1)


def _await(coordinator: str) -> None:
    """Return once process 0 answers: jax itself would abort where it does not."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > end:
                raise InputError(
                    f"no answer in {CONNECT_SECONDS} s ({error}): "
                    "start process 0 there, and let its port through",
                    field="coordinator",
                    value=coordinator,
                ) from error
        time.sleep(0.2)


def _exit(text: str, code: int) -> None:
    _logger.error(text)
    sys.stdout.flush()
    os._exit(code)


def require_backend() -> None:
    """Start JAX's backend, so that a missing device is one line and not somebody else's error.

    Raises:
      InputError: if JAX_PLATFORMS names a platform that is not there, or no device can be used.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        reason = (str(error).strip().splitlines() or ["it is not installed"])[0]
        raise InputError(
            f"no {platforms or 'usable'} device ({reason.partition(' (set ')[0][:200]}): "
            "set JAX_PLATFORMS=cpu to run on the CPU, or install JAX for the device"
        ) from error


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_primary() -> bool:
    """Whether this process writes and prints."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """All: whether the flag is set on any process."""
    if count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_primary(read: Callable[[], T]) -> T:
    """All: what `read` returns, or the InputError it raises, on the primary; nobody else calls it.

    The value must be picklable. Its bytes go through the devices' network.
    """
    if count() == 1:
        return read()
    answer: tuple[Any, InputError | None] = (None, None)
    if is_primary():
        try:
            answer = (read(), None)
        except InputError as error:
            answer = (None, error)
    data = np.frombuffer(pickle.dumps(answer), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(data.size, np.int32)))
    data = data if is_primary() else np.zeros(size, np.uint8)
    value, error = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(data)).tobytes())
    if error is not None:
        raise error
    return value


def mesh(batch_size: int, devices: int | None) -> Mesh:
    """A one-dimensional mesh, over all processes, of as many devices as divide the batch.

    Every process has equally many in it, neighbours along the axis.

    Args:
      batch_size: of the global batch.
      devices: at most so many of each process; None for no limit.

    Raises:
      InputError: if there are fewer devices, or the batch does not divide by the processes.
    """
    owned = [jax.local_devices(process) for process in range(count())]
    fewest = min(len(found) for found in owned)
    if devices is not None and devices > fewest:
        raise InputError(
            f"this machine has {fewest}: ask for fewer", field="devices", value=devices
        )
    limit = devices or fewest
    fitting = [n for n in range(1, limit + 1) if batch_size % (n * count()) == 0]
    if not fitting:
        raise InputError(
            f"there are {count()} processes: use a multiple of {count()}",
            field="data.batch_size",
            value=batch_size,
        )
    chosen = [device for found in owned for device in found[: max(fitting)]]
    return Mesh(np.asarray(chosen), ("data",))


def batch_sharding(mesh: Mesh) -> NamedSharding | None:
    """Sharding of the axis of a batch: over the mesh; None where that is one device."""
    return NamedSharding(mesh, PartitionSpec(*mesh.axis_names)) if mesh.size > 1 else None


def replicate(tree, mesh: Mesh):
    """A tree of host arrays, the same on all processes -> global arrays, whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return _put(tree, jax.tree.map(lambda x: whole, tree))


PART_SIZE = 2**16
"""Smallest size of an optimizer's array of which each device holds a part only: each part is a
message to the others."""


def shardings(state: TrainState, mesh: Mesh | AbstractMesh) -> TrainState:
    """Shardings of a state: whole on each device, but for the optimizer's arrays.

    Of those each device of one process has a part, along the first axis that they divide: it makes
    the updates of that part and sends them to the others. With several processes these are whole
    too, since a checkpoint is written from what one process has.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def part(x) -> NamedSharding:
        fitting = [axis for axis, n in enumerate(np.shape(x)) if n % mesh.size == 0]
        if count() > 1 or np.size(x) < PART_SIZE or not fitting:
            return whole
        return NamedSharding(mesh, PartitionSpec(*[None] * fitting[0], *mesh.axis_names))

    everywhere = jax.tree.map(lambda x: whole, state)
    return everywhere._replace(opt_state=jax.tree.map(part, state.opt_state))


def put_state(state: TrainState, mesh: Mesh) -> TrainState:
    """A state of host arrays, the same on all processes -> global arrays, by its `shardings`."""
    return _put(state, shardings(state, mesh))


def _put(tree, shardings):
    if count() == 1:
        return jax.device_put(tree, shardings)
    # device_put would compare the processes' values: a collective, which a thread must not start.
    return jax.tree.map(lambda x, s: _assembled(s, np.asarray(x), np.shape(x)), tree, shardings)


def assemble(tree, mesh: Mesh):
    """Each process's part [n / count, ...] of every array -> global arrays [n, ...], sharded."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda x: _assembled(sharding, x, (len(x) * count(), *np.shape(x)[1:])), tree
    )


def _assembled(sharding: NamedSharding, part: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, part, shape)


def process_slice(length: int) -> slice:
    """What this process has of an axis that is sharded over the mesh; `length` divides evenly."""
    part = length // count()
    return slice(jax.process_index() * part, (jax.process_index() + 1) * part)
