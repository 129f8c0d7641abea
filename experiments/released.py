"""The paper's experiments as its released SCRIPTS ran them, where these differ from its text.

`python -m experiments.reproduce --released` trains them, `python -m experiments.evaluate RUN
--plugin experiments.released` evaluates one again; `experiments.paper` has what the text says. What
the scripts did differently:

- every label of the augmented images was lost: the masks were divided by 255 and cast to integers,
  which leaves 0 (background), or 1 where the border's 255 had not been removed before;
- these images were not normalised, while those of validation were;
- annealing went from 1e-4 to 1e-4 with the FCN, and the last three networks were trained at 1e-2
  without weight decay, annealed to the text's eta_min of 1e-3;
- the two convolutions of a U-Net stage shared one batch norm;
- the running statistics of the frozen backbone's batch norms moved.

None of this is an option of the library: the networks and the lost labels live in this file. The
scripts also drew the biases of convolutions from a normal distribution of variance 1; this is not
repeated here, nor is the baseline, of which no other difference is known.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from fcn_jax.data import batches
from fcn_jax.data.prepare import Dataset
from fcn_jax.models import register_model
from fcn_jax.models.fcn import FCN
from fcn_jax.models.layers import BatchNorm, Conv
from fcn_jax.models.resnet_fcn import ResNetFCN
from fcn_jax.models.unet import UNet
from fcn_jax.types import VOID

# ---- networks ------------------------------------------------------------------------------------


class UnnormalisedFCN(FCN):
    """The FCN that is trained on images in 0..1, and validated on normalised ones."""

    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        if train:
            mean, std = (jnp.asarray([[[v]]], jnp.float32) for v in (batches.MEAN, batches.STD))
            images = images * std + mean
        return super().__call__(images, train)


class SharedNormDoubleConv(nn.Module):
    """Twice: convolution 3x3, the same normalisation, ReLU. Parameters `conv1`, `conv2`, `bn`."""

    features: int
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, H, W, C] -> [N, H, W, features]."""
        norm = BatchNorm(name="bn")
        for name in ("conv1", "conv2"):
            conv = Conv(self.features, kernel_init=self.kernel_init, dtype=self.dtype, name=name)
            x = nn.relu(norm(conv(x), train))
        return x


class SharedNormUNet(UNet):
    """The U-Net with one batch norm for both convolutions of a stage: 31 038 933 parameters."""

    STAGE = SharedNormDoubleConv


def drifting_resnet50_fcn(
    num_classes: int = 21,
    kernel_init: str = "xavier",
    dtype: Any = jnp.float32,
    freeze_backbone: bool = True,
    backbone: str = "resnet50",
    width: int = 64,
) -> ResNetFCN:
    """`resnet50_fcn` whose backbone normalises by the batch in training, and keeps the statistics.

    Frozen or not: its weights stay as they are because the optimizer gives them a rate of 0.
    """
    del freeze_backbone
    return ResNetFCN(num_classes, backbone, False, width, kernel_init, dtype)


register_model("released_fcn", UnnormalisedFCN)
register_model("released_unet", SharedNormUNet)
register_model(
    "released_resnet50_fcn",
    drifting_resnet50_fcn,
    backbone="resnet50",
    can_freeze=True,
    freezes_pretrained=True,
)

# ---- labels --------------------------------------------------------------------------------------

ALL_BACKGROUND = np.zeros(256, np.uint8)
"""Mask value -> label, where void was background before the masks were divided by 255."""

VOID_IS_CLASS_1 = np.zeros(256, np.uint8)
"""The same where it was not: 255 / 255 is 1, so that the borders are aeroplane."""
VOID_IS_CLASS_1[VOID] = 1


# ---- experiments ---------------------------------------------------------------------------------


class Released(NamedTuple):
    """One script."""

    text: str
    """The experiment of `paper.EXPERIMENTS` that it belongs to."""
    note: str
    changes: Mapping[str, Any]
    """Field of `Config` -> what the script had instead."""
    labels: np.ndarray | None = None
    """Mask value -> label in training, uint8 [256]; None: the true ones."""

    def adapt(self, dataset: Dataset) -> Dataset:
        """The data set as the script saw it: validation keeps the true labels."""
        if self.labels is None:
            return dataset
        train = [e._replace(mask=self.labels[e.mask]) for e in dataset.splits["train"]]
        return dataclasses.replace(dataset, splits={**dataset.splits, "train": train})


_FLAT = {"optim.eta_min": 1e-4}
_LOST = {**_FLAT, "model.arch": "released_fcn"}
_FAST = {"optim.lr": 1e-2, "optim.weight_decay": 0.0}
_FAST_RESNET = {**_FAST, "model.arch": "released_resnet50_fcn"}
_FAST_UNET = {**_FAST, "model.arch": "released_unet"}

_FLAT_NOTE = "lr = eta_min = 1e-4, so that annealing does nothing"
_LOST_NOTE = f"{_FLAT_NOTE}; training images not normalised; every training label background"
_CAST_NOTE = f"{_LOST_NOTE}, except that void (255 / 255 = 1) is aeroplane"
_FAST_NOTE = "lr 1e-2 to 1e-3, no weight decay"
_RESNET_NOTE = f"{_FAST_NOTE}; the frozen backbone's running statistics move"
_UNET_NOTE = f"{_FAST_NOTE}; one batch norm for both convolutions of a stage"

EXPERIMENTS: Mapping[str, Released] = {
    "cosine": Released("cosine", _FLAT_NOTE, _FLAT),
    "augmented": Released("augmented", _LOST_NOTE, _LOST, ALL_BACKGROUND),
    "augmented_cast": Released("augmented", _CAST_NOTE, _LOST, VOID_IS_CLASS_1),
    "weighted": Released("weighted", _LOST_NOTE, _LOST, ALL_BACKGROUND),
    "weighted_cast": Released("weighted", _CAST_NOTE, _LOST, VOID_IS_CLASS_1),
    "simplified_unet": Released("simplified_unet", _FAST_NOTE, _FAST),
    "resnet50": Released("resnet50", _RESNET_NOTE, _FAST_RESNET),
    "unet": Released("unet", _UNET_NOTE, _FAST_UNET),
}
"""Name -> script. `_cast`: void had been left in the masks."""
