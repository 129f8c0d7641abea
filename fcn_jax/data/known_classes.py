"""The classes of Cityscapes, CamVid, ADE20K and Mapillary Vistas, as these are distributed."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcn_jax.data.classes import Classes, is_void, plain_classes
from fcn_jax.types import VOID, InputError

_CITYSCAPES = (
    (7, "road", 128, 64, 128), (8, "sidewalk", 244, 35, 232), (11, "building", 70, 70, 70),
    (12, "wall", 102, 102, 156), (13, "fence", 190, 153, 153), (17, "pole", 153, 153, 153),
    (19, "traffic light", 250, 170, 30), (20, "traffic sign", 220, 220, 0),
    (21, "vegetation", 107, 142, 35), (22, "terrain", 152, 251, 152), (23, "sky", 70, 130, 180),
    (24, "person", 220, 20, 60), (25, "rider", 255, 0, 0), (26, "car", 0, 0, 142),
    (27, "truck", 0, 0, 70), (28, "bus", 0, 60, 100), (31, "train", 0, 80, 100),
    (32, "motorcycle", 0, 0, 230), (33, "bicycle", 119, 11, 32),
)  # fmt: skip
_CAMVID = (
    ("sky", 128, 128, 128), ("building", 128, 0, 0), ("pole", 192, 192, 128),
    ("road", 128, 64, 128), ("pavement", 60, 40, 222), ("tree", 128, 128, 0),
    ("sign_symbol", 192, 128, 128), ("fence", 64, 64, 128), ("car", 64, 0, 128),
    ("pedestrian", 64, 64, 0), ("bicyclist", 0, 128, 192),
)  # fmt: skip


def cityscapes(train_ids: bool = False) -> Classes:
    """Cityscapes' 19 evaluated classes.

    Args:
        train_ids: whether masks hold the ids 0..18 (labelTrainIds), not 0..33 (labelIds).
    """
    names = tuple(str(row[1]) for row in _CITYSCAPES)
    palette = np.array([row[2:] for row in _CITYSCAPES], np.uint8)
    if train_ids:
        return plain_classes(names, palette)
    values = dict.fromkeys((*range(34), VOID), VOID) | {
        int(r[0]): i for i, r in enumerate(_CITYSCAPES)
    }
    return Classes(names, palette, None, values)


def camvid() -> Classes:
    """CamVid's 11 classes in the version of the SegNet tutorial, where 11 is void."""
    palette = np.array([row[1:] for row in _CAMVID], np.uint8)
    plain = plain_classes([str(row[0]) for row in _CAMVID], palette)
    return Classes(plain.names, palette, None, {**plain.values, len(_CAMVID): VOID})


def ade20k(text: str, where: str) -> Classes:
    """ADE20K's classes from its objectInfo150.txt; 0 in a mask is void, 1 the first class."""
    names = [line.split("\t")[-1].split(",")[0].strip() for line in text.splitlines()[1:]]
    unique = _unique([n for n in names if n])
    if not 2 <= len(unique) < VOID:
        raise InputError(f"{where} names {len(unique)} classes: it is damaged, copy it again")
    plain = plain_classes(unique)
    values = {0: VOID, VOID: VOID, **{i + 1: i for i in range(len(unique))}}
    return Classes(plain.names, plain.palette, None, values)


def mapillary(text: str, where: str) -> Classes:
    """Mapillary Vistas' classes from its config.json."""
    try:
        labels: list[dict[str, Any]] = json.loads(text)["labels"]
        counted = [(i, x) for i, x in enumerate(labels) if not is_void(str(x["readable"]))]
        names = [str(x["readable"]) for _, x in counted]
        palette = np.array([[int(v) for v in x["color"]] for _, x in counted], np.uint8)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{where} is no list of Mapillary's labels: copy it again") from None
    values = dict.fromkeys((*range(len(labels)), VOID), VOID)
    values |= {value: i for i, (value, _) in enumerate(counted)}
    return Classes(tuple(_unique(names)), palette, None, values)


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that stood before."""
    return [n if names.index(n) == i else f"{n} {i + 1}" for i, n in enumerate(names)]
