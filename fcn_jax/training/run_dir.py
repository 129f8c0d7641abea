"""The folder of a run: its files, and its lock."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from fcn_jax import config as configs
from fcn_jax.runtime import files
from fcn_jax.types import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
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
    """The rows of metrics.jsonl, or none if there is no such file yet."""
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def claim(folder: Path, config: configs.Config) -> Iterator[None]:
    """Hold the folder for one run of one process; make it if it is new.

    A folder without a finished step belongs to nobody: another run may take it over, and a start
    that ends before its first saved step leaves nothing behind.

    Raises:
      InputError: if another process holds it, another run lives in it, or it holds other files.
    """
    made = not folder.exists()
    files.make_folder(folder)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{folder}: another process is training there: wait, or choose another run folder"
        ) from None
    except OSError as error:
        raise files.refused(folder, error) from error
    try:
        _check_owner(folder, config)
        yield
    finally:
        if not has_steps(folder):
            _clear(folder, made)
        lock.release()


def has_steps(folder: Path) -> bool:
    """Whether a run has saved a step there, or has finished."""
    checkpoints = folder / CHECKPOINTS
    if (folder / RESULT).exists():
        return True
    return checkpoints.is_dir() and any(p.name.isdigit() for p in checkpoints.iterdir())


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
    theirs = configs.with_absolute_paths(configs.from_dict(files.read_json(path), str(path)))
    changed = configs.differences(theirs, configs.with_absolute_paths(config))
    if changed:
        raise InputError(
            f"{folder}: holds another run ({'; '.join(changed)}): "
            "choose another run folder, or repeat that run's settings to resume it"
        )


def _clear(folder: Path, made: bool) -> None:
    """Remove what a start has written, if nothing else is there; and the folder if it made it."""
    if any(p.name not in _OWN for p in folder.iterdir()):
        return
    with contextlib.suppress(OSError):
        for name in (CONFIG, DATA, METRICS, *PAGES):
            (folder / name).unlink(missing_ok=True)
        if (folder / CHECKPOINTS).is_dir():
            shutil.rmtree(folder / CHECKPOINTS)  # leftovers of a save that was never finished
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
    """Refuse to resume a run with other images or masks than it began with.

    Args:
      folder: claimed.
      data: {"train", "val": ids, "classes": names, "name", "root", "digest"}; a digest that is
        empty is not compared, and the data may have moved.

    Raises:
      InputError: if ids, classes or the content of a file have changed.
    """
    path = folder / DATA
    if not has_steps(folder) or not path.exists():
        return
    stored = files.read_json(path)
    for name in ("train", "val", "classes"):
        before, now = stored.get(name, []), data[name]
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
