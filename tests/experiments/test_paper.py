"""The paper's seven recipes, value by value, as its text has them; none is read from the code."""

from typing import Any

import numpy as np
import pytest

from experiments import paper
from fcn_jax import config as configs
from fcn_jax import optim

BASELINE: dict[str, Any] = {
    "data.dataset": "voc2007",
    "data.image_size": [224, 224],
    "data.batch_size": 16,
    "data.void_as_background": True,
    "data.overfit": 0,
    "model.arch": "fcn",
    "model.init": "xavier",
    "model.pretrained": None,
    "augment.flip": 0.0,
    "augment.crop_scale": None,
    "augment.scale_jitter": None,
    "augment.colour_jitter": 0.0,
    "augment.rotation": 0.0,
    "loss.class_weights": "none",
    "loss.weight_cap": None,
    "loss.label_smoothing": 0.0,
    "loss.focal_gamma": 0.0,
    "loss.dice": 0.0,
    "optim.name": "adam",
    "optim.lr": 1e-4,
    "optim.weight_decay": 1e-5,
    "optim.schedule": "constant",
    "optim.warmup": 0,
    "optim.backbone_scale": None,
    "optim.clip_norm": None,
    "optim.ema": 0.0,
    "epochs": 500,
    "patience": 30,
    "bn_batches": 0,
    "seed": 0,
    "precision": "f32",
}
COSINE = {
    **BASELINE,
    "optim.schedule": "cosine_annealing",
    "optim.t_max": 10,
    "optim.eta_min": 0.001,
}
AUGMENTED = {
    **COSINE,
    "augment.flip": 0.5,
    "augment.crop_scale": [0.08, 1.0],
    "augment.crop_ratio": [3 / 4, 4 / 3],
}
WEIGHTED = {**AUGMENTED, "loss.class_weights": "inverse"}

RECIPES = {
    "baseline": BASELINE,
    "cosine": COSINE,
    "augmented": AUGMENTED,
    "weighted": WEIGHTED,
    "simplified_unet": {**WEIGHTED, "model.arch": "simplified_unet"},
    "resnet50": {
        **WEIGHTED,
        "model.arch": "resnet50_fcn",
        "model.pretrained": "imagenet",
        "optim.backbone_scale": 0.0,
    },
    "unet": {**WEIGHTED, "model.arch": "unet"},
}

NUMBERS = {
    "baseline": (0.055, 0.704),
    "cosine": (0.0612, 0.704),
    "augmented": (0.0321, 0.704),
    "weighted": (0.0274, 0.529),
    "simplified_unet": (0.0383, 0.751),
    "resnet50": (0.157, 0.824),
    "unet": (0.0358, 0.751),
}
"""IoU and pixel accuracy on the validation split, the paper's section 6."""


def flat(config: configs.Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in configs.to_dict(config).items():
        if isinstance(value, dict):
            values |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            values[name] = value
    return values


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_papers_text(name):
    got, defaults = flat(paper.EXPERIMENTS[name]()), flat(configs.Config())
    # What is not named by the paper is at its default, so it must be off there.
    expected = {**defaults, **RECIPES[name], "experiment": name}
    assert got == expected


def test_the_seven_recipes_in_the_papers_order():
    assert list(paper.EXPERIMENTS) == list(RECIPES)
    assert {k: tuple(v) for k, v in paper.PAPER.items()} == NUMBERS


def test_the_rates_of_the_recipes():
    """Constant 1e-4; then up to 1e-3 within 10 steps and back: eta_min lies above the rate."""

    def rates(name):
        schedule = optim.make_schedule(paper.EXPERIMENTS[name]().optim, 7000)
        return [float(schedule(step)) for step in (0, 5, 10, 20, 30)]

    np.testing.assert_allclose(rates("baseline"), 1e-4, rtol=1e-6)
    for name in list(RECIPES)[1:]:
        np.testing.assert_allclose(rates(name), [1e-4, 5.5e-4, 1e-3, 1e-4, 1e-3], rtol=1e-5)
