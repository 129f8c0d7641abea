"""Semantic segmentation in pure-functional JAX: train, evaluate, compare and use networks.

Train a network, then label the pixels of any image:

    import fcn_jax

    config = fcn_jax.Config(
        data=fcn_jax.DataConfig(dataset="shapes", image_size=(64, 64)), epochs=2
    )
    dataset = fcn_jax.load_dataset("shapes")
    result = fcn_jax.train(config, dataset, "runs/mine")
    print(result["val"]["miou"])

    network = fcn_jax.load_checkpoint("runs/mine")
    mask = fcn_jax.predict(network, dataset.splits["val"][0].image)  # uint8 [height, width]

Use a network as any Flax module, with PyTorch's weights:

    model = fcn_jax.create_model("fcn_resnet50", num_classes=21)
    variables = fcn_jax.load_torch_weights("fcn_resnet50", "fcn_resnet50_coco.pth")
    logits = model.apply(variables, fcn_jax.normalize(images), train=False)

Data: `load_dataset`, `Dataset` (also from arrays), `normalize`, `VOID`. Settings: `Config` and its
parts, `replace`, `Runtime`. Networks: `MODELS`, `create_model`, `register_model`,
`load_torch_weights`, `to_torch`. Runs: `train` with a `Callback`, `load_checkpoint`,
`load_published`, `predict` with `TTA`, `segment`, `evaluate_checkpoint`. Modules: `losses`,
`metrics`, `optim`, `plugins`. Errors about input are `InputError`. The same is done from a shell
by `fcn-jax run`, `evaluate`, `predict` and others.

Names are loaded when they are first used, so that `import fcn_jax` costs nothing and changes
nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_jax import losses, metrics, optim
    from fcn_jax.analysis.notebook import segment, train
    from fcn_jax.config import (
        AugmentConfig,
        Config,
        DataConfig,
        LossConfig,
        ModelConfig,
        OptimConfig,
        Runtime,
        plugins,
        replace,
    )
    from fcn_jax.data.batches import normalize
    from fcn_jax.data.dataset import Dataset
    from fcn_jax.data.prepare import load as load_dataset
    from fcn_jax.inference.predict import TTA, load_checkpoint, load_published, predict
    from fcn_jax.models import MODELS, create_model, register_model
    from fcn_jax.training.callbacks import Callback
    from fcn_jax.training.evaluate import evaluate_checkpoint
    from fcn_jax.types import VOID, InputError
    from fcn_jax.weights.torch_weights import load_torch_weights, to_torch

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "TTA",
    "VOID",
    "AugmentConfig",
    "Callback",
    "Config",
    "DataConfig",
    "Dataset",
    "InputError",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "Runtime",
    "create_model",
    "evaluate_checkpoint",
    "load_checkpoint",
    "load_dataset",
    "load_published",
    "load_torch_weights",
    "losses",
    "metrics",
    "normalize",
    "optim",
    "plugins",
    "predict",
    "register_model",
    "replace",
    "segment",
    "to_torch",
    "train",
]

_MODULE_OF = {
    "analysis.notebook": ("segment", "train"),
    "config": (
        *("AugmentConfig", "Config", "DataConfig", "LossConfig", "ModelConfig", "OptimConfig"),
        *("Runtime", "plugins", "replace"),
    ),
    "data.batches": ("normalize",),
    "data.dataset": ("Dataset",),
    "data.prepare": ("load_dataset",),
    "inference.predict": ("TTA", "load_checkpoint", "load_published", "predict"),
    "models": ("MODELS", "create_model", "register_model"),
    "training.callbacks": ("Callback",),
    "training.evaluate": ("evaluate_checkpoint",),
    "types": ("InputError", "VOID"),
    "weights.torch_weights": ("load_torch_weights", "to_torch"),
}
_MODULES = ("losses", "metrics", "optim")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fcn_jax.{name}")
    for module_name, names in _MODULE_OF.items():
        if name in names:
            module = importlib.import_module(f"fcn_jax.{module_name}")
            return getattr(module, "load" if name == "load_dataset" else name)
    raise AttributeError(f"module 'fcn_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
