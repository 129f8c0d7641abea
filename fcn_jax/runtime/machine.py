"""What this process may use of the machine: cores and memory."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def cores() -> int:
    """Cores that this process may use: a scheduler or `taskset` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be used: what the page cache would give back, within a container's limit."""
    import psutil

    return min([psutil.virtual_memory().available, *memory_limits()])


def memory_limits(
    process: Path | str = "/proc/self/cgroup", root: Path | str = "/sys/fs/cgroup"
) -> Iterator[int]:
    """The memory limits of the control groups that this process is in, on Linux.

    Args:
        process: the file that lists the groups, of either version.
        root: where they are mounted.
    """
    try:
        lines = Path(process).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            top, name = Path(root), "memory.max"
        elif "memory" in controllers.split(","):
            top, name = Path(root, "memory"), "memory.limit_in_bytes"
        else:
            continue
        folder = top / group.lstrip("/")
        for inner in (folder, *folder.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit, or of another namespace
                yield int((inner / name).read_text())
