"""The calling convention of a network: its use without gradients, and a check on shapes alone."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from fcn_jax.ops import conv
from fcn_jax.types import InputError


def infer(
    model: nn.Module, variables: Mapping[str, Any], images: Array, forward_only: bool = True
) -> Array:
    """Normalised images [N, H, W, 3] -> logits [N, H, W, K], by the fastest algorithms on a CPU.

    To be jitted. Results differ from those of `model.apply` by rounding.

    Args:
        model: the network.
        variables: of the network.
        images: float32.
        forward_only: False rounds as a training step does, see `ops.conv.fast_on_cpu`.
    """
    with conv.fast_on_cpu(forward_only):
        logits: Any = model.apply(variables, images, train=False)
    return logits


def check(name: str, model: Any, num_classes: int, image_size: tuple[int, int]) -> None:
    """Refuse a network that training could not use.

    `module.apply(variables, images, train=...)` takes float32 [N, H, W, 3] and returns float32
    [N, H, W, num_classes]; its variables are `params` and, where it has some, `batch_stats`. With
    train=True it is applied with `mutable=["batch_stats"]` and a key named `dropout`.

    Args:
        name: of the network, for the error.
        model: the module.
        num_classes: channels of the logits.
        image_size: height and width that it will be trained at.

    Raises:
        InputError: says in one line what does not fit.
    """

    def refuse(reason: str) -> InputError:
        return InputError(f"cannot be used: {reason}", field="model.arch", value=name)

    if not isinstance(model, nn.Module):
        raise refuse(f"it makes {type(model).__name__}, not a Flax Linen module")
    images = jax.ShapeDtypeStruct((2, *image_size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    train = partial(model.apply, train=True, mutable=["batch_stats"])
    try:
        variables = jax.eval_shape(partial(model.init, train=False), key, images)
        logits = jax.eval_shape(partial(model.apply, train=False), variables, images)
        trained, _ = jax.eval_shape(
            lambda v, x, k: train(v, x, rngs={"dropout": k}), variables, images, key
        )
    except Exception as error:  # whatever the module raises
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise refuse(f"applied to images of {_text(images)} it raises {reason}") from error
    leaves = jax.tree.leaves(variables.get("params", {}))
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise refuse("its parameters must be floating-point arrays, at least one")
    others = sorted(set(variables) - {"params", "batch_stats"})
    if others:
        raise refuse(f"its variables {', '.join(others)} would not be kept")
    expected = jax.ShapeDtypeStruct((2, *image_size, num_classes), jnp.float32)
    for result in (logits, trained):
        if not isinstance(result, jax.ShapeDtypeStruct) or _text(result) != _text(expected):
            found = _text(result) if hasattr(result, "shape") else type(result).__name__
            raise refuse(f"it returns {found} for images of {_text(images)}, not {_text(expected)}")


def _text(array: Any) -> str:
    return f"{jnp.dtype(array.dtype).name}[{', '.join(map(str, array.shape))}]"
