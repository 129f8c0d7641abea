"""ResNet-18, 34, 50 and 101 as feature pyramids (He et al. 2015, arXiv:1512.03385)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from fcn_jax.models.layers import BatchNorm, Conv
from fcn_jax.ops.max_pool import max_pool
from fcn_jax.types import InputError


class Depth(NamedTuple):
    """What sets one ResNet apart from another."""

    blocks: tuple[int, int, int, int]
    """Residual blocks in each of the four stages."""
    bottleneck: bool
    """Blocks of 1x1, 3x3, 1x1 convolutions, four times as wide at the end; or of two 3x3."""


DEPTHS: dict[str, Depth] = {
    "resnet18": Depth((2, 2, 2, 2), False),
    "resnet34": Depth((3, 4, 6, 3), False),
    "resnet50": Depth((3, 4, 6, 3), True),
    "resnet101": Depth((3, 4, 23, 3), True),
}


PARTS = (("conv1", "bn1"), ("layer1_",), ("layer2_",), ("layer3_",), ("layer4_",))
"""How the names of its parameters begin in each of the parts that can be frozen."""

ALL = len(PARTS)
"""Freezes all of them; every backbone has as many."""


class Block(nn.Module):
    """One residual block: x' = ReLU(branch(x) + shortcut(x)).

    With a bottleneck: conv1 1x1, conv2 3x3 (the stride is here: torchvision's "v1.5"), conv3 1x1.
    Without: conv1 3x3 (stride), conv2 3x3. Every convolution has a normalisation and no bias. The
    shortcut is x itself, or where the shape changes a 1x1 convolution with a normalisation.
    """

    features: int
    bottleneck: bool
    stride: int
    dilations: tuple[int, int]
    """Of the convolution with the stride, and of the 3x3 convolution after it, if there is one."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), C']."""

        def conv(x: Array, name: str, bn: str, features: int, **kwargs: Any) -> Array:
            x = Conv(
                features, use_bias=False, kernel_init="he_fan_out", dtype=self.dtype,
                name=name, **kwargs,
            )(x)  # fmt: skip
            return BatchNorm(name=bn)(x, train)

        first, second = self.dilations
        strided = {"size": 3, "stride": self.stride, "dilation": first}
        out = self.features * (4 if self.bottleneck else 1)
        shortcut = x
        if self.stride > 1 or x.shape[-1] != out:
            shortcut = conv(x, "downsample_conv", "downsample_bn", out, size=1, stride=self.stride)
        if self.bottleneck:
            y = nn.relu(conv(x, "conv1", "bn1", self.features, size=1))
            y = nn.relu(conv(y, "conv2", "bn2", self.features, **strided))
            y = conv(y, "conv3", "bn3", out, size=1)
        else:
            y = nn.relu(conv(x, "conv1", "bn1", self.features, **strided))
            y = conv(y, "conv2", "bn2", out, size=3, dilation=second)
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """torchvision's ResNet without its average pooling and classifier.

    | stage | layers | channels: basic blocks, bottlenecks | stride |
    |---|---|---|---|
    | conv1, bn1 | conv 7, 2, 3, BN, ReLU, max-pool 3, 2, 1 | 64, 64 | 4 |
    | layer1 | blocks `layer1_0`, `layer1_1`, ... | 64, 256 | 4 |
    | layer2 | the first block has stride 2 | 128, 512 | 8 |
    | layer3 | the first block has stride 2 | 256, 1024 | 16 |
    | layer4 | the first block has stride 2 | 512, 2048 | 32 |

    With `output_stride` 16 or 8 the last one or two stages keep their size and dilate their 3x3
    convolutions instead, as torchvision's `replace_stride_with_dilation` does: the features at
    every second (fourth) pixel are the ones of stride 32, and there are new ones between them.
    torchvision refuses that for ResNet-18 and 34; here the same rule holds for all.

    The weights start as torchvision's do: He, normal, by fan-out.

    Attributes:
        depth: a key of `DEPTHS`.
        output_stride: 32, 16 or 8.
        width: channels of the first stage: 64, tests take less.
        dtype: of the computation and of the features. Parameters and statistics are float32.
        frozen: how many of its five parts are frozen, from the input on: 1 is conv1 with bn1, 2
            layer1 too, 5 all of it. Frozen parts get no gradient (none of their backward pass is
            computed), use their running statistics, and these stay as they are.
        freeze_bn: use the running statistics everywhere, also in training, and keep them; scale and
            bias of the normalisations still train.
    """

    depth: str = "resnet50"
    output_stride: int = 32
    width: int = 64
    dtype: Any = jnp.float32
    frozen: int = 0
    freeze_bn: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> tuple[Array, ...]:
        """[N, H, W, 3] normalised float32 -> the results of bn1 (after ReLU) and of layer1 to 4.

        Their sides are ceil(H / 2), then half of that, rounded up, until the output stride is met.
        """
        blocks, bottleneck = check_depth(self.depth, self.output_stride)
        x = Conv(
            self.width, size=7, stride=2, use_bias=False, kernel_init="he_fan_out",
            dtype=self.dtype, name="conv1",
        )(images)  # fmt: skip
        train = train and not self.freeze_bn
        x = nn.relu(BatchNorm(name="bn1")(x, train and self.frozen < 1))
        features = [lax.stop_gradient(x) if self.frozen >= 1 else x]
        x = max_pool(features[-1], size=3, stride=2, padding=1)
        total, dilation = 4, 1
        for stage, count in enumerate(blocks, 1):
            stride = 1 if stage == 1 else 2
            before = dilation
            if total * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            total *= stride
            for i in range(count):
                x = Block(
                    self.width * 2 ** (stage - 1),
                    bottleneck,
                    stride if i == 0 else 1,
                    # In the first block only what comes after the former stride spreads out.
                    (before if i == 0 else dilation, dilation),
                    dtype=self.dtype,
                    name=f"layer{stage}_{i}",
                )(x, train and self.frozen <= stage)
            x = lax.stop_gradient(x) if self.frozen > stage else x
            features.append(x)
        return tuple(features)


def check_depth(depth: str, output_stride: int = 32) -> Depth:
    """The ResNet of that name. Raises InputError where it or the output stride is not known."""
    if depth not in DEPTHS:
        raise InputError(f"unknown backbone {depth!r}: choose one of {', '.join(DEPTHS)}")
    if output_stride not in (8, 16, 32):
        raise InputError(f"output stride {output_stride}: choose 8, 16 or 32")
    return DEPTHS[depth]
