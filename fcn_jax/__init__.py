"""Semantic segmentation in pure-functional JAX: train, compare, evaluate and use.

The public names are loaded when they are first asked for, so that `import fcn_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_jax import losses as losses
    from fcn_jax import metrics as metrics
    from fcn_jax import optim as optim
    from fcn_jax.config import Config as Config
    from fcn_jax.inference import load_checkpoint as load_checkpoint
    from fcn_jax.inference import predict as predict
    from fcn_jax.loop import train as train
    from fcn_jax.models import MODELS as MODELS
    from fcn_jax.models import create_model as create_model
    from fcn_jax.torch_weights import load_torch_weights as load_torch_weights
    from fcn_jax.torch_weights import to_torch as to_torch
    from fcn_jax.types import VOID as VOID
    from fcn_jax.types import InputError as InputError

_HOMES = {
    "Config": "config",
    "InputError": "types",
    "MODELS": "models",
    "VOID": "types",
    "create_model": "models",
    "load_checkpoint": "inference",
    "load_torch_weights": "torch_weights",
    "predict": "inference",
    "to_torch": "torch_weights",
    "train": "loop",
}
_MODULES = ("losses", "metrics", "optim")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fcn_jax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"fcn_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fcn_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*sorted(_HOMES), *_MODULES]
