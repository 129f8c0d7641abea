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
    from fcn_jax.inference.predict import load_checkpoint as load_checkpoint
    from fcn_jax.inference.predict import predict as predict
    from fcn_jax.models import MODELS as MODELS
    from fcn_jax.models import create_model as create_model
    from fcn_jax.training.loop import train as train
    from fcn_jax.types import VOID as VOID
    from fcn_jax.types import InputError as InputError
    from fcn_jax.weights.torch_names import load_torch_weights as load_torch_weights
    from fcn_jax.weights.torch_names import to_torch as to_torch

_HOMES = {
    "Config": "config",
    "InputError": "types",
    "MODELS": "models",
    "VOID": "types",
    "create_model": "models",
    "load_checkpoint": "inference.predict",
    "load_torch_weights": "weights.torch_names",
    "predict": "inference.predict",
    "to_torch": "weights.torch_names",
    "train": "training.loop",
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
