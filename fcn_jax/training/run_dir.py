"""The folder of a run: its files, and who may write them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import filelock

from fcn_jax import config as configs
from fcn_jax.runtime import files
from fcn_jax.types import InputError

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"


def write_metrics(workdir: Path, rows: list[dict]) -> None:
    """Write metrics.jsonl, one line an epoch."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    files.write_text(workdir / METRICS, text)


def read_metrics(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl, or none if there is no such file yet."""
    path = workdir / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def claim(workdir: Path, config: configs.Config) -> Iterator[None]:
    """Hold the folder for one run of one process; make it, with its config.json, if it is new.

    Raises:
      InputError: if another process holds it, another run lives in it, or it holds other files.
    """
    files.make_folder(workdir)
    lock = filelock.FileLock(workdir / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"{workdir}: another process is training there: wait, or choose another --workdir"
        ) from None
    except OSError as error:
        raise files.refused(workdir, error) from error
    try:
        _check_owner(workdir, config)
        yield
    finally:
        lock.release()


def _check_owner(workdir: Path, config: configs.Config) -> None:
    path = workdir / CONFIG
    if path.exists():
        theirs = configs.from_dict(files.read_json(path), str(path))
        changed = configs.differences(theirs, config)
        if changed:
            raise InputError(
                f"{workdir}: holds another run ({'; '.join(changed)}): "
                "choose another --workdir, or repeat that run's flags to resume it"
            )
        return
    others = [p.name for p in workdir.iterdir() if not p.name.startswith(".")]
    if others:
        raise InputError(
            f"{workdir}: holds {others[0]!r} but no {CONFIG}, so it is no run: "
            "choose another --workdir"
        )
    files.write_json(path, configs.to_dict(config))
