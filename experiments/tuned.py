"""Recipes of our own; `default` is what `experiments.run` uses when no experiment is named."""

from collections.abc import Callable

from fcn_jax.config import Config, DataConfig, ModelConfig, replace
from fcn_jax.data.augment import AugmentConfig
from fcn_jax.optim import OptimConfig


def default() -> Config:
    """Adam with one cosine cycle, horizontal flips, void ignored, He initialisation."""
    return Config(
        experiment="default",
        model=ModelConfig(init="he"),
        augment=AugmentConfig(flip=0.5),
        optim=OptimConfig(lr=1e-3, weight_decay=1e-5, schedule="cosine"),
        epochs=100,
        patience=0,
    )


def quick() -> Config:
    """The FCN on drawn shapes at 96x96, in minutes on two cores; needs no download.

    `python -m experiments.run --experiment quick`
    """
    return replace(
        default(),
        experiment="quick",
        data=DataConfig(dataset="shapes", image_size=(96, 96), batch_size=8),
        epochs=12,
        **{"optim.lr": 1.5e-3},
    )


EXPERIMENTS: dict[str, Callable[[], Config]] = {f.__name__: f for f in (default, quick)}
