"""Recipes of our own; `default` is what `experiments.run` uses when no experiment is named.

`base` is a plain recipe for any network; a `tuned_*` recipe is the base with some changes (`KEPT`).
`experiments.study ablation` takes ingredients out of the base and puts others in, one at a time;
with `--split-train` it does so on an inner split of the training images. experiments/docs/paper.md
says what has been measured.
"""

from collections.abc import Callable
from functools import partial

from fcn_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    replace,
)
from fcn_jax.models import registry


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


def base(arch: str) -> Config:
    """What the studies start from: the same for every network, but for a pretrained backbone.

    Adam with one cosine cycle and warm-up, batches of 16, flips and scale jitter, class weights
    (the root of the inverse frequency, at most 10 times the smallest). A backbone starts from
    ImageNet, learns at a tenth of the rate, and keeps the running statistics of its batch norms.
    """
    config = Config(
        experiment=f"base_{arch}",
        model=ModelConfig(arch=arch, init="he"),
        augment=AugmentConfig(flip=0.5, scale_jitter=(0.75, 1.75)),
        loss=LossConfig(class_weights="inverse_sqrt", weight_cap=10.0),
        optim=OptimConfig(lr=1e-3, weight_decay=1e-5, schedule="cosine", warmup=50),
        epochs=60,
        patience=0,
    )
    if registry.get(arch).backbone is None:
        return config
    transfer = {"pretrained": "imagenet", "freeze_bn": True}
    return replace(
        config,
        **{f"model.{name}": value for name, value in transfer.items()},
        **{"optim.backbone_scale": 0.1},
    )


KEPT: dict[str, dict[str, object]] = {
    "fcn": {},
    "simplified_unet": {},
    "unet": {},
    "resnet50_fcn": {"optim.backbone_scale": 0.0},
    "unet_resnet50": {"data.image_size": (320, 320)},
    "deeplabv3_resnet50": {"data.image_size": (320, 320)},
}
"""Network -> what its recipe changes in the base.

On the inner split DeepLabV3 at 320x320 was the best; `resnet50_fcn` keeps its backbone frozen, as
in the paper, which costs a third of the time."""

BEST = "deeplabv3_resnet50"
"""The network of the experiment `best`."""


def tuned(arch: str) -> Config:
    """The recipe of a network: its base with what the study kept."""
    return replace(base(arch), experiment=f"tuned_{arch}", **KEPT[arch])


def best() -> Config:
    """The recipe with the best score on VOC-2007.

    `python -m experiments.run --experiment best`
    """
    return replace(tuned(BEST), experiment="best")


def best_cpu() -> Config:
    """`best` at a tenth of the arithmetic, for a machine without an accelerator.

    An output stride of 16, fewer pixels, and half the epochs; half the batch, for as many steps.

    `python -m experiments.run --experiment best_cpu`
    """
    changes = {
        "model.output_stride": 16,
        "data.image_size": (256, 256),
        "data.batch_size": 8,
        "epochs": 30,
    }
    return replace(best(), experiment="best_cpu", **changes)


EXPERIMENTS: dict[str, Callable[[], Config]] = {
    "default": default,
    "quick": quick,
    "best": best,
    "best_cpu": best_cpu,
    **{f"base_{arch}": partial(base, arch) for arch in KEPT},
    **{f"tuned_{arch}": partial(tuned, arch) for arch in KEPT},
}
