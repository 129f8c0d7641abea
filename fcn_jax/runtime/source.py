"""The version of the package that runs, and the commit of a checkout."""

import contextlib
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder that holds the package."""


def versions(root: Path = ROOT) -> dict[str, str]:
    """The package's version and, in a checkout, its commit; `-dirty` where files were changed.

    An installed package has no commit: a repository around its folder is another project's.
    """
    found = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["fcn_jax"] = metadata.version("fcn_jax")
    if not (root / ".git").exists():
        return found
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = _git(root, "rev-parse", "HEAD")[:12]
        changed = _git(root, "status", "-s", "-uno")
        found["commit"] = commit + ("-dirty" if changed else "")
    return found


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
