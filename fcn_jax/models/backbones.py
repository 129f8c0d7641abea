"""The pretrained backbones by name."""

from typing import Any

import flax.linen as nn

from fcn_jax.models import resnet
from fcn_jax.models.mobilenet import MobileNetV3
from fcn_jax.types import InputError

MOBILENET = "mobilenet_v3_large"


def create(backbone: str, output_stride: int = 32, **kwargs: Any) -> nn.Module:
    """A ResNet, or MobileNetV3-Large, which always has the output stride 16."""
    if backbone == MOBILENET:
        return MobileNetV3(**kwargs)
    return resnet.ResNet(backbone, output_stride, **kwargs)


def is_backbone(name: str) -> bool:
    """Whether there is a backbone of that name."""
    return name == MOBILENET or name in resnet.DEPTHS


def check(name: str) -> None:
    """Raise InputError for an unknown name."""
    if not is_backbone(name):
        known = ", ".join([*resnet.DEPTHS, MOBILENET])
        raise InputError(f"unknown backbone {name!r}: choose one of {known}")
