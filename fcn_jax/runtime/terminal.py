"""The terminal that standard error may be, and progress bars, which are drawn only there."""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


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
