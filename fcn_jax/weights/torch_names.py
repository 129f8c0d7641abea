"""PyTorch's names of our arrays, for each network and each ResNet.

A name is made from the array's path in our variables by the rules of its network (`RULES`): params
`backbone/layer1_0/conv1/kernel` of `fcn_resnet50` is `backbone.layer1.0.conv1.weight`. The order of
the axes follows from the kind of the array:

| ours | PyTorch's |
|---|---|
| kernel [kh, kw, I, O] of a convolution | weight [O, I, kh, kw] |
| kernel [kh, kw, I, O] of a transposed convolution | weight [I, O, kh, kw] |
| bias | bias |
| scale, mean, var of a normalisation | weight, running_mean, running_var |
"""

import re
from collections.abc import Iterator

from fcn_jax.models import mobilenet, registry
from fcn_jax.models.backbones import MOBILENET
from fcn_jax.models.resnet import DEPTHS
from fcn_jax.types import InputError

Rules = tuple[tuple[str, str], ...]
"""(pattern, what replaces it) of a module's path, applied in turn; / becomes a dot at the end."""

_RESNET: Rules = (
    (r"(layer\d)_(\d+)/", r"\1/\2/"),
    (r"/downsample_conv$", "/downsample/0"),
    (r"/downsample_bn$", "/downsample/1"),
)


def _mobilenet_rules() -> Iterator[tuple[str, str]]:
    """torchvision's MobileNetV3: `features` 0 to 16, each a Sequential: 0 conv, 1 bn.

    A block is a Sequential of what it has: expansion, depthwise, squeeze-and-excite, projection.
    """
    yield r"\bstem_", "0/"
    yield r"\blast_", "16/"
    number = 0
    for stage, blocks in enumerate(mobilenet.STAGES, 1):
        for index, block in enumerate(blocks):
            number += 1
            parts = ["expand_"] * ((stage, index) != (1, 0)) + ["depthwise_"]
            parts += ["fc"] * bool(block.reduced) + ["project_"]
            for place, part in enumerate(parts):
                name = "fc" if part == "fc" else ""
                yield rf"\bstage{stage}_{index}/{part}", f"{number}/block/{place}/{name}"
    yield r"\b(\d+)/conv$", r"\1/0"
    yield r"\b(\d+)/bn$", r"\1/1"


_MOBILENET: Rules = tuple(_mobilenet_rules())
_BACKBONE: Rules = (*_RESNET, *_MOBILENET)

_FCN: Rules = ((r"^deconv(\d)_bn$", r"bn\1"), (r"^conv(\d)_bn$", r"bnd\1"))

# The released network has one normalisation a stage, which has the name of our second one here (of
# the first one in the bottleneck): see `torch_weights`.
_UNET: Rules = (
    (r"^up(\d)$", r"up_pool\1"),
    (r"^bottleneck/conv(\d)$", r"bottleneck\1"),
    (r"^bottleneck/bn(\d)$", r"bn_bottleneck\1"),
    (r"^encoder(\d)/(conv|bn)1$", r"\2\g<1>1"),
    (r"^encoder(\d)/(conv|bn)2$", r"\2\1"),
    (r"^decoder(\d)/conv1$", r"up_conv\g<1>1"),
    (r"^decoder(\d)/conv2$", r"up_conv\1"),
    (r"^decoder(\d)/bn1$", r"bn_up_conv\g<1>1"),
    (r"^decoder(\d)/bn2$", r"bn_up_conv\1"),
)
# The released backbone is a Sequential of ResNet's children: 0 conv1, 1 bn1, 4 to 7 layer1 to 4.
_RESNET50_FCN: Rules = (
    *_RESNET,
    (r"^backbone/conv1$", "backbone/0"),
    (r"^backbone/bn1$", "backbone/1"),
    *((rf"^backbone/layer{n}/", f"backbone/{n + 3}/") for n in range(1, 5)),
    (r"^deconv3_bn$", "bn1"),
    (r"^deconv4_bn$", "bn2"),
)
# torchvision's FCNHead is a Sequential: 0 conv, 1 bn, 4 conv.
_AUX: Rules = (
    (r"^aux_head/conv1$", "aux_classifier/0"),
    (r"^aux_head/bn1$", "aux_classifier/1"),
    (r"^aux_head/conv2$", "aux_classifier/4"),
)
_DILATED_FCN: Rules = (
    *_BACKBONE,
    *_AUX,
    (r"^head/conv1$", "classifier/0"),
    (r"^head/bn1$", "classifier/1"),
    (r"^head/conv2$", "classifier/4"),
)
# torchvision's DeepLabHead: 0 ASPP, 1 conv, 2 bn, 4 conv. ASPP's branches are `convs` 0 to 4, each
# a Sequential: 0 conv, 1 bn; the last one begins with pooling.
_DEEPLABV3: Rules = (
    *_BACKBONE,
    *_AUX,
    (r"^head/conv1$", "classifier/1"),
    (r"^head/bn1$", "classifier/2"),
    (r"^head/conv2$", "classifier/4"),
    (r"^head/aspp/branch(\d)_conv$", r"classifier/0/convs/\1/0"),
    (r"^head/aspp/branch(\d)_bn$", r"classifier/0/convs/\1/1"),
    (r"^head/aspp/pooling_conv$", "classifier/0/convs/4/1"),
    (r"^head/aspp/pooling_bn$", "classifier/0/convs/4/2"),
    (r"^head/aspp/project_conv$", "classifier/0/project/0"),
    (r"^head/aspp/project_bn$", "classifier/0/project/1"),
)
# torchvision's LRASPPHead: `cbr` is a Sequential of 0 conv, 1 bn; `scale` of pooling, conv.
_LRASPP: Rules = (
    *_BACKBONE,
    (r"^head/conv$", "classifier/cbr/0"),
    (r"^head/bn$", "classifier/cbr/1"),
    (r"^head/scale_conv$", "classifier/scale/1"),
    (r"^head/", "classifier/"),
)
# As segmentation_models.pytorch has them.
_RESNET_UNET: Rules = (
    *_RESNET,
    (r"^backbone/", "encoder/"),
    (r"^block(\d)/conv(\d)$", r"decoder/blocks/\1/conv\2/0"),
    (r"^block(\d)/bn(\d)$", r"decoder/blocks/\1/conv\2/1"),
    (r"^head$", "segmentation_head/0"),
)

RULES: dict[str, Rules] = {
    "fcn": _FCN,
    "simplified_unet": (),
    "unet": _UNET,
    "resnet50_fcn": _RESNET50_FCN,
    "fcn_resnet50": _DILATED_FCN,
    "fcn_resnet101": _DILATED_FCN,
    "deeplabv3_resnet50": _DEEPLABV3,
    "deeplabv3_resnet101": _DEEPLABV3,
    "deeplabv3_mobilenet_v3_large": _DEEPLABV3,
    "lraspp_mobilenet_v3_large": _LRASPP,
    **{f"unet_{depth}": _RESNET_UNET for depth in DEPTHS},
    **dict.fromkeys(DEPTHS, _RESNET),
    MOBILENET: (*_MOBILENET, (r"^", "features/")),
}
"""Network of `MODELS`, or backbone alone -> the names of its modules."""

LAST_BIASES = (
    "classifier.bias",
    "classifier.4.bias",
    "classifier.high_classifier.bias",
    "final_conv.bias",
    "segmentation_head.0.bias",
)
"""The bias of the last layer, by whose length the number of classes is known; one a network."""

_ARRAYS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_TRANSPOSED = re.compile(r"(^|/)(deconv|up|dec_upconv)\d$")


def check(arch: str) -> None:
    """Raise InputError for a network without names in PyTorch."""
    if arch not in RULES:
        ours = registry.is_known(arch)
        what = "no PyTorch names are known for" if ours else "unknown network"
        raise InputError(f"{what} {arch!r}: choose one of {', '.join(RULES)}")


def torch_name(arch: str, path: tuple[str, ...]) -> str:
    """The name of the array at a path of our variables.

    >>> torch_name("fcn", ("params", "conv1_bn", "scale"))
    'bnd1.weight'
    """
    module = "/".join(path[1:-1])
    for pattern, replacement in RULES[arch]:
        module = re.sub(pattern, replacement, module)
    return f"{module.replace('/', '.')}.{_ARRAYS.get(path[-1], path[-1])}"


def torch_axes(path: tuple[str, ...]) -> tuple[int, ...] | None:
    """Our axes in the order of PyTorch's; None where they are the same."""
    if path[-1] != "kernel":
        return None
    return (2, 3, 0, 1) if _TRANSPOSED.search("/".join(path[:-1])) else (3, 2, 0, 1)
