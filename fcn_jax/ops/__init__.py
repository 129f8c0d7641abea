"""Convolutions and max-pooling with derivatives that are fast on a CPU. Needs jax only.

XLA's CPU backend is fast in the forward pass of a convolution and slow in the gradient of its
kernel. These functions compute the same sums with other algorithms in a program for a CPU, and are
XLA's own everywhere else. Any order and mode of differentiation, `vmap` and `jit` work. Arrays are
[N, H, W, C], kernels [kh, kw, I, O].

- `conv.conv`, `conv.conv_transpose`: PyTorch's `conv2d` and `conv_transpose2d`, without bias.
- `conv.depthwise_conv`: `conv2d` with a group a channel.
- `conv.conv_of_doubled`: `conv2d` of an image doubled by the nearest neighbour and of another one.
- `conv.fast_on_cpu`: within it, results without derivatives use the CPU's algorithms too.
- `max_pool.max_pool`, `upsample.double_nearest`.
- `im2col`, `winograd`, `dilated`, `transposed`, `doubled`, `depthwise`: the algorithms themselves.

Examples:
    >>> import jax, jax.numpy as jnp
    >>> from fcn_jax.ops import conv, max_pool
    >>> x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    >>> y = max_pool.max_pool(conv.conv(x, kernel))
    >>> y.shape, float(y[0, 0, 0, 0])  # 3 x 3 taps of 3 channels
    ((1, 4, 4, 4), 27.0)

    The gradient of the kernel, which a CPU computes as one matrix product of patches:

    >>> gradient = jax.jit(jax.grad(lambda kernel: conv.conv(x, kernel).sum()))(kernel)
    >>> float(gradient[1, 1, 0, 0]), float(gradient[0, 0, 0, 0])  # 8 x 8 and 7 x 7 pixels
    (64.0, 49.0)

    >>> with conv.fast_on_cpu(forward_only=True):  # around what is traced, not what is run
    ...     program = jax.jit(conv.conv).lower(x, kernel)
"""
