"""The U-Net of the paper's section 5.3, after Ronneberger, Fischer and Brox (arXiv:1505.04597)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models.layers import BatchNorm, Conv, ConvTranspose, centre_crop
from fcn_jax.ops.max_pool import max_pool


class DoubleConv(nn.Module):
    """Twice: convolution 3x3, normalisation, ReLU. One stage of the U-Net."""

    features: int
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[N, H, W, C] -> [N, H, W, features]."""
        for i in (1, 2):
            conv = Conv(
                self.features, kernel_init=self.kernel_init, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(BatchNorm(name=f"bn{i}")(conv(x), train))
        return x


class UNet(nn.Module):
    """The paper's Table 3.

    | stage | in -> out channels | layers | output at 224x224 |
    |---|---|---|---|
    | encoder1 | 3 -> 64 -> 64 | twice conv 3, 1, 1, BN, ReLU; then max-pool 2 | 224x224 |
    | encoder2 | 64 -> 128 -> 128 | the same | 112x112 |
    | encoder3 | 128 -> 256 -> 256 | the same | 56x56 |
    | encoder4 | 256 -> 512 -> 512 | the same | 28x28 |
    | bottleneck | 512 -> 1024 -> 1024 | the same, without the pooling | 14x14 |
    | up1 | 1024 -> 512 | transposed conv 2, 2, 0; crop; encoder4's result beside it | 28x28 |
    | decoder1 | 1024 -> 512 -> 512 | twice conv 3, 1, 1, BN, ReLU | 28x28 |
    | up2, decoder2 | 512 -> 256, 512 -> 256 -> 256 | the same, with encoder3 | 56x56 |
    | up3, decoder3 | 256 -> 128, 256 -> 128 -> 128 | the same, with encoder2 | 112x112 |
    | up4, decoder4 | 128 -> 64, 128 -> 64 -> 64 | the same, with encoder1 | 224x224 |
    | classifier | 64 -> classes | conv 1, 1, 0 | 224x224 |

    31 044 821 parameters at 21 classes.

    Differences from the paper, and why:
    - A normalisation after EVERY convolution, as the text says. The released code has one for both
      convolutions of a stage (31 038 933 parameters), so that two different distributions move the
      same running statistics. A released checkpoint is loaded by copying it to both.
    - No ReLU after the transposed convolutions: Table 3 lists one, the code in the appendix (A.2)
      applies none, and neither does the original.
    - Any input size. The released crop never crops, and fails where a side is no multiple of 16.
      The original's convolutions shrink the image, so it crops the encoder's features; these keep
      its size, and only pooling an odd side leaves the two apart. Cropping the encoder's features
      would then lose up to 15 rows of the image and shift the rest by up to 7 against the
      decoder's. So pooling rounds up, and the crop takes the surplus row or column off the
      decoder's: nothing is lost, the features stay aligned, and logits have the image's size.
      At multiples of 16 all of this is the paper's network.
    - The last layer of Table 3 is called softmax; the loss applies it, the network returns logits.

    Attributes:
        num_classes: channels of the logits.
        width: channels of the first stage; the paper's is 64, tests take less.
        remat: recompute each stage in the backward pass: about a third more computation, and much
            less memory.
        kernel_init: how the weights start, `xavier` (the paper's) or `he`, which the paper's
            discussion would rather have had; biases start at 0.
        dtype: of the computation. Parameters, statistics and logits are float32.
    """

    num_classes: int = 21
    width: int = 64
    remat: bool = False
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    STAGE = DoubleConv  # not a field: the same for all networks of a class

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        kwargs = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        stage = nn.remat(self.STAGE, static_argnums=(2,)) if self.remat else self.STAGE
        w, x, skips = self.width, images, []
        for i, channels in enumerate((w, 2 * w, 4 * w, 8 * w), 1):
            x = stage(channels, name=f"encoder{i}", **kwargs)(x, train)
            skips.append(x)
            x = max_pool(x)
        x = stage(16 * w, name="bottleneck", **kwargs)(x, train)
        for i, skip in enumerate(reversed(skips), 1):
            x = ConvTranspose(skip.shape[-1], size=2, name=f"up{i}", **kwargs)(x)
            x = jnp.concatenate([centre_crop(x, skip.shape[1:3]), skip], -1)
            x = stage(skip.shape[-1], name=f"decoder{i}", **kwargs)(x, train)
        return Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="classifier")(x)
