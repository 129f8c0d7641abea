"""The variables a network starts from: random, published, of a file or of another run."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.models import MODELS, registry
from fcn_jax.types import InputError
from fcn_jax.weights import checkpoint, model_folder, torch_weights
from fcn_jax.weights.torch_files import read_state_dict
from fcn_jax.weights.torchvision import pretrained

_log = logging.getLogger(__name__)

IMAGENET = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}
"""Values of `model.pretrained` that are not a path -> torchvision's name of the weights."""

PUBLISHED = "torchvision"
"""The value of `model.pretrained` for torchvision's weights of the whole network."""

_FIELD = "model.pretrained"


def random_init(model: nn.Module, key: jax.Array, image_size: tuple[int, int]) -> dict[str, Any]:
    """Random variables, {"params", "batch_stats"}, of float32 arrays."""
    image = jnp.zeros((1, *image_size, 3), jnp.float32)
    variables = jax.jit(lambda k, x: model.init(k, x, train=False))(key, image)
    return {"batch_stats": {}, **variables}


def variables(
    arch: str,
    model: nn.Module,
    key: jax.Array,
    image_size: tuple[int, int],
    source: str | None,
) -> dict[str, Any]:
    """The variables a run starts from.

    Args:
        arch: the network's name.
        model: the network.
        key: of the random weights.
        image_size: to trace with; shapes do not depend on it.
        source: None; `imagenet` or `imagenet-v2` (torchvision's, downloaded, for a backbone);
            `torchvision` (likewise, for the whole network); a `.pth` or `.safetensors` file of a
            backbone or of the whole network; the folder of a run of the same network; or a folder
            of `weights.model_folder`. What belongs to another number of classes, and an auxiliary
            head that the file does not have, is initialised at random, and a line of
            the log says so.

    Raises:
        InputError: if the source cannot be had or does not fit.
    """
    start = random_init(model, key, image_size)
    if source is None:
        return start
    # A network made with another backbone than its name says knows which.
    depth = getattr(model, "backbone", None) or registry.get(arch).backbone
    path = Path(source).expanduser()
    if source in IMAGENET:
        return _from_imagenet(start, arch, depth, source)
    if source == PUBLISHED:
        return _from_file(start, arch, model, depth, published(arch))
    if path.is_dir():
        return _merged(start, read_folder(path)[0], str(path))
    if path.exists():
        return _from_file(start, arch, model, depth, path)
    raise InputError(
        "no such file: give imagenet, imagenet-v2, torchvision, the path of a .pth or .safetensors "
        "file, or the folder of a run",
        field=_FIELD,
        value=source,
    )


def _from_imagenet(
    start: dict[str, Any], arch: str, depth: str | None, source: str
) -> dict[str, Any]:
    if depth is None:
        fitting = ", ".join(name for name, entry in MODELS.items() if entry.backbone)
        raise InputError(
            f"{arch} has no backbone to load: leave it out, or use {fitting}",
            field=_FIELD,
            value=source,
        )
    path = pretrained(depth, weights=IMAGENET[source])
    return torch_weights.load_backbone(start, depth, path, registry.get(arch).backbone_path)


def read_folder(path: Path, which: str = "best") -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, meta) of a run, as `checkpoint.load`, or of a folder of `model_folder`."""
    if model_folder.is_model_folder(path):
        return model_folder.load(path)
    inner = path / "checkpoints"
    return checkpoint.load(inner if inner.is_dir() else path, which)


def _from_file(
    start: dict[str, Any], arch: str, model: nn.Module, depth: str | None, path: Path
) -> dict[str, Any]:
    """PyTorch's weights of the whole network, or of its backbone, as their names tell."""
    names = read_state_dict(path)
    if depth is not None and torch_weights.is_backbone_alone(names):
        return torch_weights.load_backbone(start, depth, path, registry.get(arch).backbone_path)
    options: dict[str, Any] = {"backbone": depth} if hasattr(model, "backbone") else {}
    if any(name.startswith("aux_classifier.") for name in names) and getattr(model, "aux", False):
        options["aux"] = True
    return _merged(start, torch_weights.load_torch_weights(arch, path, **options), str(path))


def published(arch: str) -> Path:
    """torchvision's published weights of a whole network; InputError if there are none."""
    network = MODELS.get(arch)
    if network is None or network.published is None:
        whole = ", ".join(name for name, entry in MODELS.items() if entry.published)
        raise InputError(f"{arch}: no published weights of the whole network: there are {whole}")
    return pretrained(network.published)


def _merged(start: dict[str, Any], loaded: dict[str, Any], where: str) -> dict[str, Any]:
    """`loaded`, with the leaves of `start` where only the number of classes differs.

    An auxiliary head is needed in training only, so that one of the two may lack it.
    """
    ours = dict(jax.tree_util.tree_leaves_with_path(start))
    theirs = dict(jax.tree_util.tree_leaves_with_path(loaded))
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    aux = {p for p in ours if "aux_head" in name(p)} - set(theirs)
    missing = sorted(name(p) for p in set(ours) ^ set(theirs) if "aux_head" not in name(p))
    if missing:
        raise InputError(
            f"of another network ({missing[0]} is in one only): check model.arch",
            field=_FIELD,
            value=where,
        )
    kept = [p for p in ours if p not in aux and np.shape(ours[p]) != np.shape(theirs[p])]
    # Only the last layers depend on the number of classes; more would be another network.
    wrong = [p for p in kept if np.shape(ours[p])[:-2] != np.shape(theirs[p])[:-2]]
    if wrong or len(kept) > 8:
        raise InputError(
            f"{name((wrong or kept)[0])} has another shape: check model.arch",
            field=_FIELD,
            value=where,
        )
    if kept:
        _log.warning(
            "%s has other classes: %s are initialised at random",
            where,
            ", ".join(map(name, kept)),
        )
    if aux:
        _log.warning("%s has no auxiliary head: it is initialised at random", where)
    kept = {*kept, *aux}
    return jax.tree_util.tree_map_with_path(
        lambda p, leaf: leaf if p in kept else jax.device_put(theirs[p]), start
    )
