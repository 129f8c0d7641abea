"""The pretrained backbones by name."""

from typing import Any

import flax.linen as nn

from fcn_jax.models import mobilenet, resnet
from fcn_jax.types import InputError

MOBILENET = "mobilenet_v3_large"


def create(backbone: str, output_stride: int | None = None, **kwargs: Any) -> nn.Module:
    """A dilated ResNet, of output stride 8 for None, or MobileNetV3-Large, which always has 16.

    Raises:
        InputError: an output stride was given for MobileNetV3-Large.
    """
    if backbone == MOBILENET:
        if output_stride is not None:
            raise InputError(f"output stride {output_stride}: {backbone} has its own, leave it out")
        return mobilenet.MobileNetV3(**kwargs)
    return resnet.ResNet(backbone, 8 if output_stride is None else output_stride, **kwargs)


def parts(backbone: str | None) -> tuple[tuple[str, ...], ...]:
    """How the names of the parameters begin in each of the five parts that can be frozen."""
    return mobilenet.PARTS if backbone == MOBILENET else resnet.PARTS


def is_backbone(name: str) -> bool:
    """Whether there is a backbone of that name."""
    return name == MOBILENET or name in resnet.DEPTHS


def check(name: str) -> None:
    """Raise InputError for an unknown name."""
    if not is_backbone(name):
        known = ", ".join([*resnet.DEPTHS, MOBILENET])
        raise InputError(f"unknown backbone {name!r}: choose one of {known}")
