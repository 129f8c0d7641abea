"""Progress of long work on a data set: a bar on a terminal, elsewhere a line from time to time."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from fcn_jax.runtime import terminal

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
    if show and terminal.redraws():
        with terminal.bar(total, desc=title) as bar:
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
