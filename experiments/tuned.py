"""Recipes of our own; `default` is what `experiments.run` uses when no experiment is named.

The `tuned_*` recipes are what the ablation in the README (experiments/results/ablation-camvid.json,
made by `experiments.study ablation`) has left: what is in `tuned_fcn` is there because the score
falls without it (but for the cap of the class weights, a guard where classes are rarer than there),
and what was tried and is not did not raise it. Label smoothing, the focal factor, clipping, colour
jitter and rotation are flags that it has not tried. It is of the FCN, in a short training from
scratch on CamVid, one seed; a long training may want more augmentation, averaged parameters and
re-estimated batch norm, and `python -m experiments.study ablation` says which on any data.
"""

from collections.abc import Callable

from fcn_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    replace,
)


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


def tuned_fcn() -> Config:
    """Batches of 4, root class weights, Dice, warm-up and one cosine cycle, He's start, flips.

    `python -m experiments.run --experiment tuned_fcn --dataset DIR`
    """
    return Config(
        experiment="tuned_fcn",
        data=DataConfig(batch_size=4),
        model=ModelConfig(arch="fcn", init="he"),
        augment=AugmentConfig(flip=0.5),
        loss=LossConfig(class_weights="inverse_sqrt", weight_cap=10.0, dice=1.0),
        optim=OptimConfig(lr=2e-3, weight_decay=1e-5, schedule="cosine", warmup=30),
        epochs=100,
        patience=0,
    )


def tuned_simplified_unet() -> Config:
    """The FCN's recipe; without batch norm half its rate, and gradients clipped to norm 1.

    These two are a precaution against divergence, not the outcome of an ablation.

    `python -m experiments.run --experiment tuned_simplified_unet --dataset DIR`
    """
    return replace(
        tuned_fcn(),
        experiment="tuned_simplified_unet",
        **{"model.arch": "simplified_unet", "optim.lr": 1e-3, "optim.clip_norm": 1.0},
    )


def tuned_unet() -> Config:
    """The FCN's recipe.

    `python -m experiments.run --experiment tuned_unet --dataset DIR`
    """
    return replace(tuned_fcn(), experiment="tuned_unet", **{"model.arch": "unet"})


def tuned_resnet50_fcn() -> Config:
    """The FCN's recipe, the ImageNet backbone fine-tuned at a tenth of the head's rate.

    The tenth is the usual choice and not ablated: the weights were not at hand. With
    `--pretrained none` the backbone learns at the full rate.

    `python -m experiments.run --experiment tuned_resnet50_fcn --dataset DIR`
    """
    return replace(
        tuned_fcn(),
        experiment="tuned_resnet50_fcn",
        **{
            "model.arch": "resnet50_fcn",
            "model.pretrained": "imagenet",
            "optim.backbone_scale": 0.1,
        },
    )


EXPERIMENTS: dict[str, Callable[[], Config]] = {
    f.__name__: f
    for f in (default, quick, tuned_fcn, tuned_simplified_unet, tuned_unet, tuned_resnet50_fcn)
}
