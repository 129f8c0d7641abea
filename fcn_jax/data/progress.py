"""Progress of long work on a data set: a bar on a terminal, elsewhere a line from time to time."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

LOGGER = logging.getLogger("fcn_jax")
INTERVAL = 20.0
"""Seconds between two logged lines; shorter work says nothing."""


@contextlib.contextmanager
def progress(title: str, total: int, show: bool = True) -> Iterator[Callable[[], object]]:
    """Show how far `title` is; the value is to be called once for each of `total` images.

    Args:
        title: such as `preparing voc2007`.
        total: number of images.
        show: False shows and logs nothing.
    """
    if show and sys.stderr.isatty():
        with tqdm(desc=title, total=total, unit="img", leave=False) as bar:
            yield bar.update
        return
    done, last = 0, time.monotonic()

    def tick() -> None:
        nonlocal done, last
        done += 1
        if show and time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            LOGGER.info("%s: %d of %d images", title, done, total)

    yield tick
