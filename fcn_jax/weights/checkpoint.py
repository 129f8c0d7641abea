"""Checkpoints with orbax: the best and the latest two, each verified when it is read.

Orbax writes atomically but does not check what it reads back: a flipped bit in an array would be
restored as it is. So a checksum of every leaf is stored beside the arrays and compared when they
are read, see `integrity`.

One checkpoint holds three parts: `variables` (what evaluation uses: the moving average where one
is kept), `train` (all other leaves of the state, which only resuming needs) and `meta` (the
caller's JSON, the checksums, and a checksum of itself).
"""

import contextlib
import logging
import math
import shutil
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from flax.traverse_util import unflatten_dict
from orbax.checkpoint import v1 as ocp

from fcn_jax.runtime import distributed, files
from fcn_jax.types import InputError, TrainState, first_best
from fcn_jax.weights import integrity

_logger = logging.getLogger(__name__)

SPARE = 1.2
"""Free disk space asked for before a save, as a multiple of the arrays' size ..."""
OVERHEAD = 500_000
"""... and bytes for all that is not arrays."""


class Checkpoints:
    """The checkpoints of one run, written by one process.

    In a run of several processes all of them make this object and call its methods, on a file
    system that they share. Orbax writes from the primary process and synchronises with the others
    before and after. That is a collective, which a thread could start between those of the
    training, so such a save is finished when `save` returns.

    Saves happen in the background, one at a time; `wait` (and the next `save`) raises the error of
    the one before; after a save that failed there can be no other. Numbers only grow; what a number
    stands for is the caller's `meta`.
    """

    def __init__(self, directory: Path | str):
        """Open (or make) `directory`; leftovers of an interrupted save are removed."""
        self.directory = Path(directory).resolve()
        _silence_orbax()
        self._scores: dict[int, float | None] = {}
        for number in numbers(self.directory):
            with contextlib.suppress(integrity.DamagedError):  # `restore` names it
                self._scores[number] = _stored_score(self.directory / str(number))
        self._orbax = ocp.training.Checkpointer(
            str(self.directory),
            cleanup_tmp_directories=True,
            preservation_policy=_LatestAndBest(self._scores),
        )
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future | None = None
        self._failed = False

    def save(self, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Copy the state to the host and write it in the background.

        Args:
          state: arrays on any device; free to be donated as soon as this returns.
          meta: JSON values.
          score: the checkpoint with the largest is kept as the best; None or NaN never is.
        """
        self.wait()
        variables, rest = _split(state)
        # Copies: a view of a CPU buffer would change under the writer once the state is donated.
        variables, rest = jax.tree.map(lambda x: np.array(x, copy=True), (variables, rest))
        if distributed.count() > 1:
            self._write(variables, rest, meta, score)
        else:
            self._pending = self._writer.submit(self._write, variables, rest, meta, score)

    def _write(self, variables, rest, meta, score) -> None:
        size = sum(x.nbytes for x in jax.tree.leaves((variables, rest)))
        needed = int(SPARE * size) + OVERHEAD
        distributed.from_primary(lambda: files.require(self.directory, needed, "a checkpoint"))
        train = {f"{i:04d}": x for i, x in enumerate(jax.tree.leaves(rest))}
        parts = {"variables": variables, "train": train}
        number = (self._orbax.latest.step if self._orbax.latest else 0) + 1
        score = None if score is None or not math.isfinite(score) else float(score)
        self._scores[number] = score
        checksums = {name: integrity.checksums(tree) for name, tree in parts.items()}
        meta = {**meta, "score": score, "crc32": checksums}
        try:
            # Forced: orbax may otherwise skip a save that it finds too soon.
            self._orbax.save_checkpointables(
                number, {**parts, "meta": {"json": integrity.pack(meta)}}, force=True
            )
        except Exception as error:
            self._failed = True
            self._remove_unfinished()  # or what room there is would go to nobody
            if files.is_full(error):
                raise files.full(self.directory, needed, "a checkpoint") from error
            raise

    def _remove_unfinished(self) -> None:
        if distributed.is_primary():
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)

    def wait(self) -> None:
        """Return when nothing is being written; raise what the last save met."""
        try:
            if self._pending is not None:
                self._pending.result()
        finally:
            self._pending = None

    def close(self) -> None:
        """Finish the last save and release the directory."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            # After a save that failed orbax says so again, and has nothing left to close.
            with contextlib.suppress(*[Exception] * self._failed):
                self._orbax.close()
            if self._failed:
                self._remove_unfinished()  # what its other tasks went on to write

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest valid checkpoint, or None where there is none at all.

        A damaged one is moved to `<directory>-damaged/` with a warning that names it.

        Args:
          like: a state of the same structure; its values are not used.

        Returns:
          (state as NumPy arrays, meta).

        Raises:
          InputError: if a file cannot be read, or if checkpoints exist and none of them is valid.
        """
        self.wait()
        found = distributed.from_primary(lambda: numbers(self.directory))
        for number in reversed(found):
            damage, loaded = "", None
            try:
                loaded = _read(self.directory / str(number), "variables", "train")
            except integrity.DamagedError as error:
                damage = str(error)
            if not distributed.agree(loaded is None) and loaded is not None:
                variables, rest, meta = loaded
                return _join(like, variables, rest), meta
            distributed.from_primary(lambda n=number, reason=damage: self._quarantine(n, reason))
            self._orbax.reload()
        if found:
            raise InputError(
                f"{self.directory}: none of the checkpoints {', '.join(map(str, found))} "
                "is valid: start again in another run folder"
            )
        if distributed.from_primary(lambda: numbers(integrity.quarantine_folder(self.directory))):
            raise InputError(
                f"{self.directory}: all checkpoints were damaged, and are in "
                f"{integrity.quarantine_folder(self.directory)}: start again in another run folder"
            )
        return None

    def _quarantine(self, number: int, reason: str) -> None:
        target = integrity.quarantine(self.directory / str(number))
        _logger.warning(
            "checkpoint %d is damaged (%s); moved to %s, resuming from the one before",
            number, reason, target,
        )  # fmt: skip


class _LatestAndBest:
    """Which checkpoints orbax keeps: the latest two, and the best.

    The scores come from our own meta: orbax's metrics have no checksum, and a damaged one would
    keep the whole folder from being opened.
    """

    def __init__(self, scores: dict[int, float | None]):
        self.scores = scores

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        found = [c.step for c in checkpoints]
        keep = set(found[-2:])
        best = first_best([self.scores.get(n) for n in found])
        if best is not None:
            keep.add(found[best])
        return [n in keep for n in found]


def load(directory: Path | str, which: str = "best") -> tuple[dict, dict[str, Any]]:
    """Variables for evaluation, and the meta they were saved with; nothing else is read.

    Args:
      directory: the checkpoints of a run.
      which: `best` (the first with the highest score; the latest where none has one) or `latest`.

    Returns:
      ({"params", "batch_stats"} of NumPy arrays, meta).

    Raises:
      InputError: if there is no checkpoint, or the one asked for is damaged or cannot be read; also
        if it is not known which one is the best, because one of them is damaged.
    """
    if which not in ("best", "latest"):
        raise InputError(f"{which!r}: choose best or latest")
    directory = Path(directory).resolve()
    while True:
        found = numbers(directory)
        try:
            return _load_one(directory, found, which)
        except InputError:
            if numbers(directory) == found:
                raise
            # The run is training, and has replaced the checkpoint meanwhile.


def _load_one(directory: Path, found: list[int], which: str) -> tuple[dict, dict[str, Any]]:
    """`load`, of the checkpoints with these numbers."""
    if not found:
        raise InputError(
            f"{directory}: no checkpoint there: train first, or name another run folder"
        )
    number = found[-1]
    try:
        if which == "best":
            scores = []
            for number in found:
                scores.append(_stored_score(directory / str(number)))
            best = first_best(scores)
            number = found[-1 if best is None else best]
        variables, meta = _read(directory / str(number), "variables")
    except integrity.DamagedError as error:
        raise InputError(
            f"{directory / str(number)}: damaged ({error}), and maybe the one asked for: "
            "move it away to use another checkpoint"
        ) from error
    return {"batch_stats": {}, **variables}, meta


def _split(state: TrainState) -> tuple[dict, tuple]:
    """(variables that evaluation uses, everything else)."""
    params, stats = state.ema if state.ema is not None else (state.params, state.batch_stats)
    # Orbax refuses an empty tree, and networks without batch norm have no statistics.
    variables = {"params": params, **({"batch_stats": stats} if stats else {})}
    rest = (state.step, state.opt_state)
    if state.ema is not None:
        rest += (state.params, state.batch_stats)
    return variables, rest


def _join(like: TrainState, variables: dict, leaves: dict) -> TrainState:
    used = (variables["params"], variables.get("batch_stats", {}))
    _, rest_like = _split(like)
    treedef = jax.tree.structure(rest_like)
    if treedef.num_leaves != len(leaves):
        raise InputError(
            f"the checkpoint has {len(leaves)} optimizer leaves, this run {treedef.num_leaves}: "
            "it belongs to another optimizer"
        )
    rest = jax.tree.unflatten(treedef, [leaves[k] for k in sorted(leaves)])
    step, opt_state = rest[:2]
    params, stats = rest[2:] if like.ema is not None else used
    return TrainState(step, params, stats, opt_state, used if like.ema is not None else None)


def _read(path: Path, *parts: str) -> tuple:
    """The parts asked for, then meta; every leaf compared with its checksum.

    Raises:
      DamagedError: if it is damaged; for any other reason see `integrity.raise_reason`.
    """
    try:
        meta = integrity.unpack(_load(path, "meta", ["json"])["json"])
        loaded = [_load(path, name, meta["crc32"][name]) for name in parts]
    except integrity.DamagedError:
        raise
    except Exception as error:
        integrity.raise_reason(error, path)
    for name, tree in zip(parts, loaded, strict=True):
        integrity.verify(name, tree, meta["crc32"][name])
    return *loaded, meta


def _load(path: Path, part: str, leaves: Iterable[str]) -> dict[str, Any]:
    """Some leaves of a part, named by their paths, as a tree of NumPy arrays.

    Read from the files that orbax writes (zarr3 arrays in an OCDBT database) without orbax, whose
    own loader needs the other processes of the run and, where a file is damaged, leaves tasks
    behind that complain later.
    """
    base = {"driver": "file", "path": f"{path / part}/"}
    opened = {}
    for leaf in leaves:
        store = {"driver": "ocdbt", "base": base, "path": leaf.replace("/", ".") + "/"}
        opened[leaf] = tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True, read=True)
    arrays = {leaf: future.result().read() for leaf, future in opened.items()}
    return unflatten_dict({k: np.asarray(v.result()) for k, v in arrays.items()}, sep="/")


def numbers(directory: Path) -> list[int]:
    """The numbers of the finished checkpoints in a folder, ascending.

    Raises:
      InputError: if the folder cannot be read.
    """
    try:
        if not directory.is_dir():
            return []
        return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())
    except OSError as error:
        raise integrity.unreadable(directory, error.strerror or str(error)) from error


def _stored_score(path: Path) -> float | None:
    (meta,) = _read(path)
    return meta["score"]


def _silence_orbax() -> None:
    """Orbax logs every save, and every task of a failed load: what matters is raised anyway."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
