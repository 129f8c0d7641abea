"""The folder of a run: its files, and its lock."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from fcn_jax import config as configs
from fcn_jax.models import registry
from fcn_jax.runtime import files
from fcn_jax.types import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
DAMAGED = "checkpoints-damaged"
"""Where `weights.integrity.quarantine` moves damaged checkpoints."""
DATA = "data.json"
DIVERGED = "diverged.json"
LOCK = ".lock"
PAGES = ("report.html", "curves.png", "gallery.png")
_OWN = {CONFIG, METRICS, DATA, DIVERGED, LOCK, CHECKPOINTS, *PAGES}
"""What may be in a folder whose run has not finished a step."""


def write_metrics(folder: Path, rows: list[dict]) -> None:
    """Write metrics.jsonl, one line an epoch."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    files.write_text(folder / METRICS, text)


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, or none if there is no such file yet.

    Raises:
      InputError: if it is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): restore it") from error


def read_result(folder: Path) -> dict[str, Any]:
    """What result.json holds.

    Raises:
      InputError: if it is missing or damaged.
    """
    data = files.read_json(folder / RESULT)
    if not isinstance(data, dict) or not {"val", "trivial"} <= data.keys():
        raise InputError(f"{folder / RESULT}: holds no result: restore it")
    return data


@contextlib.contextmanager
def claim(folder: Path, config: configs.Config) -> Iterator[None]:
    """Hold the folder for one run of one process; make it if it is new.

    A folder without a finished step belongs to nobody: another run may take it over, and a start
    that ends before its first saved step leaves nothing behind where nothing was before.

    Raises:
      InputError: if another process holds it, another run lives in it, it holds other files, or
        its path is no UTF-8.
    """
    files.require_utf8(folder)
    made = not folder.exists()
    files.make_folder(folder)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0.5)  # a command that only looks whether it is free holds it briefly
    except filelock.Timeout:
        raise InputError(
            f"{folder}: another process is training there: wait, or choose another run folder"
        ) from None
    except OSError as error:
        raise files.refused(folder, error) from error
    try:
        _check_owner(folder, config)
        held_nothing = not _OWN - {LOCK} & set(os.listdir(folder))
        try:
            yield
        finally:
            if held_nothing:
                _clear(folder, made)
    finally:
        lock.release()


def has_steps(folder: Path) -> bool:
    """Whether a run has finished a step there: there is a checkpoint, valid or damaged, or a score.

    Raises:
      InputError: if that cannot be read now; nobody knows then, so nothing may be replaced.
    """
    try:
        names = set(os.listdir(folder))
        if {RESULT, DAMAGED} & names:
            return True
        if METRICS in names and (folder / METRICS).stat().st_size:
            return True
        found = os.listdir(folder / CHECKPOINTS) if CHECKPOINTS in names else []
        return any(name.isdigit() for name in found)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}): "
            "nothing was changed; set that right, then repeat"
        ) from error


def _check_owner(folder: Path, config: configs.Config) -> None:
    path = folder / CONFIG
    if not has_steps(folder):
        others = [p.name for p in folder.iterdir() if p.name not in _OWN and p.name[0] != "."]
        if others and not path.exists():
            raise InputError(
                f"{folder}: holds {others[0]!r} but no {CONFIG}, so it is no run: "
                "choose another run folder"
            )
        return
    theirs = configs.from_dict(files.read_json(path), str(path))
    changed = differences(_with_moved_data(folder, theirs, config), config)
    if changed:
        raise InputError(
            f"{folder}: holds another run ({'; '.join(changed)}): "
            "choose another run folder, or repeat that run's settings to resume it"
        )


def _with_moved_data(folder: Path, theirs: configs.Config, ours: configs.Config) -> configs.Config:
    """The run's configuration with our path of the data, where its own leads nowhere any more.

    Whether the content is the same is left to `check_data`, which needs the digest for it.
    """
    path = folder / DATA
    if not path.exists() or not files.read_json(path).get("digest"):
        return theirs
    there, here = (comparable(config).data.dataset for config in (theirs, ours))
    moved = os.path.isabs(there) and not os.path.exists(there) and os.path.isabs(here)
    return configs.replace(theirs, **{"data.dataset": here}) if moved else theirs


def differences(theirs: configs.Config, ours: configs.Config) -> list[str]:
    """The fields that make two runs different ones, as `optim.lr: 0.001 -> 0.01`."""
    return configs.differences(comparable(theirs), comparable(ours))


def comparable(config: configs.Config) -> configs.Config:
    """The configuration without what does not matter to the run: equal ones are the same run."""
    network = registry.MODELS.get(config.model.arch)
    if network is not None and not network.has_aux:  # the field's default was once another one
        config = configs.replace(config, **{"loss.aux_weight": 0.0})
    return configs.with_absolute_paths(config)


def _clear(folder: Path, made: bool) -> None:
    """Remove what a start has written, if nothing else is there; and the folder if it made it.

    The folder held nothing before. What could be of use to anybody, or cannot be read, is kept.
    """
    with contextlib.suppress(OSError, InputError):
        if has_steps(folder) or set(os.listdir(folder)) - _OWN:
            return
        checkpoints = folder / CHECKPOINTS
        if checkpoints.exists():
            for unfinished in checkpoints.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished)
            checkpoints.rmdir()
        for name in (CONFIG, DATA, METRICS, *PAGES):
            (folder / name).unlink(missing_ok=True)
        if made and not (folder / DIVERGED).exists():
            (folder / LOCK).unlink(missing_ok=True)  # still locked: nobody else can have it
            folder.rmdir()


def begin(folder: Path, config: configs.Config, data: dict[str, Any]) -> None:
    """Write what the run is, and what it is trained on, before its first step.

    Args:
      folder: claimed.
      config: of the run.
      data: see `check_data`.
    """
    if not has_steps(folder):
        files.write_json(folder / CONFIG, configs.to_dict(config))
        files.write_json(folder / DATA, data)


def check_data(folder: Path, data: dict[str, Any]) -> None:
    """Refuse to resume, or to show, a run with other images or masks than it began with.

    Args:
      folder: claimed.
      data: {"train", "val": ids, "classes": names, "name", "root", "digest"}; a digest that is
        empty is not compared, nor what is left out, and the data may have moved.

    Raises:
      InputError: if ids, classes or the content of a file have changed.
    """
    path = folder / DATA
    if not has_steps(folder) or not path.exists():
        return
    stored = files.read_json(path)
    for name in ("train", "val", "classes"):
        before, now = stored.get(name, []), data.get(name, stored.get(name, []))
        if before != now:
            raise InputError(
                f"{folder}: the run began with {len(before)} {name} entries, the data set now has "
                f"{len(now)} or other ones: restore the data, or choose another run folder"
            )
    if stored.get("digest") and data["digest"] and stored["digest"] != data["digest"]:
        raise InputError(
            f"{folder}: images or masks in {data['root'] or data['name']} have changed since the "
            "run began: restore the data, or choose another run folder"
        )
