"""A U-Net decoder on a ResNet, as segmentation_models.pytorch's `Unet` has it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models.layers import BatchNorm, Conv, DoubledConv, Pair
from fcn_jax.models.resnet import ALL, ResNet


class DecoderBlock(nn.Module):
    """Double by the nearest neighbour, put the skip beside it; twice conv 3x3, BN, ReLU."""

    features: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, skip: Array | None, size: Pair, train: bool) -> Array:
        """[N, h, w, C], [N, *size, S] or None -> [N, *size, features]."""
        init, dtype = self.kernel_init, self.dtype
        x = DoubledConv(self.features, init, dtype, name="conv1")(x, skip, size)
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        conv2 = Conv(self.features, use_bias=False, kernel_init=init, dtype=dtype, name="conv2")
        return nn.relu(BatchNorm(name="bn2")(conv2(x), train))


class ResNetUNet(nn.Module):
    """`unet_resnet18`, 34, 50 and 101: segmentation_models.pytorch's `Unet("resnet50")` and so on.

    | layer | in -> out channels (ResNet-50) | what | output at 224x224 |
    |---|---|---|---|
    | backbone | 3 -> 64, 256, 512, 1024, 2048 | ResNet-50: bn1, four stages | 112x112 to 7x7 |
    | block0 | 2048 + 1024 -> 256 | double; stage 3 beside it; twice conv 3, BN, ReLU | 14x14 |
    | block1 | 256 + 512 -> 128 | the same, with stage 2 | 28x28 |
    | block2 | 128 + 256 -> 64 | the same, with stage 1 | 56x56 |
    | block3 | 64 + 64 -> 32 | the same, with bn1 (after ReLU) | 112x112 |
    | block4 | 32 -> 16 | the same, with nothing beside it | 224x224 |
    | head | 16 -> classes | conv 3 with a bias | 224x224 |

    Parameters at 21 classes: 14 331 109 (ResNet-18), 24 439 269 (34), 32 524 005 (50) and
    51 516 133 (101). Source: segmentation_models.pytorch 0.5, whose state dicts are read and
    written (`weights.torch_names`), after Ronneberger et al. 2015 (arXiv:1505.04597).

    Any input size. segmentation_models.pytorch refuses sides that are no multiples of 32; without
    that check its modules compute what this does: each doubling is cut to the features it meets.

    Attributes:
        num_classes: channels of the logits.
        backbone: a key of `resnet.DEPTHS`.
        width: channels of the backbone's first stage, 64; tests take less. The decoder's widths
            follow: 4, 2, 1, 1/2 and 1/4 of it.
        kernel_init: how the decoder's weights start, `xavier` or `he`. The backbone's are meant
            to be loaded, and start as torchvision's do.
        dtype: of the computation. Parameters, statistics and logits are float32.
        freeze_backbone, freeze_bn, freeze_stages: of the backbone, see `ResNet`; with
            freeze_backbone all of it is frozen.
    """

    num_classes: int = 21
    backbone: str = "resnet50"
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
        backbone = ResNet(
            self.backbone, 32, self.width, self.dtype, frozen, self.freeze_bn, name="backbone"
        )
        *skips, x = backbone(images, train)
        sizes: list[Any] = [images.shape[1:3], *(skip.shape[1:3] for skip in skips)]
        for i, skip in enumerate([*reversed(skips), None]):
            features = self.width * 4 // 2**i
            block = DecoderBlock(features, self.kernel_init, self.dtype, name=f"block{i}")
            x = block(x, skip, sizes[-1 - i], train)
        return Conv(self.num_classes, kernel_init=self.kernel_init, name="head")(x)
