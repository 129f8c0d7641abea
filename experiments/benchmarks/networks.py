"""The four networks as lists of layers, for the benchmark's baselines: PyTorch and plain Flax.

Written apart from `fcn_jax.models` so that a baseline runs its own framework's layers on the same
network; the tests compare the numbers of parameters.
"""

from typing import NamedTuple

NETWORKS = ("fcn", "simplified_unet", "unet", "resnet50_fcn")


class Op(NamedTuple):
    """One layer; which fields count depends on `kind`."""

    kind: str
    """conv, up (transposed convolution that doubles the size), bn, relu, pool, push (keep it),
    cat (put what was kept last beside), block (bottleneck), resize (to the input's size), freeze
    (what comes before is not trained and keeps its statistics)."""
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


def _resnet50_fcn(classes: int) -> list[Op]:
    ops = [Op("conv", 64, size=7, stride=2, bias=False), BN, RELU, Op("pool", size=3, stride=2)]
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            ops.append(Op("block", 64 * 2**stage, stride=2 if stage and not i else 1))
    ops += [Op("freeze"), Op("conv", 1024, size=1), RELU, Op("conv", 512, size=1), RELU]
    for i, features in enumerate((256, 128, 64, 64)):
        ops += [Op("up", features), RELU] + [BN] * (i > 1)
    return [*ops, Op("conv", classes, size=1), Op("resize")]
