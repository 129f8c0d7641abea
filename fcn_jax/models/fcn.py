"""The paper's baseline: a plain encoder and decoder of strided convolutions."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models.layers import BatchNorm, Conv, ConvTranspose, crop


class FCN(nn.Module):
    """The baseline of the paper's section 4.1.3 ("a simple basic FCN architecture").

    | layer | in -> out channels | kernel, stride, padding | then | output at 224x224 |
    |---|---|---|---|---|
    | conv1 | 3 -> 32 | 3, 2, 1 | ReLU, BN | 112x112 |
    | conv2 | 32 -> 64 | 3, 2, 1 | ReLU, BN | 56x56 |
    | conv3 | 64 -> 128 | 3, 2, 1 | ReLU, BN | 28x28 |
    | conv4 | 128 -> 256 | 3, 2, 1 | ReLU, BN | 14x14 |
    | conv5 | 256 -> 512 | 3, 2, 1 | ReLU, BN | 7x7 |
    | deconv1 | 512 -> 512 | 3, 2, 1, output padding 1 | ReLU, BN | 14x14 |
    | deconv2 | 512 -> 256 | 3, 2, 1, output padding 1 | ReLU, BN | 28x28 |
    | deconv3 | 256 -> 128 | 3, 2, 1, output padding 1 | ReLU, BN | 56x56 |
    | deconv4 | 128 -> 64 | 3, 2, 1, output padding 1 | ReLU, BN | 112x112 |
    | deconv5 | 64 -> classes | 3, 2, 1, output padding 1 | ReLU, BN | 224x224 |
    | classifier | classes -> classes | 1, 1, 0 | - | 224x224 |

    5 493 645 parameters at 21 classes. Each normalisation (`conv1_bn`, ...) comes AFTER the ReLU.

    Source: the paper's appendix lost this table; it is read from the released code.
    Differences: none at sizes that are multiples of 32. Elsewhere each stage rounds up, so that the
    released network's output is larger than the image; ours is cropped to it (below and right,
    where the surplus lies), because a mask has to fit its image.

    Attributes:
        num_classes: channels of the logits.
        width: channels of the first stage; the paper's is 32, tests take less.
        kernel_init: how the weights start, `xavier` (the paper's) or `he`; biases start at 0.
        dtype: of the computation. Parameters, statistics and logits are float32.
    """

    num_classes: int = 21
    width: int = 32
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        kwargs = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        w, x = self.width, images
        for i, channels in enumerate((w, 2 * w, 4 * w, 8 * w, 16 * w), 1):
            x = nn.relu(Conv(channels, stride=2, name=f"conv{i}", **kwargs)(x))
            x = BatchNorm(name=f"conv{i}_bn")(x, train)
        for i, channels in enumerate((16 * w, 8 * w, 4 * w, 2 * w, self.num_classes), 1):
            x = nn.relu(ConvTranspose(channels, name=f"deconv{i}", **kwargs)(x))
            x = BatchNorm(name=f"deconv{i}_bn")(x, train)
        x = crop(x, images.shape[1:3])
        return Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="classifier")(x)
