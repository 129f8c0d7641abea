"""The networks by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from fcn_jax.models.fcn import FCN
from fcn_jax.models.layers import initializer
from fcn_jax.models.resnet import check_depth
from fcn_jax.models.resnet_fcn import DilatedFCN, ResNetFCN
from fcn_jax.models.simplified_unet import SimplifiedUNet
from fcn_jax.models.unet import UNet
from fcn_jax.types import InputError

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fcn": FCN,
    "simplified_unet": SimplifiedUNet,
    "unet": UNet,
    "resnet50_fcn": ResNetFCN,
    "fcn_resnet50": DilatedFCN,
}
"""Name -> module class. Every one takes num_classes, dtype, kernel_init, and its own options."""


def create_model(
    name: str,
    num_classes: int = 21,
    *,
    dtype: Any = jnp.float32,
    init: str = "xavier",
    **options: Any,
) -> nn.Module:
    """The network of that name; `module.apply(variables, images, train=False)` gives its logits.

    images: [N, H, W, 3] float32, normalised; logits: float32 [N, H, W, num_classes], at any size.
    With train=True pass `mutable=["batch_stats"]`: the second result holds the new statistics.

    Args:
        name: a key of `MODELS`.
        num_classes: channels of the logits.
        dtype: of the computation, jnp.float32 or jnp.bfloat16; parameters are float32 either way.
        init: `xavier` (the paper's) or `he`.
        **options: the network's own, see its docstring.

    Raises:
        InputError: unknown name, initialisation or option.
    """
    if name not in MODELS:
        raise InputError(f"unknown network {name!r}: choose one of {', '.join(MODELS)}")
    initializer(init)  # says which there are
    fixed = {"num_classes": num_classes, "dtype": dtype, "kernel_init": init}
    known = MODELS[name].__dataclass_fields__.keys() - {"parent", "name", *fixed}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise InputError(
            f"{name} has no option {', '.join(unknown)}: it has {', '.join(sorted(known))}"
        )
    check_depth(options.get("backbone", "resnet50"))
    return MODELS[name](**fixed, **options)
