"""Networks as lists of layers, for the benchmark's baselines: PyTorch and plain Flax.

Written apart from `fcn_jax.models` so that a baseline runs its own framework's layers on the same
network; the tests compare the numbers of parameters.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
"""Of each stage of a ResNet."""

NETWORKS = (
    "fcn", "simplified_unet", "unet", "resnet50_fcn", *(f"unet_{depth}" for depth in BLOCKS)
)  # fmt: skip

TORCHVISION = (
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
"""Networks whose baseline is torchvision's own."""


class Op(NamedTuple):
    """One layer; which fields count depends on `kind`."""

    kind: str
    """conv, up (transposed convolution that doubles the size), bn, relu, pool, push (keep it),
    cat (put what was kept last beside), double (nearest neighbour), block (bottleneck), basic (the
    residual block of two 3x3 convolutions), resize (to the input's size), freeze (what comes before
    is not trained and keeps its statistics)."""
    features: int = 0
    size: int = 3
    stride: int = 1
    bias: bool = True


def network(name: str, classes: int, frozen: bool = False) -> list[Op]:
    """The layers of a network, from images to logits; `frozen`: its backbone is, if it has one."""
    ops = {
        "fcn": _fcn,
        "simplified_unet": _simplified_unet,
        "unet": _unet,
        "resnet50_fcn": _resnet50_fcn,
        **{f"unet_{depth}": partial(_unet_resnet, depth) for depth in BLOCKS},
    }[name](classes)
    return [op for op in ops if frozen or op.kind != "freeze"]


RELU, BN, POOL = Op("relu"), Op("bn"), Op("pool", size=2, stride=2)


def _fcn(classes: int) -> list[Op]:
    ops = []
    for features in (32, 64, 128, 256, 512):
        ops += [Op("conv", features, stride=2), RELU, BN]
    for features in (512, 256, 128, 64, classes):
        ops += [Op("up", features), RELU, BN]
    return [*ops, Op("conv", classes, size=1)]


def _simplified_unet(classes: int) -> list[Op]:
    ops = []
    for features in (64, 128, 256):
        ops += [Op("conv", features), RELU, POOL]
    ops += [Op("conv", 512), RELU]
    for features in (256, 128, 64):
        ops += [Op("up", features, size=2), RELU, Op("conv", features), RELU]
    return [*ops, Op("conv", classes, size=1)]


def _unet(classes: int) -> list[Op]:
    def double(features: int) -> list[Op]:
        return [Op("conv", features), BN, RELU] * 2

    ops = []
    for features in (64, 128, 256, 512):
        ops += [*double(features), Op("push"), POOL]
    ops += double(1024)
    for features in (512, 256, 128, 64):
        ops += [Op("up", features, size=2), Op("cat"), *double(features)]
    return [*ops, Op("conv", classes, size=1)]


def _resnet(depth: str) -> Iterator[list[Op]]:
    """Its parts: the first convolution, then four stages, the first of which pools."""
    yield [Op("conv", 64, size=7, stride=2, bias=False), BN, RELU]
    kind = "basic" if depth in ("resnet18", "resnet34") else "block"
    for stage, blocks in enumerate(BLOCKS[depth]):
        pool = [Op("pool", size=3, stride=2)] if stage == 0 else []
        strides = [2 if stage else 1] + [1] * (blocks - 1)
        yield [*pool, *(Op(kind, 64 * 2**stage, stride=stride) for stride in strides)]


def _resnet50_fcn(classes: int) -> list[Op]:
    ops = [op for part in _resnet("resnet50") for op in part]
    ops += [Op("freeze"), Op("conv", 1024, size=1), RELU, Op("conv", 512, size=1), RELU]
    for i, features in enumerate((256, 128, 64, 64)):
        ops += [Op("up", features), RELU] + [BN] * (i > 1)
    return [*ops, Op("conv", classes, size=1), Op("resize")]


def _unet_resnet(depth: str, classes: int) -> list[Op]:
    *parts, last = _resnet(depth)
    ops = [op for part in parts for op in [*part, Op("push")]] + last
    for i, features in enumerate((256, 128, 64, 32, 16)):
        ops += [Op("double")] + [Op("cat")] * (i < 4)
        ops += [Op("conv", features, bias=False), BN, RELU] * 2
    return [*ops, Op("conv", classes)]
