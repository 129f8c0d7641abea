"""How a run is executed: the settings that never change its result.

Imports nothing heavy: the command line makes its flags from the fields here.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fcn_jax import config


@dataclass(frozen=True)
class Runtime(config.Checked):
    """Where and how a run is executed; nothing here changes its result."""

    devices: Annotated[int | None, config.Within(1, 65_536)] = None
    """How many devices of each process to use; None: as many as divide the batch. A CPU counts as
    one device for each core, up to 4."""
    save_every: Annotated[int, config.Within(1, 10**9)] = 1
    """Epochs between saves of the latest state; a new best is always saved."""
    save_steps: Annotated[int, config.Within(0, 10**9)] = 0
    """Also save every N steps within an epoch; 0: only between epochs."""
    cache: config.CacheMode = "auto"
    """Where images are kept: on the `device`, on the `host`, or nowhere (`none`: decoded every
    epoch); `auto` takes the first that fits."""
    show: bool = True
    """Whether to report progress."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How the data was found (archives, data_dir), so that `evaluate` finds it again."""
