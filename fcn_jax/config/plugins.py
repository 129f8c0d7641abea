"""Code from outside the package, named `module:attribute` in a configuration.

A configuration is data, and may come from elsewhere: its names never import anything. A module is
imported by `allow`, which the user's program or command line calls, and only then can its
attributes be found.

    import fcn_jax

    fcn_jax.plugins.allow("my_nets")
    config = fcn_jax.Config(model=fcn_jax.ModelConfig(arch="my_nets:MyNet"))
"""

import importlib
from typing import Any

from fcn_jax.types import InputError

_allowed: set[str] = set()


def is_plugin(name: str | None) -> bool:
    """Whether a setting names something outside the package."""
    return name is not None and ":" in name


def allow(module: str) -> None:
    """Import a module, and let configurations use what it defines.

    Args:
        module: such as `my_package.nets`.

    Raises:
        InputError: if it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"cannot be imported ({reason})", field="plugin", value=module) from error
    _allowed.add(module)


def find(name: str) -> Any:
    """What `module:attribute` names.

    Raises:
        InputError: if the module was not allowed, or has no such attribute.
    """
    module, _, attribute = name.partition(":")
    if module not in _allowed:
        raise InputError(
            f"{name} is code from outside this package, which is imported only on request: "
            f"name its module here, or from Python call fcn_jax.plugins.allow({module!r})",
            field="plugin",
            value=module,
        )
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(f"the module has no {attribute}", field="plugin", value=module)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{attribute} cannot be called", field="plugin", value=module)
    return found
