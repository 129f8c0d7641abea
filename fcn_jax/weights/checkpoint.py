"""Checkpoints with orbax: the best and the latest two, each proven by checksums when it is read.

Orbax writes atomically but does not check what it reads back: a flipped bit in an array would be
restored as it is. So a CRC-32 of every leaf is stored beside the arrays and compared at restore.

One checkpoint holds three parts: `variables` (what evaluation uses: the moving average where one
is kept), `train` (all other leaves of the state, which only resuming needs) and `meta` (the
caller's JSON, the checksums, and a checksum of itself).
"""

import contextlib
import gc
import json
import logging
import math
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fcn_jax.runtime import distributed, files
from fcn_jax.types import InputError, TrainState

SPARE = 1.2
"""Free disk space asked for before a save, as a multiple of the arrays' size ..."""
OVERHEAD = 500_000
"""... and bytes for all that is not arrays."""


class DamagedError(Exception):
    """A checkpoint that cannot be read, or whose checksums do not agree."""


class Checkpoints:
    """The checkpoints of one run, written by one process.

    Where several processes make the run, all of them make this object and call its methods, on a
    file system that they share: orbax writes from the primary, and meets the others before and
    after. The meetings are collectives, so such a save is finished when `save` returns: from a
    thread they would come between those of the training. All read, because orbax tells its meetings
    apart by a number that every process counts for itself, reading included.

    Saves happen in the background, one at a time; `wait` (and the next `save`) raises what the one
    before it met; after a save that failed there can be no other. Numbers only grow; what a number
    stands for is the caller's `meta`.
    """

    def __init__(self, directory: Path | str):
        """Open (or make) `directory`; leftovers of an interrupted save are removed."""
        self.directory = Path(directory).resolve()
        _quiet()
        self._scores = {n: _stored_score(self.directory / str(n)) for n in _numbers(self.directory)}
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
        self._scores[number] = -math.inf if score is None else score
        checksums = {name: _checksums(tree) for name, tree in parts.items()}
        meta = {**meta, "score": score, "crc32": checksums}
        try:
            with _without_stragglers():
                # Forced: orbax may otherwise skip a save that it finds too soon.
                self._orbax.save_checkpointables(
                    number, {**parts, "meta": {"json": _seal(meta)}}, force=True
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
        """Finish the last save and let go of the directory."""
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
        """The newest checkpoint that proves sound, or None where there is none at all.

        A damaged one is set aside (moved to `<directory>-damaged/`) with a warning that names it.

        Args:
          like: a state of the same structure; its values are not used.

        Returns:
          (state as NumPy arrays, meta).

        Raises:
          InputError: if checkpoints exist and none of them is sound.
        """
        self.wait()
        numbers = distributed.from_primary(lambda: _numbers(self.directory))
        for number in reversed(numbers):
            damage, found = "", None
            try:
                found = _read(self.directory / str(number), "variables", "train")
            except DamagedError as error:
                damage = str(error)
            if not distributed.agree(found is None) and found is not None:
                variables, rest, meta = found
                return _join(like, variables, rest), meta
            distributed.from_primary(lambda n=number, words=damage: self._set_aside(n, words))
            self._orbax.reload()
        if numbers:
            raise InputError(
                f"{self.directory}: none of the checkpoints {', '.join(map(str, numbers))} "
                "is sound: start again in another --workdir"
            )
        return None

    def _set_aside(self, number: int, damage: str) -> None:
        aside = self.directory.with_name(self.directory.name + "-damaged")
        aside.mkdir(exist_ok=True)
        shutil.move(self.directory / str(number), _unused(aside / str(number)))
        warnings.warn(
            f"checkpoint {number} is damaged ({damage}); moved to {aside}, "
            "going back to the one before",
            stacklevel=5,
        )


class _LatestAndBest:
    """Which checkpoints orbax keeps: the latest two, and the best.

    The scores come from our own sealed meta: orbax's metrics have no checksum, and a damaged one
    would keep the whole folder from being opened.
    """

    def __init__(self, scores: dict[int, float]):
        self.scores = scores

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        numbers = [c.step for c in checkpoints]
        keep = set(numbers[-2:])
        best = max(numbers, key=lambda n: (self.scores.get(n, -math.inf), n), default=None)
        if best is not None and self.scores.get(best, -math.inf) > -math.inf:
            keep.add(best)
        return [n in keep for n in numbers]


def load(directory: Path | str, which: str = "best") -> tuple[dict, dict[str, Any]]:
    """Variables for evaluation, and the meta they were saved with; nothing else is read.

    Args:
      directory: the checkpoints of a run.
      which: `best` (by score; the latest where none has one) or `latest`.

    Returns:
      ({"params", "batch_stats"} of NumPy arrays, meta).

    Raises:
      InputError: if there is no checkpoint, or the one asked for is damaged.
    """
    directory = Path(directory).resolve()
    numbers = _numbers(directory)
    if not numbers:
        raise InputError(
            f"{directory}: no checkpoint there: train first, or name another run folder"
        )
    number = numbers[-1]
    if which == "best":
        scores = {n: _stored_score(directory / str(n)) for n in numbers}
        number = max(numbers, key=lambda n: (scores[n], n))
    try:
        variables, meta = _read(directory / str(number), "variables")
    except DamagedError as error:
        raise InputError(
            f"{directory / str(number)}: damaged ({error}): remove it to use another checkpoint"
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
    """The parts asked for, then meta; every leaf compared with its checksum."""
    _quiet()
    with _deaf():
        try:
            loaded, reason = _load(path, *parts, "meta"), ""
        except Exception as error:  # orbax raises many kinds; the innermost says what happened
            loaded, reason = {}, _innermost(error)
        if reason:
            gc.collect()
            time.sleep(0.2)
            raise DamagedError(reason)
    meta = _unseal(loaded["meta"]["json"])
    for name in parts:
        wrong = _differing(meta["crc32"][name], _checksums(loaded[name]))
        if wrong:
            raise DamagedError(f"checksum of {name}/{wrong[0]} differs")
    return *(loaded[name] for name in parts), meta


def _load(path: Path, *parts: str) -> dict[str, Any]:
    with _alone():
        stored = ocp.checkpointables_metadata(str(path)).metadata
        # Plain NumPy targets: any number of devices, of any kind, may read the checkpoint.
        abstract = {
            name: jax.tree.map(lambda x: np.empty(x.shape, x.dtype), stored[name]) for name in parts
        }
        return ocp.load_checkpointables(str(path), abstract)


def _alone() -> ocp.Context:
    """Orbax's settings, such that it reads without waiting for other processes."""
    if distributed.count() == 1:
        return ocp.Context()
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    return ocp.Context(multiprocessing_options=options)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _checksums(tree) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): zlib.crc32(
            np.ascontiguousarray(x).tobytes()
        )
        for path, x in leaves
    }


def _differing(expected: dict[str, int], found: dict[str, int]) -> list[str]:
    names = sorted({*expected, *found})
    return [name for name in names if expected.get(name) != found.get(name)]


def _seal(meta: dict[str, Any]) -> np.ndarray:
    """JSON as bytes behind its own checksum, so that meta is proven like the arrays."""
    text = json.dumps(meta).encode()
    return np.frombuffer(f"{zlib.crc32(text):08x}".encode() + text, np.uint8)


def _unseal(data: np.ndarray) -> dict[str, Any]:
    raw = np.asarray(data, np.uint8).tobytes()
    text = raw[8:]
    if raw[:8] != f"{zlib.crc32(text):08x}".encode():
        raise DamagedError("checksum of meta differs")
    return json.loads(text)


def _numbers(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())


def _stored_score(path: Path) -> float:
    try:
        (meta,) = _read(path)
    except DamagedError:  # or half deleted: never the best
        return -math.inf
    return -math.inf if meta["score"] is None else meta["score"]


def _unused(path: Path) -> Path:
    candidate, n = path, 1
    while candidate.exists():
        candidate, n = path.with_name(f"{path.name}-{n}"), n + 1
    return candidate


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Do not repeat what the tasks of a failed load say after it, when nobody can catch it."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
        finally:
            sys.unraisablehook = hook


@contextlib.contextmanager
def _without_stragglers() -> Iterator[None]:
    """Let the tasks of a failed save find their event loop closed, and say so to nobody.

    After a failure it stays so: they come late, by the hundred.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda e: None if "loop is closed" in str(e.exc_value) else hook(e)
    yield
    sys.unraisablehook = hook


def _quiet() -> None:
    """Orbax logs every save, and every task of a failed load: what matters is raised anyway."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
