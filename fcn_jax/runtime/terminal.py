"""Progress of long work: bars on the terminal that standard error may be, lines elsewhere."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGER = logging.getLogger("fcn_jax")
INTERVAL = 20.0
"""Seconds between two logged lines; shorter work says nothing."""


def redraws() -> bool:
    """Whether a line can be drawn again: not in a file, a pipe or a dumb terminal."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def bar(total: int, show: bool = True, **options: Any) -> "tqdm":
    """A tqdm bar for a person on a terminal or in a notebook; elsewhere it draws nothing.

    Args:
      total: number of units, which are images unless `options` say otherwise.
      show: False draws nothing anywhere.
      options: of tqdm.
    """
    from tqdm.auto import tqdm

    shown = show and (redraws() or "ipykernel" in sys.modules)
    defaults: Any = {"unit": "img", "leave": False, "file": sys.stderr, "dynamic_ncols": True}
    return tqdm(total=total, disable=not shown, **{**defaults, **options})


@contextlib.contextmanager
def progress(title: str, total: int, show: bool = True) -> Iterator[Callable[[], object]]:
    """Show how far `title` is; the value is to be called once for each of `total` images.

    Args:
        title: such as `preparing voc2007`.
        total: number of images.
        show: False shows and logs nothing.
    """
    if show and redraws():
        with bar(total, desc=title) as drawn:
            yield drawn.update
        return
    done, last = 0, time.monotonic()

    def tick() -> None:
        nonlocal done, last
        done += 1
        if show and time.monotonic() - last > INTERVAL:
            last = time.monotonic()
            LOGGER.info("%s: %d of %d images", title, done, total)

    yield tick
