"""Counts what a network computes, from its trace: nothing is compiled."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


def forward_flops(model: nn.Module, shape: tuple[int, int, int, int]) -> int:
    """Floating-point operations of the convolutions in a forward pass.

    Two for each multiplication of a direct convolution, those with padding included; a transposed
    convolution's with the zeros between its inputs are left out. Other layers cost little beside
    them and are not counted.

    Args:
        model: a network, or a part of one.
        shape: of the images, [N, H, W, C].
    """
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return _convolutions(jax.make_jaxpr(partial(model.apply, train=False))(variables, images).jaxpr)


def _convolutions(jaxpr) -> int:
    """FLOPs of the convolutions of a jaxpr and of the functions that it calls."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, output = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            zeros = equation.params["lhs_dilation"]
            taps = kernel[0] * kernel[1] * kernel[2] * kernel[3]
            total += 2 * taps * output[0] * output[1] * output[2] // (zeros[0] * zeros[1])
        for value in equation.params.values():
            # A choice by platform has a branch for each; XLA's convolution stands in one of them.
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += _convolutions(inner)
    return total
