"""Integrity of checkpoints: checksums of what they hold, and which errors mean damage.

Only a checksum that differs, a file that cannot be parsed and a part that is missing are damage.
Whatever else keeps a checkpoint from being read (no device, no memory, no permission, a failing
disk) says nothing about its content: it is raised as what it is, and nothing is moved.
"""

import errno
import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from fcn_jax.types import InputError


class DamagedError(Exception):
    """A checkpoint with a wrong checksum, a file that cannot be parsed or a missing part."""


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of every leaf, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): zlib.crc32(
            np.ascontiguousarray(x).tobytes()
        )
        for path, x in leaves
    }


def verify(name: str, tree: Any, expected: dict[str, int]) -> None:
    """Raise DamagedError if the leaves of `tree` do not have the expected checksums."""
    found = checksums(tree)
    for leaf in sorted({*expected, *found}):
        if expected.get(leaf) != found.get(leaf):
            raise DamagedError(f"checksum of {name}/{leaf} differs")


def pack(meta: dict[str, Any]) -> np.ndarray:
    """JSON as bytes, uint8 [n], behind a checksum of its own."""
    text = json.dumps(meta).encode()
    return np.frombuffer(f"{zlib.crc32(text):08x}".encode() + text, np.uint8)


def unpack(data: np.ndarray) -> dict[str, Any]:
    """Verify and read back what `pack` returned."""
    raw = np.asarray(data, np.uint8).tobytes()
    text = raw[8:]
    if raw[:8] != f"{zlib.crc32(text):08x}".encode():
        raise DamagedError("checksum of meta differs")
    return json.loads(text)


_PARSING = (ValueError, LookupError, TypeError, FileNotFoundError, NotADirectoryError)
"""What the reader raises for content that is wrong or missing."""

_CONTENT = ("NOT_FOUND", "DATA_LOSS", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE")
"""Statuses of tensorstore's errors that speak of content."""


def raise_reason(error: Exception, path: Path) -> NoReturn:
    """Raise what an error while reading the checkpoint at `path` means.

    Raises:
      DamagedError: if it speaks of the content, and all files of the checkpoint can be read.
      InputError: if the system refused to read a file.
      Exception: any other error, as it is.
    """
    chain = _chain(error)
    for link in chain:
        number = _os_error(link)
        if number is not None:
            raise unreadable(path, os.strerror(number)) from error
    reason = chain[-1]
    status = re.match(r"([A-Z_]{4,}): ", str(reason))
    other = next((link for link in chain if not isinstance(link, _PARSING)), None)
    if other is not None:
        raise other
    if status and status[1] not in _CONTENT:
        raise reason
    # A library may have made another error of the system's: read all files to see.
    try:
        if not path.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            with file.open("rb") as opened:
                while opened.read(2**24):
                    pass
    except OSError as refused:
        raise unreadable(path, refused.strerror or str(refused)) from error
    line = (str(reason).strip().splitlines() or [type(reason).__name__])[0]
    raise DamagedError(re.sub(r' in OCDBT database at [^"]*"[^"]*"', "", line)[:200]) from error


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes, the first cause last."""
    chain = [error]
    while True:
        cause = chain[-1].__cause__ or chain[-1].__context__
        if cause is None or any(cause is link for link in chain):
            return chain
        chain.append(cause)


def _os_error(error: BaseException) -> int | None:
    """The errno of a system's refusal; None for other errors, and for files that are missing."""
    missing = (errno.ENOENT, errno.ENOTDIR)
    if isinstance(error, OSError) and error.errno is not None:
        return None if error.errno in missing else error.errno
    found = re.search(r"os_error_code='?(\d+)", str(error))
    return int(found[1]) if found and int(found[1]) not in missing else None


def unreadable(path: Path, reason: str) -> InputError:
    """The error for what the system does not let us read: no damage."""
    return InputError(
        f"{path}: cannot be read ({reason}): nothing was changed; fix that, then repeat"
    )


def quarantine_folder(directory: Path) -> Path:
    """Where the damaged checkpoints of `directory` go."""
    return directory.with_name(directory.name + "-damaged")


def quarantine(path: Path) -> Path:
    """Move a damaged checkpoint to `<its folder>-damaged`, under a name that is free."""
    folder = quarantine_folder(path.parent)
    folder.mkdir(exist_ok=True)
    target, n = folder / path.name, 1
    while target.exists():
        target, n = folder / f"{path.name}-{n}", n + 1
    shutil.move(path, target)
    return target
