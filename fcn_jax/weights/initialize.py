"""What a network starts from: fresh weights, published ones, a checkpoint or another run."""

import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.models.resnet import DEPTHS
from fcn_jax.types import InputError
from fcn_jax.weights import checkpoint, torch_names
from fcn_jax.weights.torch_files import read_state_dict
from fcn_jax.weights.torchvision import FILES, pretrained

BACKBONES = {"resnet50_fcn": "resnet50", "fcn_resnet50": "resnet50"}
"""Network -> the ResNet under params["backbone"]."""

IMAGENET = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}
"""What `--pretrained` may say instead of a path -> torchvision's name of the weights."""


def fresh(model: nn.Module, key: jax.Array, image_size: tuple[int, int]) -> dict[str, Any]:
    """New variables, {"params", "batch_stats"}, of float32 arrays."""
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
      key: of the fresh weights.
      image_size: to trace with; shapes do not depend on it.
      source: None; `imagenet` or `imagenet-v2` (torchvision's, downloaded, for a backbone); a
        `.pth` or `.safetensors` file of a backbone or of the whole network; or the folder of a run
        of the same network. A classifier for another number of classes stays fresh, and a note
        says so.

    Raises:
      InputError: if the source cannot be had or does not fit.
    """
    start = fresh(model, key, image_size)
    if source is None:
        return start
    if source in IMAGENET:
        if arch not in BACKBONES:
            fitting = ", ".join(BACKBONES)
            raise InputError(
                f"--pretrained {source}: {arch} has no backbone to load: leave it out, "
                f"or use --arch {fitting}"
            )
        depth = BACKBONES[arch]
        weights = IMAGENET[source]
        return torch_names.load_backbone(start, depth, pretrained(depth, weights=weights))
    path = Path(source).expanduser()
    if path.is_dir():
        inner = path / "checkpoints"
        loaded, _ = checkpoint.load(inner if inner.is_dir() else path)
        return _merged(start, loaded, str(path))
    if not path.exists():
        raise InputError(
            f"--pretrained {source}: no such file: give imagenet, imagenet-v2, the path of a .pth "
            "or .safetensors file, or the folder of a run"
        )
    if arch in BACKBONES and _is_backbone(path):
        return torch_names.load_backbone(start, BACKBONES[arch], path)
    return _merged(start, torch_names.load_torch_weights(arch, path), str(path))


def published(arch: str) -> Path:
    """torchvision's published weights of a whole network; InputError if there are none."""
    if arch in DEPTHS or arch not in FILES:
        whole = ", ".join(name for name in FILES if name not in DEPTHS)
        raise InputError(f"{arch}: no published weights of the whole network: there are {whole}")
    return pretrained(arch)


def _is_backbone(path: Path) -> bool:
    return "layer1.0.conv1.weight" in read_state_dict(path)


def _merged(start: dict[str, Any], loaded: dict[str, Any], where: str) -> dict[str, Any]:
    """`loaded`, but with the fresh leaves where only the number of classes differs."""
    ours = dict(jax.tree_util.tree_leaves_with_path(start))
    theirs = dict(jax.tree_util.tree_leaves_with_path(loaded))
    name = jax.tree_util.keystr
    missing = sorted(name(p) for p in set(ours) ^ set(theirs))
    if missing:
        raise InputError(f"{where}: of another network ({missing[0]} is in one only): check --arch")
    kept = [p for p in ours if np.shape(ours[p]) != np.shape(theirs[p])]
    # Only the last layers depend on the number of classes; more would be another network.
    wrong = [p for p in kept if np.shape(ours[p])[:-2] != np.shape(theirs[p])[:-2]]
    if wrong or len(kept) > 8:
        raise InputError(f"{where}: {name((wrong or kept)[0])} has another shape: check --arch")
    if kept:
        print(
            f"note: {where} has other classes: {', '.join(map(name, kept))} start fresh",
            file=sys.stderr,
        )
    return jax.tree_util.tree_map_with_path(
        lambda p, fresh_leaf: fresh_leaf if p in kept else jnp.asarray(theirs[p]), start
    )
