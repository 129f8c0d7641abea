"""torchvision's published weights: their files, downloaded and verified."""

import re
from pathlib import Path

import platformdirs

from fcn_jax.runtime import download
from fcn_jax.types import InputError

URL = "https://download.pytorch.org/models/"

FILES: dict[str, dict[str, str]] = {
    "resnet18": {"IMAGENET1K_V1": "resnet18-f37072fd.pth"},
    "resnet34": {"IMAGENET1K_V1": "resnet34-b627a593.pth"},
    "resnet50": {
        "IMAGENET1K_V1": "resnet50-0676ba61.pth",
        "IMAGENET1K_V2": "resnet50-11ad3fa6.pth",
    },
    "resnet101": {
        "IMAGENET1K_V1": "resnet101-63fe2227.pth",
        "IMAGENET1K_V2": "resnet101-cd907fc2.pth",
    },
    "mobilenet_v3_large": {
        "IMAGENET1K_V1": "mobilenet_v3_large-8738ca79.pth",
        "IMAGENET1K_V2": "mobilenet_v3_large-5c1a4163.pth",
    },
    "fcn_resnet50": {"COCO_WITH_VOC_LABELS_V1": "fcn_resnet50_coco-1167a1af.pth"},
    "fcn_resnet101": {"COCO_WITH_VOC_LABELS_V1": "fcn_resnet101_coco-7ecb50ca.pth"},
    "deeplabv3_resnet50": {"COCO_WITH_VOC_LABELS_V1": "deeplabv3_resnet50_coco-cd0a2569.pth"},
    "deeplabv3_resnet101": {"COCO_WITH_VOC_LABELS_V1": "deeplabv3_resnet101_coco-586e9e4e.pth"},
    "deeplabv3_mobilenet_v3_large": {
        "COCO_WITH_VOC_LABELS_V1": "deeplabv3_mobilenet_v3_large-fc3c493d.pth"
    },
    "lraspp_mobilenet_v3_large": {
        "COCO_WITH_VOC_LABELS_V1": "lraspp_mobilenet_v3_large-d234d4ea.pth"
    },
}
"""Network -> name of the weights -> file, as in torchvision's `models`; the first is the default.

A file's name carries the first eight hexadecimal digits of its sha256.
"""


def pretrained(
    name: str,
    cache_dir: Path | None = None,
    weights: str | None = None,
    progress: bool = True,
) -> Path:
    """The path of a `.pth` file of published weights, downloaded first unless it is there.

    Args:
        name: a key of `FILES`: a backbone, trained on ImageNet, or a whole network.
        cache_dir: where the files are kept; by default this user's cache, `fcn_jax/weights`.
        weights: torchvision's name of the weights, such as `IMAGENET1K_V2`; None: the first.
        progress: whether to draw a bar.

    Raises:
        InputError: unknown name or weights; or the file cannot be had, and then the line says which
            file to get by hand and where to put it.
    """
    if name not in FILES:
        raise InputError(f"no published weights for {name!r}: there are {', '.join(FILES)}")
    known = FILES[name]
    weights = weights or next(iter(known))
    if weights not in known:
        raise InputError(f"{name} has no weights {weights!r}: choose one of {', '.join(known)}")
    filename = known[weights]
    digits = re.search(r"-([0-9a-f]{8})\.pth$", filename)
    assert digits is not None, filename
    folder = cache_dir or Path(platformdirs.user_cache_dir("fcn_jax")) / "weights"
    try:
        artifact = download.Artifact(filename, None, digits[1], (URL + filename,))
        return download.fetch(artifact, folder, progress)
    except InputError as error:
        raise InputError(f"{error}, or give the path of the file instead") from None
