"""A few steps of each network, made small, give the losses that they always gave.

The values were recorded when the networks trained as PyTorch's do (tests/models). What changes one
of them changes the numerics of every run: say why, and record it again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import models, optim
from fcn_jax.config import AugmentConfig, LossConfig, OptimConfig
from fcn_jax.models import mobilenet, resnet
from fcn_jax.training import steps
from fcn_jax.types import VOID, Batch
from fcn_jax.weights import initialize

SIZE = (64, 64)

LOSSES = {
    "fcn": [1.92941, 1.963636, 1.91487],
    "simplified_unet": [1.548255, 1.560902, 1.565225],
    "unet": [2.095316, 2.06302, 2.055568],
    "resnet50_fcn": [1.867907, 1.769389, 1.664166],
    "fcn_resnet50": [1.57937, 1.286814, 1.519774],
    "unet_resnet18": [1.618212, 1.609678, 1.627233],
    "deeplabv3_resnet50": [1.898331, 1.568996, 1.494393],
    "lraspp_mobilenet_v3_large": [1.873073, 1.828329, 1.789345],
}
"""Network -> the training loss of its first steps."""

RTOL = (1e-5, 1e-4, 1e-3)
"""Of each step. Adam divides by the gradient's size, so that rounding grows from step to step."""

OTHER_RTOL = dict.fromkeys(("fcn_resnet50", "deeplabv3_resnet50"), (1e-5, 1e-3, 5e-3))
"""Of networks whose batch norms enlarge rounding: with other processors, versions of XLA or levels
of its optimization the second loss differs by 2e-4 and the third by 1.4e-3."""

SLOW = set(LOSSES) - {"fcn", "simplified_unet"}

ON_TINY = {"backbone": "tiny"}
SMALL = {
    "simplified_unet": {"width": 16},
    "unet": {"width": 16},
    "resnet50_fcn": ON_TINY,
    "fcn_resnet50": ON_TINY,
    "unet_resnet18": {"backbone": "tiny", "width": 16},
    "deeplabv3_resnet50": ON_TINY,
}
"""Network -> options by which it compiles sooner."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """`tiny` has one bottleneck a stage, MobileNetV3 one block: the last of each."""
    monkeypatch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), True))
    monkeypatch.setattr(mobilenet, "STAGES", tuple(stage[-1:] for stage in mobilenet.STAGES))


def batch(count=4) -> Batch:
    """Noise with a dark rectangle of class 1 or 2 in each image, void along its upper edge."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (count, *SIZE, 3), np.uint8)
    mask = np.zeros((count, *SIZE), np.uint8)
    for i in range(count):
        top, left = rng.integers(4, 24, 2)
        image[i, top : top + 24, left : left + 32] //= 4
        mask[i, top : top + 24, left : left + 32] = 1 + i % 2
        mask[i, top, left : left + 32] = VOID
    return Batch(image, mask, np.full((count, 2), SIZE[0], np.int32))


@pytest.mark.parametrize(
    "arch", [pytest.param(a, marks=[pytest.mark.slow] if a in SLOW else []) for a in LOSSES]
)
def test_the_losses_are_those_recorded(arch):
    model, key = models.create_model(arch, 3, **SMALL.get(arch, {})), jax.random.key(0)
    optimizer = optim.make_optimizer(OptimConfig(lr=1e-4), 4)
    state = steps.init_state(optimizer, initialize.random_init(model, key, SIZE))
    step = jax.jit(
        steps.make_train_step(
            model,
            optimizer,
            image_size=SIZE,
            augmentation=AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0)),
            loss=LossConfig(dice=0.5, label_smoothing=0.1),
            class_weights=jnp.array([0.2, 1.0, 3.0]),
        )
    )
    losses = []
    for _ in LOSSES[arch]:
        state, values = step(state, batch(), key)
        losses.append(float(values["loss"]))
    tolerances = OTHER_RTOL.get(arch, RTOL)
    for got, expected, rtol in zip(losses, LOSSES[arch], tolerances, strict=True):
        np.testing.assert_allclose(got, expected, rtol=rtol)
