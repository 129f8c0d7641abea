"""Recipes of our own; `default` is what `experiments.run` uses when no experiment is named."""

from collections.abc import Callable

from fcn_jax.config import Config, ModelConfig
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


EXPERIMENTS: dict[str, Callable[[], Config]] = {"default": default}
