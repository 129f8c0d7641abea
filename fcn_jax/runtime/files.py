"""Files that are written whole or not at all, locks, and clear errors for a full disk."""

import contextlib
import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from fcn_jax.runtime.text import amount
from fcn_jax.types import InputError

_logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_AGAIN = "then repeat the command"
_parts: set[Path] = set()
"""What is being written."""


@contextlib.contextmanager
def replacing(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Give a name to write to, and put it in place in one piece when all went well.

    Readers see the old file or the new, never a part; two processes that write the same file do
    not meet. A link is followed.

    Args:
      path: of the file.
      needed: its bytes, where they are known; for the message.

    Raises:
      InputError: if it cannot be written, or is no file, such as /dev/null.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is no regular file: choose another name")
    # As long as it can be whatever the length of the name.
    key = zlib.crc32(os.fsencode(path.name))
    part = path.with_name(f".{path.name[:40]}.{key:08x}.{os.getpid()}.part")
    _parts.add(part)
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise refused(path, error, needed) from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is what matters
            part.unlink(missing_ok=True)
        _parts.discard(part)


def remove_parts() -> None:
    """Remove what is being written, in a process that is about to end."""
    for part in tuple(_parts):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file in one piece."""
    with replacing(Path(path), len(content)) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece that a power cut does not undo."""
    content = text.encode()
    with replacing(path, len(content)) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # or the name may outlive the cut, and the content not


def require_utf8(path: Path) -> None:
    """Refuse a path that is no UTF-8: orbax and tfds cannot write there.

    Raises:
        InputError: naming the path.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise InputError(f"{shown}: the path is no UTF-8: choose another folder") from None


def make_folder(path: Path, remedy: str = "choose another folder") -> None:
    """As mkdir -p.

    Raises:
      InputError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise refused(path, error) from error
        raise InputError(f"{path}: cannot be made ({error.strerror}): {remedy}") from error


@contextlib.contextmanager
def alone(lock: Path, doing: str) -> Iterator[None]:
    """Hold a lock file, which a process loses however it ends; wait while another has it.

    Args:
      lock: the file; its folder is there.
      doing: what the other process is doing, for the note that says why nothing happens.
    """
    held = filelock.FileLock(lock)
    try:
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            _logger.warning("another process is %s: waiting for it", doing)
            held.acquire()
    except OSError as error:
        raise refused(lock, error) from error
    try:
        yield
    finally:
        held.release()


def require(folder: Path, needed: int, what: str, remedy: str = "make room") -> None:
    """Refuse to begin what would not fit.

    Raises:
      InputError: if `folder`, which is there, has less than `needed` bytes free.
    """
    if free(folder) < needed:
        raise full(folder, needed, what, remedy)


def refused(
    path: Path, error: OSError, needed: int | None = None, remedy: str = "make room"
) -> InputError:
    """The error for a write to `path` that failed."""
    if error.errno in _FULL:
        return full(path, needed, remedy=remedy)
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}): "
        f"fix that or choose another folder, {_AGAIN}"
    )


def full(path: Path, needed: int | None, what: str = "it", remedy: str = "make room") -> InputError:
    """The error where the disk of `path` is full."""
    numbers = [f"{amount(free(path))} free"]
    if needed is not None:
        numbers.append(f"{what} needs {amount(needed)}")
    return InputError(f"{path}: the disk is too full ({', '.join(numbers)}): {remedy}, {_AGAIN}")


def is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error, whatever a library has made of it."""
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain)
        known = isinstance(chain, OSError) and chain.errno in _FULL
        if known or any(os.strerror(number) in text for number in _FULL):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def size_below(folder: Path) -> int:
    """Bytes of all files in a folder and its subfolders; what vanishes meanwhile counts nothing."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(inner, name)).st_size
    return total


def free(path: Path) -> int:
    """Free bytes where `path` is, or would be."""
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON in one piece. NaN must have been made None before."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
      InputError: if it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path}: not there: is {path.parent} the folder of a finished run?"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
