"""Resized images on disk, in a form that is mapped into memory: the second start decodes nothing.

A folder for each prepared split and size holds image.npy and mask.npy. Its name carries the digest
of the data, the size and the version of this format, so that nothing in it can be stale.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fcn_jax.data import batches
from fcn_jax.data.dataset import Records
from fcn_jax.runtime import files, machine
from fcn_jax.runtime.terminal import LOGGER
from fcn_jax.types import Batch, Example

VERSION = 1
LIMIT = 8 * 2**30
"""Bytes that all cached splits of a data directory may take; the least recently used go first."""

_CHUNK = 64
"""Images decoded at a time."""


def open_resized(
    records: Records, size: tuple[int, int], tick: Callable[[], object] = lambda: None
) -> Batch | None:
    """All images of a split, resized: mapped from disk, after writing them there if need be.

    Args:
        records: the split.
        size: height and width.
        tick: called for each image that is decoded.

    Returns:
        image uint8 [N, h, w, 3] and mask [N, h, w], read-only, with their sizes; None where nothing
        can be kept: too large, no room, or a disk that refuses.
    """
    if records.cache is None or not len(records):
        return None
    folder = records.cache / f"{records.key}-{size[0]}x{size[1]}-v{VERSION}"
    found = _map(folder, len(records), size)
    if found is None:
        needed = len(records) * size[0] * size[1] * 4
        try:
            if needed > LIMIT:
                return None
            records.cache.mkdir(parents=True, exist_ok=True)
            _make_room(records.cache, needed, folder)
            if files.free(records.cache) < 1.1 * needed + 2**28:
                return None
            _write(folder, records, size, tick)
        except OSError as error:
            LOGGER.info("resized images are not kept in %s: %s", folder, error.strerror or error)
            return None
        found = _map(folder, len(records), size)
    return found


def resize(example: Example, size: tuple[int, int]) -> Example:
    """An example at another size, as the paper resizes: bicubic, and nearest for the mask."""
    image = batches.resize_image(example.image, size)
    return Example(example.id, image, batches.resize_mask(example.mask, size))


def clear(data_dir: Path) -> int:
    """Remove all cached images below a data directory; returns the bytes that they took."""
    folder = data_dir / "resized"
    total = sum(files.size_below(entry) for entry in _entries(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return total


def _map(folder: Path, count: int, size: tuple[int, int]) -> Batch | None:
    """What is there, or None if it is not whole."""
    try:
        image = np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False)
        mask = np.load(folder / "mask.npy", mmap_mode="r", allow_pickle=False)
        os.utime(folder)  # the time of its last use
    except (OSError, ValueError, EOFError):
        return None
    if image.shape != (count, *size, 3) or mask.shape != (count, *size):
        return None
    sizes = np.tile(np.asarray(size, np.int32), (count, 1))
    return Batch(np.asarray(image), np.asarray(mask), sizes)


def _write(
    folder: Path, records: Sequence[Example], size: tuple[int, int], tick: Callable[[], object]
) -> None:
    """Decode, resize and write a split; whole, or not at all.

    Written as files and not through a map: on a full disk a map ends the process.
    """
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()

    def read(index: int) -> Example:
        example = resize(records[index], size)
        tick()
        return example

    try:
        with (
            ThreadPoolExecutor(machine.cores()) as pool,
            (part / "image.npy").open("wb") as image,
            (part / "mask.npy").open("wb") as mask,
        ):
            _begin(image, (len(records), *size, 3))
            _begin(mask, (len(records), *size))
            for start in range(0, len(records), _CHUNK):
                for e in pool.map(read, range(start, min(start + _CHUNK, len(records)))):
                    image.write(e.image.tobytes())
                    mask.write(e.mask.tobytes())
        shutil.rmtree(folder, ignore_errors=True)  # what `_map` found wanting
        try:
            os.replace(part, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _begin(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header: Any = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _entries(cache: Path) -> list[Path]:
    return [p for p in cache.iterdir() if p.is_dir()] if cache.is_dir() else []


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _make_room(cache: Path, needed: int, keep: Path) -> None:
    """Remove the least recently used entries until `needed` more bytes stay within the limit."""
    entries = sorted((p for p in _entries(cache) if p != keep), key=_last_used)
    total = sum(map(files.size_below, entries))
    for entry in entries:
        if total + needed <= LIMIT:
            break
        total -= files.size_below(entry)
        shutil.rmtree(entry, ignore_errors=True)
