"""torchvision's DeepLabV3."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models.layers import BatchNorm, Conv, Dropout, image_mean
from fcn_jax.models.resnet_fcn import DilatedFCN


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: five branches side by side, then a 1x1 convolution.

    The branches are a 1x1 convolution, three dilated 3x3 ones, and a 1x1 convolution of the image's
    mean; each with BN and ReLU, as is the last convolution, which dropout follows.
    """

    features: int
    rates: tuple[int, int, int]
    dropout: float
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, h, w, C] -> [N, h, w, features]."""

        def branch(x: Array, name: str, size: int = 1, dilation: int = 1) -> Array:
            x = Conv(
                self.features, size=size, dilation=dilation, use_bias=False,
                kernel_init=self.kernel_init, dtype=self.dtype, name=f"{name}_conv",
            )(x)  # fmt: skip
            return nn.relu(BatchNorm(name=f"{name}_bn")(x, train))

        parts = [branch(x, "branch0")]
        for i, rate in enumerate(self.rates, 1):
            parts.append(branch(x, f"branch{i}", 3, rate))
        pooled = branch(image_mean(x), "pooling")
        parts.append(jnp.broadcast_to(pooled, parts[0].shape))
        y = branch(jnp.concatenate(parts, -1), "project")
        return Dropout(self.dropout, name="dropout")(y, train)


class DeepLabHead(nn.Module):
    """torchvision's `DeepLabHead`: ASPP, conv 3x3, BN, ReLU, conv 1x1; float32 logits."""

    num_classes: int
    features: int
    rates: tuple[int, int, int]
    dropout: float
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, h, w, C] -> float32 [N, h, w, num_classes]."""
        x = ASPP(
            self.features, self.rates, self.dropout, self.kernel_init, self.dtype, name="aspp"
        )(x, train)
        x = Conv(
            self.features, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype,
            name="conv1",
        )(x)  # fmt: skip
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        return Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="conv2")(x)


class DeepLabV3(DilatedFCN):
    """torchvision's `deeplabv3_resnet50`, `deeplabv3_resnet101` and `deeplabv3_mobilenet_v3_large`.

    | layer | in -> out channels | what | output at 224x224 |
    |---|---|---|---|
    | backbone | 3 -> 2048 | ResNet-50, output stride 8 by dilation | 28x28 |
    | head | 2048 -> 256 -> 256 -> classes | ASPP, conv 3, BN, ReLU, conv 1 | 28x28 |
    | aux_head (option) | 1024 -> 256 -> classes | as `DilatedFCN`'s, on stage 3 | 28x28 |
    | | | bilinear resize to the image, half-pixel centres | 224x224 |

    39 638 869 parameters at 21 classes, 42 004 074 with the auxiliary head; 58 630 997 and
    60 996 202 on ResNet-101. On MobileNetV3-Large, whose output stride is 16 and whose auxiliary
    head is on 40 channels of stage 3, 11 025 477 and 11 029 328. Source: torchvision's
    `models/segmentation/deeplabv3.py`, after Chen et al. 2017 (arXiv:1706.05587). Differences from
    torchvision: see `DilatedFCN`; and a batch of one image can be trained (its normalisation over a
    single value a channel is then all bias).

    Attributes:
        rates: the dilations of the three 3x3 branches; at an output stride of 16 or 32 a half or a
            quarter of them, so that they reach as far in the image (Chen et al., section 4.1).
        dropout: fraction of the ASPP's values that are dropped in training.
    """

    dropout: float = 0.5
    rates: tuple[int, int, int] = (12, 24, 36)

    def make_head(self) -> nn.Module:
        """ASPP and what follows it."""
        a, b, c = (max(1, rate * 8 // (self.output_stride or 8)) for rate in self.rates)
        return DeepLabHead(
            self.num_classes,
            4 * self.width,
            (a, b, c),
            self.dropout,
            self.kernel_init,
            self.dtype,
        )
