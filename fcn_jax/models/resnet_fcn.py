"""Segmentation networks on a ResNet: the paper's, and torchvision's `fcn_resnet50` and 101."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models import backbones
from fcn_jax.models.layers import BatchNorm, Conv, ConvTranspose, Dropout, resize_bilinear
from fcn_jax.models.resnet import ALL, ResNet


class ResNetFCN(nn.Module):
    """The paper's transfer learning (section 5.2 and Table 2): `resnet50_fcn`.

    | layer | in -> out channels | kernel, stride, padding | then | output at 224x224 |
    |---|---|---|---|---|
    | backbone | 3 -> 2048 | ResNet-50 to its stage 4, frozen | - | 7x7 |
    | conv1 | 2048 -> 1024 | 1, 1, 0 | ReLU | 7x7 |
    | conv2 | 1024 -> 512 | 1, 1, 0 | ReLU | 7x7 |
    | deconv1 | 512 -> 256 | 3, 2, 1, output padding 1 | ReLU | 14x14 |
    | deconv2 | 256 -> 128 | 3, 2, 1, output padding 1 | ReLU | 28x28 |
    | deconv3 | 128 -> 64 | 3, 2, 1, output padding 1 | ReLU, BN | 56x56 |
    | deconv4 | 64 -> 64 | 3, 2, 1, output padding 1 | ReLU, BN | 112x112 |
    | classifier | 64 -> classes | 1, 1, 0 | - | 112x112 |
    | | | bilinear resize to the image, half-pixel centres | - | 224x224 |

    27 718 293 parameters at 21 classes, 4 210 261 of them trained when the backbone is frozen. Any
    input size: the decoder gives 16 ceil(H / 32) rows, and the resize fits them to the image.

    Differences from the paper, and why:
    - Frozen means frozen: the backbone uses its running statistics in training, and they stay as
      they are. The released code froze the weights only, so that small batches of VOC moved the
      statistics of ImageNet away from them. No gradient flows into a frozen backbone, so none of
      its backward pass is computed; its parameters' gradients are zeros.
    - Section 5.2 speaks of a normalisation after each layer, Table 2 and the code have the two
      above, after the ReLU; so have we.

    Attributes:
        num_classes: channels of the logits.
        backbone: a key of `resnet.DEPTHS`; Table 2 has ResNet-50.
        freeze_backbone: False trains it too, statistics included (under `params["backbone"]`, so an
            optimizer can give it a rate of its own).
        freeze_bn, freeze_stages: of a backbone that is not frozen as a whole: see `ResNet`.
        width: channels of the backbone's first stage and of the last decoder; Table 2 has 64.
        kernel_init: how the decoder's weights start, `xavier` (the paper's) or `he`. The backbone's
            are meant to be loaded (`torch_weights.load_backbone`) and start as torchvision's do.
        dtype: of the computation. Parameters, statistics and logits are float32.
    """

    num_classes: int = 21
    backbone: str = "resnet50"
    freeze_backbone: bool = True
    width: int = 64
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32
    freeze_bn: bool = False
    freeze_stages: int = 0

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        kwargs = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        backbone = ResNet(
            self.backbone,
            width=self.width,
            dtype=self.dtype,
            frozen=ALL if self.freeze_backbone else self.freeze_stages,
            freeze_bn=self.freeze_bn,
            name="backbone",
        )
        x = backbone(images, train)[-1]
        w = self.width
        for i, channels in enumerate((16 * w, 8 * w), 1):
            x = nn.relu(Conv(channels, size=1, name=f"conv{i}", **kwargs)(x))
        for i, channels in enumerate((4 * w, 2 * w, w, w), 1):
            x = nn.relu(ConvTranspose(channels, name=f"deconv{i}", **kwargs)(x))
            if i > 2:
                x = BatchNorm(name=f"deconv{i}_bn")(x, train)
        x = Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="classifier")(x)
        return resize_bilinear(x, images.shape[1:3])


class FCNHead(nn.Module):
    """torchvision's `FCNHead`: conv 3x3, BN, ReLU, dropout, conv 1x1; float32 logits."""

    num_classes: int
    dropout: float
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, h, w, C] -> float32 [N, h, w, num_classes]."""
        x = Conv(
            x.shape[-1] // 4, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype,
            name="conv1",
        )(x)  # fmt: skip
        x = nn.relu(BatchNorm(name="bn1")(x, train))
        x = Dropout(self.dropout, name="dropout")(x, train)
        return Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="conv2")(x)


class DilatedFCN(nn.Module):
    """torchvision's `fcn_resnet50` and `fcn_resnet101`, of its published segmentation weights.

    | layer | in -> out channels | what | output at 224x224 |
    |---|---|---|---|
    | backbone | 3 -> 2048 | ResNet-50, output stride 8 by dilation | 28x28 |
    | head | 2048 -> 512 -> classes | conv 3, BN, ReLU, dropout 0.1, conv 1 | 28x28 |
    | aux_head (option) | 1024 -> 256 -> classes | the same, on the backbone's stage 3 | 28x28 |
    | | | bilinear resize to the image, half-pixel centres | 224x224 |

    32 957 013 parameters at 21 classes, 35 322 218 with the auxiliary head. The paper does not have
    this network; it is what its ResNet-50 result is to be compared with. Source: torchvision's
    `models/segmentation/fcn.py`, after Long et al. 2015 (arXiv:1411.4038).

    Differences from torchvision: the head's weights start by `kernel_init`; dropout is applied in
    training only where the caller passes `rngs={"dropout": key}`, because a step without
    randomness has no key to give.

    Attributes:
        num_classes: channels of the logits.
        backbone: see `backbones`; `resnet101` makes it torchvision's `fcn_resnet101`.
        output_stride: of a ResNet's features: 8 (or None) as in torchvision, 16 or 32 for less
            work. MobileNetV3 has its own, and takes None alone.
        aux: whether there is an auxiliary head; `with_aux` returns its logits too.
        dropout: fraction of the head's values that are dropped in training.
        width: channels of the backbone's first stage, 64; tests take less.
        kernel_init: how the heads' weights start, `xavier` or `he`.
        dtype: of the computation. Parameters, statistics and logits are float32.
        freeze_backbone, freeze_bn, freeze_stages: of the backbone, see `ResNet`; with
            freeze_backbone all of it is frozen.
    """

    num_classes: int = 21
    backbone: str = "resnet50"
    output_stride: int | None = None
    aux: bool = False
    dropout: float = 0.1
    width: int = 64
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32
    freeze_backbone: bool = False
    freeze_bn: bool = False
    freeze_stages: int = 0

    def setup(self) -> None:
        frozen = ALL if self.freeze_backbone else self.freeze_stages
        self.trunk = backbones.create(
            self.backbone, self.output_stride, width=self.width, dtype=self.dtype, frozen=frozen,
            freeze_bn=self.freeze_bn, name="backbone",
        )  # fmt: skip
        self.head = self.make_head()
        if self.aux:
            dropout = min(self.dropout, 0.1)  # torchvision's, whatever the head has
            self.aux_head = FCNHead(self.num_classes, dropout, self.kernel_init, self.dtype)

    def make_head(self) -> nn.Module:
        """The head on the last stage's features; called as `head(x, train)`."""
        return FCNHead(self.num_classes, self.dropout, self.kernel_init, self.dtype)

    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        if self.aux and self.is_initializing():  # a head never called would have no parameters
            return self.with_aux(images, train)[0]
        return resize_bilinear(self.head(self.trunk(images, train)[-1], train), images.shape[1:3])

    def with_aux(self, images: Array, train: bool = False) -> tuple[Array, Array]:
        """The logits, and the auxiliary head's, both float32 [N, H, W, num_classes].

        Use `module.apply(variables, images, train, method="with_aux")`. A training step adds
        `loss.aux_weight` times the loss of the second; torchvision's recipe has 0.5.
        """
        *_, finer, last = self.trunk(images, train)
        size = images.shape[1:3]
        return (
            resize_bilinear(self.head(last, train), size),
            resize_bilinear(self.aux_head(finer, train), size),
        )
