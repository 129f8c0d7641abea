"""The layers of every network, with PyTorch's semantics, in NHWC.

Any compute type, float32 parameters: a layer casts its input and its kernel to `dtype`; biases,
statistics of a batch and normalisation are computed in float32 whatever the type.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fcn_jax.ops import conv
from fcn_jax.types import InputError

Pair = tuple[int, int]
Initializer = Callable[..., Array]


# ---- initial weights -----------------------------------------------------------------------------


def fans(shape: tuple[int, ...], transposed: bool = False) -> Pair:
    """(fan-in, fan-out) of a kernel [kh, kw, I, O] as PyTorch counts them.

    A convolution has fan-in kh kw I and fan-out kh kw O. PyTorch reads a transposed convolution's
    weight [I, O, kh, kw] as if it were a convolution's, so there the two are exchanged.
    """
    height, width, inputs, outputs = shape
    pair = (height * width * inputs, height * width * outputs)
    return (pair[1], pair[0]) if transposed else pair


def _flat(
    draw: Initializer, key: Array, shape: tuple[int, ...], dtype: Any, **kwargs: Any
) -> Array:
    """The same numbers as draw(key, shape); XLA compiles a vector's generator 3 times faster."""
    return draw(key, (math.prod(shape),), dtype, **kwargs).reshape(shape)


def xavier(transposed: bool = False) -> Initializer:
    """Uniform between -a and a with a = sqrt(6 / (fan_in + fan_out)): the paper's equation 2."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = (6.0 / sum(fans(shape, transposed))) ** 0.5
        return _flat(jax.random.uniform, key, shape, dtype, minval=-bound, maxval=bound)

    return init


def he(transposed: bool = False, mode: str = "fan_in") -> Initializer:
    """Normal with variance 2 / fan (He et al. 2015, arXiv:1502.01852): made for ReLU."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        fan = fans(shape, transposed)[0 if mode == "fan_in" else 1]
        return _flat(jax.random.normal, key, shape, dtype) * (2.0 / fan) ** 0.5

    return init


INITS: dict[str, Callable[..., Initializer]] = {
    "xavier": xavier,
    "he": he,
    "he_fan_out": partial(he, mode="fan_out"),
}
"""How a network's weights may start. `he_fan_out` is what torchvision's ResNets do."""


def initializer(name: str, transposed: bool = False) -> Initializer:
    """The initialiser of that name, for a kernel [kh, kw, I, O]."""
    if name not in INITS:
        raise InputError(f"unknown initialisation {name!r}: choose one of {', '.join(INITS)}")
    return INITS[name](transposed)


# ---- convolutions --------------------------------------------------------------------------------


class Conv(nn.Module):
    """`torch.nn.Conv2d`: [N, H, W, I] -> [N, H', W', features]; parameters `kernel`, `bias`.

    The padding is symmetric (flax's "SAME" is not, at stride 2) and as wide as keeps H' = ceil(H /
    stride) for an odd kernel size, at any dilation.
    """

    features: int
    size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer(self.kernel_init), shape)
        pad = self.dilation * (self.size // 2)
        y = conv.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dilation=(self.dilation, self.dilation),
        )
        return _add_bias(self, y) if self.use_bias else y


class DoubledConv(nn.Module):
    """`Conv`, 3x3 without bias, of x doubled by the nearest neighbour with a skip beside it.

    Parameter `kernel` [3, 3, I + S, features], as of a `Conv` of the two side by side.
    """

    features: int
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, skip: Array | None, size: Pair) -> Array:
        """[N, h, w, I], [N, *size, S] or None -> [N, *size, features]; size at most (2 h, 2 w)."""
        inputs = x.shape[-1] + (0 if skip is None else skip.shape[-1])
        kernel = self.param("kernel", initializer(self.kernel_init), (3, 3, inputs, self.features))
        x, skip, kernel = jax.tree.map(lambda array: array.astype(self.dtype), (x, skip, kernel))
        return conv.conv_of_doubled(x, skip, kernel, size)


class DepthwiseConv(nn.Module):
    """`torch.nn.Conv2d` with a group a channel, without bias; padded as `Conv`; `kernel`."""

    size: int = 3
    stride: int = 1
    dilation: int = 1
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), C]."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", initializer(self.kernel_init), shape)
        pad = self.dilation * (self.size // 2)
        return conv.depthwise_conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            dilation=(self.dilation, self.dilation),
        )


class ConvTranspose(nn.Module):
    """`torch.nn.ConvTranspose2d` at stride 2: [N, H, W, I] -> [N, 2 H, 2 W, features].

    Size 3 comes with padding 1 and output padding 1, size 2 with neither: both double H and W.
    Parameters `kernel` [size, size, I, features] (PyTorch's weight is its transpose (2, 3, 0, 1))
    and `bias`.
    """

    features: int
    size: int = 3
    kernel_init: str = "xavier"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializer(self.kernel_init, transposed=True), shape)
        pad, extra = {2: (0, 0), 3: (1, 1)}[self.size]
        y = conv.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=(2, 2),
            padding=((pad, pad), (pad, pad)),
            output_padding=(extra, extra),
        )
        return _add_bias(self, y)


def _add_bias(layer: Conv | ConvTranspose, y: Array) -> Array:
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    # In float32, so that the bias's gradient, a sum over every pixel, is one too.
    return (y.astype(jnp.float32) + bias.reshape(1, 1, 1, -1)).astype(layer.dtype)


# ---- batch normalisation -------------------------------------------------------------------------


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` over [N, H, W, C]: y = scale (x - mean) / sqrt(var + eps) + bias.

    In training, mean and var are the batch's (var divided by n = N H W), and the running statistics
    move by `momentum` towards them; as in PyTorch the running variance takes the unbiased
    n / (n - 1) var. Otherwise mean and var are the running statistics, which stay as they are.
    Parameters `scale`, `bias`; `batch_stats`: `mean`, `var`; all float32. Returns x's type.

    Inside `jax.shard_map` the batch is the whole one, of which x is this device's equal part.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not train:
            return _scale_and_shift(x, mean.value, var.value, scale, bias, self.epsilon)
        y, batch_mean, batch_var = _normalise(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            n = _count(x)
            unbiased = batch_var * (n / max(n - 1, 1))
            mean.value += self.momentum * (batch_mean - mean.value)
            var.value += self.momentum * (unbiased - var.value)
        return y


def _channels(v: Array) -> Array:
    return v.reshape(1, 1, 1, -1)


def shard_axes() -> tuple[str, ...]:
    """The mesh axes over which the batch is sharded where this is traced: those of `shard_map`."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _count(x: Array) -> int:
    """Values a channel has in the whole batch."""
    return x.size // x.shape[-1] * math.prod(lax.axis_size(axis) for axis in shard_axes())


def _mean(x: Array) -> Array:
    """The mean of each channel over the whole batch."""
    return lax.pmean(x.mean((0, 1, 2)), shard_axes())


def _scale_and_shift(
    x: Array, mean: Array, var: Array, scale: Array, bias: Array, epsilon: float
) -> Array:
    factor = scale * lax.rsqrt(var + epsilon)
    # Subtract first: with a mean far from 0, x factor + (bias - mean factor) would lose digits.
    y = (x.astype(jnp.float32) - _channels(mean)) * _channels(factor) + _channels(bias)
    return y.astype(x.dtype)


def _plain_normalise(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """(y, batch mean, biased batch variance); only y is differentiable.

    The gradient is written out because the derived one reads x and dy several times more often:
    with z = (x - mean) / sqrt(var + eps), dbias = sum dy, dscale = sum dy z and
    dx = scale / sqrt(var + eps) (dy - dbias / n - z dscale / n).
    """
    wide = x.astype(jnp.float32)
    mean = _mean(wide)
    # Two passes: the mean of squares minus the square of the mean cancels for a large mean.
    var = _mean(jnp.square(wide - _channels(mean)))
    return _scale_and_shift(x, mean, var, scale, bias, epsilon), mean, var


def _normalise_fwd(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple:
    y, mean, var = _plain_normalise(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, lax.rsqrt(var + epsilon))


def _normalise_bwd(epsilon: float, saved: tuple, gradients: tuple) -> tuple[Array, Array, Array]:
    x, scale, mean, factor = saved
    dy = gradients[0].astype(jnp.float32)
    z = (x.astype(jnp.float32) - _channels(mean)) * _channels(factor)
    local = dy.sum((0, 1, 2)), (dy * z).sum((0, 1, 2))
    dbias, dscale = lax.psum(local, shard_axes())
    n = _count(x)
    dx = _channels(scale * factor) * (dy - _channels(dbias / n) - z * _channels(dscale / n))
    return dx.astype(x.dtype), local[1], local[0]


_normalise = jax.custom_vjp(_plain_normalise, nondiff_argnums=(3,))
_normalise.defvjp(_normalise_fwd, _normalise_bwd)


# ---- dropout -------------------------------------------------------------------------------------


class Dropout(nn.Module):
    """In training, each value is 0 with probability `rate`, else divided by 1 - rate.

    Every image of [N, ...] draws by its index in the whole batch, so that the result does not
    depend on the number of devices. Without an rng "dropout" nothing is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        if not (train and self.rate and self.has_rng("dropout")):
            return x
        axes = shard_axes()
        first = lax.axis_index(axes) * len(x) if axes else 0
        key = self.make_rng("dropout")

        def kept(image: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, image), 1 - self.rate, x.shape[1:])

        keep = jax.vmap(kept)(first + jnp.arange(len(x), dtype=jnp.int32))
        return jnp.where(keep, x / (1 - self.rate), 0)


# ---- cropping, resizing --------------------------------------------------------------------------


def image_mean(x: Array) -> Array:
    """[N, H, W, C] -> [N, 1, 1, C]: the mean of each image, summed in float32."""
    return x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(x.dtype)


def crop(x: Array, size: Sequence[int]) -> Array:
    """The top left `size` of [N, H, W, C].

    Strided layers round sizes up, so what is too much in a result lies below and to the right.
    """
    return x[:, : size[0], : size[1]]


def centre_crop(x: Array, size: Sequence[int]) -> Array:
    """The middle `size` of [N, H, W, C]; where it cannot be exact, half a pixel to the top left."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


@partial(jax.jit, static_argnums=1)
def resize_bilinear(x: Array, size: tuple[int, ...]) -> Array:
    """[N, H, W, C] -> float32 [N, *size, C]: bilinear, half-pixel centres, no antialiasing.

    `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, an axis at a time: a
    matrix product, but for a doubling, where each result has two neighbours and fixed weights. It
    is a function of its own in a trace, so that an export knows it by its name.
    """
    x = x.astype(jnp.float32)
    for axis in (2, 1):  # columns first: rows are then copied whole
        if size[axis - 1] == 2 * x.shape[axis]:
            x = _double(x, axis)
        elif x.shape[axis] != size[axis - 1]:
            weights = _bilinear_weights(x.shape[axis], size[axis - 1])
            subscripts = {1: "nhwc,yh->nywc", 2: "nhwc,xw->nhxc"}[axis]
            x = jnp.einsum(subscripts, x, weights, precision=lax.Precision.HIGHEST)
    return x


def _double(x: Array, axis: int) -> Array:
    """Twice as many along an axis: x_i becomes (x_i-1 + 3 x_i) / 4 and (3 x_i + x_i+1) / 4."""
    n = x.shape[axis]
    part = partial(lax.slice_in_dim, x, axis=axis)
    before = lax.concatenate([part(0, 1), part(0, n - 1)], axis)  # the edge is its own neighbour
    after = lax.concatenate([part(1, n), part(n - 1, n)], axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])


def _bilinear_weights(inputs: int, outputs: int) -> np.ndarray:
    """float32 [outputs, inputs]: output i lies at (i + 1/2) inputs / outputs - 1/2 of the input."""
    at = np.clip((np.arange(outputs) + 0.5) * inputs / outputs - 0.5, 0, inputs - 1)
    distance = np.abs(at[:, None] - np.arange(inputs)[None])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)
