"""A small downloader: several mirrors, time-outs, resuming, verified size and sha256."""

import dataclasses
import hashlib
import os
from pathlib import Path

import requests

from fcn_jax.runtime import files, terminal
from fcn_jax.types import InputError

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""
_CHUNK = 2**14
"""Bytes at a time, few: when a body ends early, the unfinished chunk is lost."""


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A file that several mirrors have."""

    filename: str
    size: int | None
    """In bytes; None where it is not known."""
    sha256: str
    """In hex, or its first digits."""
    mirrors: tuple[str, ...]


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    artifact: Artifact,
    folder: Path,
    progress: bool = True,
    timeout: tuple[float, float] = TIMEOUT,
) -> Path:
    """Return the path of a file in a folder, downloading it first unless it is there and right.

    The mirrors are tried in order. Bytes gather in FILENAME.part, from which a later mirror or a
    later call resumes; the final name appears only once size and sha256 agree.

    Raises:
        InputError: no mirror gave the file; one line with a reason for each, and where to put the
            file by hand.
    """
    target = folder / artifact.filename
    if _is_right(target, artifact):
        return target
    files.make_folder(folder)
    with files.alone(folder / ".lock", f"downloading to {folder}"):
        return _fetch(artifact, target, progress, timeout)


def _is_right(target: Path, artifact: Artifact) -> bool:
    try:
        right_size = target.is_file() and artifact.size in (None, target.stat().st_size)
        return right_size and sha256_of(target).startswith(artifact.sha256)
    except OSError as error:
        raise InputError(f"{target}: cannot be read ({error.strerror}): fix that") from None


def _fetch(artifact: Artifact, target: Path, progress: bool, timeout: tuple[float, float]) -> Path:
    """`fetch` for the one process that holds the lock."""
    if _is_right(target, artifact):  # another process has been at work
        return target
    filename, size, sha256 = artifact.filename, artifact.size, artifact.sha256
    folder, part = target.parent, target.with_name(f"{filename}.part")
    reasons = [] if not target.exists() else [f"{target} is there, but its checksum is wrong"]
    for url in artifact.mirrors:
        try:
            expected = _size_at(url, timeout) if size is None else size
            lacking = expected - (part.stat().st_size if part.exists() else 0)
            files.require(folder, lacking, filename)
            _download(url, part, expected, progress, timeout)
            _verify(part, expected, sha256)
        except (requests.RequestException, OSError, _WrongFileError) as error:
            if files.is_full(error):  # for every mirror
                raise files.full(folder, size, filename) from None
            reasons.append(f"{url}: {_one_line(error)}")
        else:
            os.replace(part, target)
            return target
    facts = f"sha256 {sha256}" if size is None else f"{size} bytes, sha256 {sha256}"
    raise InputError(
        f"{filename} could not be downloaded ({'; '.join(reasons)}): download it by hand "
        f"({facts}) and put it into {folder}"
    )


class _WrongFileError(Exception):
    """The server answered, but not with the file."""


def _size_at(url: str, timeout: tuple[float, float]) -> int:
    """How many bytes the server says the file has."""
    with requests.head(url, timeout=timeout, allow_redirects=True) as response:
        length = response.headers.get("Content-Length", "")
        kind = response.headers.get("Content-Type", "unknown")
        if response.status_code != 200 or not length.isdigit() or kind.startswith("text/html"):
            raise _WrongFileError(f"HTTP status {response.status_code}, {kind}, no size")
        return int(length)


def _download(
    url: str, part: Path, size: int, progress: bool, timeout: tuple[float, float]
) -> None:
    """Append to `part` until the body ends."""
    start = part.stat().st_size if part.exists() else 0
    if start >= size:
        return  # complete, or beyond help: _verify decides
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, stream=True, timeout=timeout, headers=headers) as response:
        if response.status_code not in (200, 206):
            raise _WrongFileError(f"HTTP status {response.status_code}")
        resumed = response.status_code == 206
        expected = size - start if resumed else size
        length = response.headers.get("Content-Length")
        kind = response.headers.get("Content-Type", "unknown")
        if length is not None and int(length) != expected:
            # A page of a firewall or of a parked domain: do not spoil what we already have.
            raise _WrongFileError(f"offers {length} bytes of {kind}, expected {expected}")
        with (
            part.open("ab" if resumed else "wb") as file,
            terminal.bar(
                size,
                progress,
                desc=part.stem,
                initial=start if resumed else 0,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    raise _WrongFileError(f"sends more than {size} bytes of {kind}")


def _verify(part: Path, size: int, sha256: str) -> None:
    """Raise unless `part` is the file; throw away what no resuming can save."""
    found = part.stat().st_size
    if found < size:
        raise _WrongFileError(f"the body ended after {found} of {size} bytes")
    digest = sha256_of(part) if found == size else "not taken"
    if not digest.startswith(sha256):
        part.unlink()
        raise _WrongFileError(f"wrong file: {found} bytes, sha256 {digest}")


def _one_line(error: Exception) -> str:
    """The innermost reason, without the layers of urllib3 around it."""
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.ReadTimeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ConnectionError) and "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "no connection"
    return " ".join(str(error).split())[:200] or type(error).__name__
