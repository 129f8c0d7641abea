"""MobileNetV3-Large as features for segmentation, and LR-ASPP on it (arXiv:1905.02244)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from fcn_jax.models.layers import BatchNorm, Conv, DepthwiseConv, image_mean, resize_bilinear
from fcn_jax.models.resnet import ALL


class Block(NamedTuple):
    """What sets one inverted residual apart from another."""

    size: int
    """Of the depthwise kernel."""
    expanded: int
    """Channels that it is applied to."""
    features: int
    """Channels of the result."""
    reduced: int
    """Channels between the two layers of squeeze-and-excite; 0: there is none."""


STAGES: tuple[tuple[Block, ...], ...] = (
    (Block(3, 16, 16, 0),),
    (Block(3, 64, 24, 0), Block(3, 72, 24, 0)),
    (Block(5, 72, 40, 24), Block(5, 120, 40, 32), Block(5, 120, 40, 32)),
    (
        Block(3, 240, 80, 0), Block(3, 200, 80, 0), Block(3, 184, 80, 0), Block(3, 184, 80, 0),
        Block(3, 480, 112, 120), Block(3, 672, 112, 168),
    ),
    (Block(5, 672, 160, 168), Block(5, 960, 160, 240), Block(5, 960, 160, 240)),
)  # fmt: skip
"""Blocks between two halvings: at a half, a quarter, ... of the image's size."""

PARTS = (("stem_", "stage1_"), ("stage2_",), ("stage3_",), ("stage4_",), ("stage5_", "last_"))
"""How the names of its parameters begin in each of the parts that can be frozen."""


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, convolve each channel, squeeze and excite, narrow by another.

    The three convolutions have a normalisation and no bias; the activation follows the first two. A
    block that is as wide as its input does not widen it. The input is added where the shapes agree.
    """

    block: Block
    stride: int
    dilation: int
    hard_swish: bool
    norm: dict[str, Any]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), C']."""
        kwargs: dict[str, Any] = {"kernel_init": "he_fan_out", "dtype": self.dtype}
        activation = nn.hard_swish if self.hard_swish else nn.relu

        def bn(x: Array, name: str) -> Array:
            return BatchNorm(name=f"{name}_bn", **self.norm)(x, train)

        y, block = x, self.block
        if block.expanded != x.shape[-1]:
            expand = Conv(block.expanded, size=1, use_bias=False, name="expand_conv", **kwargs)
            y = activation(bn(expand(y), "expand"))
        depthwise = DepthwiseConv(
            block.size, self.stride, self.dilation, name="depthwise_conv", **kwargs
        )
        y = activation(bn(depthwise(y), "depthwise"))
        if block.reduced:
            reduced = nn.relu(Conv(block.reduced, size=1, name="fc1", **kwargs)(image_mean(y)))
            excited = Conv(block.expanded, size=1, name="fc2", **kwargs)(reduced)
            y = nn.hard_sigmoid(excited) * y
        project = Conv(block.features, size=1, use_bias=False, name="project_conv", **kwargs)
        y = bn(project(y), "project")
        return x + y if self.stride == 1 and x.shape[-1] == block.features else y


class MobileNetV3(nn.Module):
    """torchvision's `mobilenet_v3_large(dilated=True).features`.

    | part | layers | channels | stride |
    |---|---|---|---|
    | stem, stage1 | conv 3, 2, 1, BN, hard-swish; 1 block | 16 | 2 |
    | stage2 | 2 blocks | 24 | 4 |
    | stage3 | 3 blocks | 40 | 8 |
    | stage4 | 6 blocks | 80, 112 | 16 |
    | stage5, last | 3 blocks, dilated, not halved; conv 1, BN, hard-swish | 160, 960 | 16 |

    The weights start as torchvision's do: He, normal, by fan-out. So do its normalisations: an
    epsilon of 0.001, and statistics that move by 0.01.

    Attributes:
        width: 64 is the whole network; tests take less.
        dtype: of the computation and of the features. Parameters and statistics are float32.
        frozen: how many of its five parts are frozen, from the input on, see `resnet.ResNet`.
        freeze_bn: use the running statistics everywhere, see `resnet.ResNet`.
    """

    width: int = 64
    dtype: Any = jnp.float32
    frozen: int = 0
    freeze_bn: bool = False

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """[N, H, W, 3] normalised float32 -> the results of stage3's first block, and of all.

        They are at an eighth and at a sixteenth of the image's size, rounded up.
        """
        norm: dict[str, Any] = {"momentum": 0.01, "epsilon": 1e-3}

        def scaled(channels: int) -> int:
            return max(1, channels * self.width // 64) if channels else 0

        def conv_bn(x: Array, name: str, features: int, train: bool, **kwargs: Any) -> Array:
            x = Conv(
                scaled(features), use_bias=False, kernel_init="he_fan_out", dtype=self.dtype,
                name=f"{name}_conv", **kwargs,
            )(x)  # fmt: skip
            return nn.hard_swish(BatchNorm(name=f"{name}_bn", **norm)(x, train))

        train = train and not self.freeze_bn
        low = x = conv_bn(images, "stem", 16, train and self.frozen < 1, stride=2)
        for stage, blocks in enumerate(STAGES, 1):
            for i, block in enumerate(blocks):
                x = InvertedResidual(
                    Block(block.size, *map(scaled, block[1:])),
                    stride=2 if i == 0 and stage in (2, 3, 4) else 1,
                    dilation=2 if stage == 5 else 1,
                    hard_swish=stage > 3,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"stage{stage}_{i}",
                )(x, train and self.frozen < stage)
                if (stage, i) == (3, 0):
                    low = x
            if stage == 5:
                x = conv_bn(x, "last", 960, train and self.frozen < 5, size=1)
            if self.frozen >= stage:
                x, low = lax.stop_gradient((x, low))
        return low, x


class LRASPPHead(nn.Module):
    """torchvision's `LRASPPHead`: the fine features and the coarse ones, classified and added.

    The coarse ones are first weighted, channel by channel, by a sigmoid of the image's mean.
    """

    num_classes: int
    features: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, low: Array, high: Array, train: bool) -> Array:
        """[N, h, w, C], [N, h', w', C'] -> float32 [N, h, w, num_classes]."""

        def conv(x: Array, name: str) -> Array:
            return Conv(
                self.features, size=1, use_bias=False, kernel_init=self.kernel_init,
                dtype=self.dtype, name=name,
            )(x)  # fmt: skip

        x = nn.relu(BatchNorm(name="bn")(conv(high, "conv"), train))
        scale = nn.sigmoid(conv(image_mean(high), "scale_conv"))
        x = resize_bilinear(x * scale, low.shape[1:3])
        classify = partial(Conv, self.num_classes, size=1, kernel_init=self.kernel_init)
        return classify(name="low_classifier")(low) + classify(name="high_classifier")(x)


class LRASPP(nn.Module):
    """torchvision's `lraspp_mobilenet_v3_large`.

    | layer | in -> out channels | what | output at 224x224 |
    |---|---|---|---|
    | backbone | 3 -> 40 (stage3's first block), 960 | MobileNetV3-Large, dilated | 28x28, 14x14 |
    | head | 40, 960 -> 128 -> classes | see `LRASPPHead` | 28x28 |
    | | | bilinear resize to the image, half-pixel centres | 224x224 |

    3 221 538 parameters at 21 classes. Source: torchvision's `models/segmentation/lraspp.py`, after
    Howard et al. 2019 (arXiv:1905.02244). Difference: the head's weights start by `kernel_init`.

    Attributes:
        num_classes: channels of the logits.
        width: of the backbone and the head, 64; tests take less.
        kernel_init: how the head's weights start, `xavier` or `he`.
        dtype: of the computation. Parameters, statistics and logits are float32.
        freeze_backbone, freeze_bn, freeze_stages: of the backbone, see `MobileNetV3`; with
            freeze_backbone all of it is frozen.
    """

    num_classes: int = 21
    width: int = 64
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32
    freeze_backbone: bool = False
    freeze_bn: bool = False
    freeze_stages: int = 0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        frozen = ALL if self.freeze_backbone else self.freeze_stages
        backbone = MobileNetV3(self.width, self.dtype, frozen, self.freeze_bn, name="backbone")
        head = LRASPPHead(
            self.num_classes, 2 * self.width, self.kernel_init, self.dtype, name="head"
        )
        return resize_bilinear(head(*backbone(images, train), train), images.shape[1:3])
