"""A trained network as a folder of two files: model.safetensors and config.json.

This is the form in which model hubs hold networks. The arrays have PyTorch's names and layouts, so
that PyTorch loads them strictly (`weights.torch_names`); those of a network that has no names there
keep ours, such as `params/Conv_0/kernel`. config.json says which network it is, its classes and
colours, and nothing of the machine that it was trained on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save as to_bytes

from fcn_jax.runtime import files
from fcn_jax.types import InputError
from fcn_jax.weights import torch_names, torch_weights
from fcn_jax.weights.torch_files import read_state_dict

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = "fcn_jax.network"
VERSION = 1

_KEPT = ("model", "image_size", "class_names", "palette")
"""Of a checkpoint's meta. The configuration stays behind: it holds paths."""


def is_model_folder(path: Path | str) -> bool:
    """Whether there is a folder of that form."""
    return (Path(path) / WEIGHTS).is_file() and (Path(path) / CONFIG).is_file()


def save(folder: Path | str, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write the folder; one of the same form is replaced.

    Args:
        folder: made where it does not exist.
        variables: {"params", "batch_stats"}.
        meta: what a checkpoint carries: model, image_size, class_names, palette, as JSON values.

    Raises:
        InputError: the folder holds another config.json, such as a run's, or weights of another
            origin; or the disk is full.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if (folder / name).exists() and _format(folder) != FORMAT:
            raise InputError(f"{folder} holds another {name}: choose another folder")
    arch = meta["model"]["name"]
    if arch in torch_names.RULES:
        state = torch_weights.to_torch(arch, variables)
    else:
        state = {name: np.asarray(a) for name, a in flatten_dict(variables, sep="/").items()}
    files.make_folder(folder)
    files.write_bytes(folder / WEIGHTS, to_bytes(state, {"format": "pt"}))
    about = {"format": FORMAT, "format_version": VERSION, **{name: meta[name] for name in _KEPT}}
    files.write_json(folder / CONFIG, about)


def load(folder: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, meta) of a folder that `save` wrote, as `checkpoint.load` returns them.

    Raises:
        InputError: another form or version, damage, or weights that do not fit.
    """
    folder = Path(folder)
    about = files.read_json(folder / CONFIG)
    if _format(folder) != FORMAT or about.get("format_version") != VERSION:
        raise InputError(f"{folder / CONFIG}: not of {FORMAT} {VERSION}: export the network again")
    missing = [name for name in _KEPT if name not in about]
    if missing:
        raise InputError(f"{folder / CONFIG}: {missing[0]} is missing: export the network again")
    counts = {len(about["class_names"]), len(about["palette"]), about["model"].get("num_classes")}
    if len(counts) > 1 or "name" not in about["model"]:
        raise InputError(
            f"{folder / CONFIG}: class_names, palette and model do not fit each other: "
            "export the network again"
        )
    arch = about["model"]["name"]
    if arch in torch_names.RULES:
        options = dict(about["model"])
        for given in ("name", "num_classes", "precision", "init"):
            options.pop(given, None)
        variables = torch_weights.load_torch_weights(arch, folder / WEIGHTS, **options)
    else:
        arrays = unflatten_dict(read_state_dict(folder / WEIGHTS), sep="/")
        variables = {"params": {}, "batch_stats": {}, **arrays}
    return variables, {name: about[name] for name in _KEPT}


def _format(folder: Path) -> Any:
    about = files.read_json(folder / CONFIG) if (folder / CONFIG).exists() else None
    return about.get("format") if isinstance(about, dict) else None
