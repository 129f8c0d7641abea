"""The paper's own small network: an encoder and a decoder, without skips or normalisation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from fcn_jax.models.layers import Conv, ConvTranspose, crop
from fcn_jax.ops.max_pool import max_pool


class SimplifiedUNet(nn.Module):
    """The paper's section 5.1 and Table 1.

    | layer | in -> out channels | kernel, stride, padding | then | output at 224x224 |
    |---|---|---|---|---|
    | enc_conv1 | 3 -> 64 | 3, 1, 1 | ReLU, max-pool 2 | 112x112 |
    | enc_conv2 | 64 -> 128 | 3, 1, 1 | ReLU, max-pool 2 | 56x56 |
    | enc_conv3 | 128 -> 256 | 3, 1, 1 | ReLU, max-pool 2 | 28x28 |
    | bottleneck_conv | 256 -> 512 | 3, 1, 1 | ReLU | 28x28 |
    | dec_upconv1 | 512 -> 256 | 2, 2, 0, transposed | ReLU | 56x56 |
    | dec_conv1 | 256 -> 256 | 3, 1, 1 | ReLU | 56x56 |
    | dec_upconv2 | 256 -> 128 | 2, 2, 0, transposed | ReLU | 112x112 |
    | dec_conv2 | 128 -> 128 | 3, 1, 1 | ReLU | 112x112 |
    | dec_upconv3 | 128 -> 64 | 2, 2, 0, transposed | ReLU | 224x224 |
    | dec_conv3 | 64 -> 64 | 3, 1, 1 | ReLU | 224x224 |
    | final_conv | 64 -> classes | 1, 1, 0 | - | 224x224 |

    3 015 509 parameters at 21 classes. In spite of its name it has no skips.

    Differences: none at sizes that are multiples of 8. Elsewhere the paper's pooling drops the last
    row or column and the output is smaller than the image; ours keeps them (it rounds up) and
    crops the logits to the image.

    Attributes:
        num_classes: channels of the logits.
        width: channels of the first stage; the paper's is 64, tests take less.
        kernel_init: how the weights start, `xavier` (the paper's) or `he`; biases start at 0.
        dtype: of the computation. Parameters and logits are float32.
    """

    num_classes: int = 21
    width: int = 64
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """[N, H, W, 3] normalised float32 -> logits float32 [N, H, W, num_classes]."""
        kwargs = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        w, x = self.width, images
        for i, channels in enumerate((w, 2 * w, 4 * w), 1):
            x = max_pool(nn.relu(Conv(channels, name=f"enc_conv{i}", **kwargs)(x)))
        x = nn.relu(Conv(8 * w, name="bottleneck_conv", **kwargs)(x))
        for i, channels in enumerate((4 * w, 2 * w, w), 1):
            x = nn.relu(ConvTranspose(channels, size=2, name=f"dec_upconv{i}", **kwargs)(x))
            x = nn.relu(Conv(channels, name=f"dec_conv{i}", **kwargs)(x))
        x = crop(x, images.shape[1:3])
        return Conv(self.num_classes, size=1, kernel_init=self.kernel_init, name="final_conv")(x)
