"""Compiled programs are kept in the user's cache, so that the second start compiles nothing."""

import contextlib
import os
from pathlib import Path

LIMIT = 2**32
"""Bytes. A limit also makes jax lock the folder: several commands may use it at once."""


def set_up() -> None:
    """Use the user's cache, unless jax has been given one; mend it first."""
    import jax
    import platformdirs

    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = Path(platformdirs.user_cache_dir("fcn_jax")) / "xla"
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
        if not os.access(cache, os.W_OK):
            return  # jax would warn at each program
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_compilation_cache_max_size", LIMIT)
    # The small ones too: a start has some twenty of them, and compiles them for a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    settings = jax.config.values
    if settings["jax_compilation_cache_max_size"] != -1:
        mend(Path(str(settings["jax_compilation_cache_dir"])))


def mend(cache: Path) -> None:
    """Remove the programs that a killed process has left without the time of their last use.

    They may be cut off; and while one of them is there jax keeps no other, with a warning for each.
    """
    import filelock

    with (
        contextlib.suppress(OSError, filelock.Timeout),
        filelock.FileLock(cache / ".lockfile", timeout=10),
    ):
        for program in cache.glob("*-cache"):
            if not program.with_name(program.name.removesuffix("cache") + "atime").exists():
                program.unlink()
