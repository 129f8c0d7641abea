"""Default folders of runs: runs/fcn-voc2007-1, -2, ..."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import filelock

from fcn_jax import config as configs
from fcn_jax.config import Config
from fcn_jax.runtime import files
from fcn_jax.training import run_dir
from fcn_jax.types import InputError


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there: many tools call a file config.json."""
    try:
        stored = json.loads((folder / run_dir.CONFIG).read_text())
    except ValueError:  # damaged
        others = (run_dir.LOCK, run_dir.CHECKPOINTS, run_dir.METRICS)
        return any((folder / name).exists() for name in others)
    except OSError:
        return False
    return isinstance(stored, dict) and "schema" in stored


def is_locked(folder: Path) -> bool:
    """Whether a process is training there."""
    lock = folder / run_dir.LOCK
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # such as a lock of somebody else's: we can neither train nor remove it
        return False


def choose(root: Path, config: Config, resume: bool = False) -> Path:
    """The folder of this run: its own unfinished one, or a new one with the next number.

    A new folder is made here, so that two runs that start together never meet in one.

    Args:
      root: of all runs.
      config: of the run.
      resume: whether only an unfinished run will do.

    Raises:
      InputError: if there is none to resume, or the folder cannot be made.
    """
    name, last = default_name(config), 0
    for folder in root.glob(f"{name}-*"):
        number = folder.name[len(name) + 1 :]
        if not number.isdecimal():
            continue
        last = max(last, int(number))
        if _is_unfinished(folder, config):
            return folder
    if resume:
        raise InputError(f"{root} holds no unfinished run of this configuration: do not resume")
    files.make_folder(root)
    while True:
        last += 1
        folder = root / f"{name}-{last}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another run has just taken it
        except OSError as error:
            raise files.refused(folder, error) from error
        return folder


def _is_unfinished(folder: Path, config: Config) -> bool:
    """Whether a run of this configuration waits there to be resumed."""
    if not holds_run(folder) or (folder / run_dir.RESULT).exists() or is_locked(folder):
        return False
    try:
        theirs = configs.from_dict(files.read_json(folder / run_dir.CONFIG))
    except InputError:  # damaged, or of another version
        return False
    return not run_dir.differences(theirs, config)


def default_name(config: Config) -> str:
    """What the run is: its experiment or network, and its data."""
    what = config.model.arch if config.experiment == "default" else config.experiment
    data = Path(config.data.dataset).resolve().name or "data"
    return "-".join(folder_name(part) for part in (what, data))


def folder_name(text: str) -> str:
    """Words as a name that every file system takes."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-") or "run"


def summary(folder: Path) -> dict[str, Any]:
    """State, epochs, best score so far and size of the run in a folder."""
    found: dict[str, Any] = {"state": "damaged", "miou": None, "epochs": "?"}
    found["bytes"] = files.size_below(folder)
    with contextlib.suppress(InputError, ValueError, LookupError, TypeError):
        if (folder / run_dir.RESULT).exists():
            data = files.read_json(folder / run_dir.RESULT)
            state, scores, epochs = "finished", [data["val"]["miou"]], str(data["epochs_run"])
        else:
            config = configs.from_dict(files.read_json(folder / run_dir.CONFIG))
            scores = [row["val"]["miou"] for row in run_dir.read_metrics(folder)]
            state = "running" if is_locked(folder) else "unfinished"
            epochs = f"{len(scores)} of {config.epochs}"
        best = max((s for s in scores if s is not None), default=None)
        found |= {"state": state, "miou": best, "epochs": epochs}
    return found


def by_number(folder: Path) -> list[str | int]:
    """A sorting key: run-2 stands before run-10."""
    return [int(s) if s.isdecimal() else s for s in re.split(r"(\d+)", str(folder))]
