"""The layouts of data set folders: which file is an image or a mask, and of which split.

Known are VOC's (JPEGImages and SegmentationClass, or images and masks), the same with a folder for
each split below (images/train, masks/train), or above (train/images, train/masks), both kinds in
one folder (Roboflow: train/a.jpg, train/a_mask.png), CamVid (train, trainannot), and Cityscapes,
ADE20K and Mapillary Vistas as they are distributed.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fcn_jax.data.masks import LOSSY_SUFFIXES, MASK_SUFFIXES
from fcn_jax.types import IMAGE_SUFFIXES

IMAGE_FOLDERS = (
    *("JPEGImages", "images", "image", "imgs", "img"),
    *("leftImg8bit", "701_StillsRaw_full"),
)
MASK_FOLDERS = (
    *("SegmentationClass", "SegmentationClassPNG", "masks", "mask", "labels", "label"),
    *("annotations", "gtFine", "LabeledApproved_full"),
)
SPLIT_NAMES = {
    f"{name}{tail}": split
    for split, names in (
        ("train", ("train", "training", "trn")),
        ("val", ("val", "valid", "validation", "validate", "dev", "eval", "evaluation")),
        ("test", ("test", "testing", "tst")),
    )
    for name in names
    for tail in ("", "set", "_set", "2014", "2017")
}
"""Names of splits in lists and folders, in lower case -> train, val, test."""

FOLDERS = {folder.lower() for folder in (*IMAGE_FOLDERS, *MASK_FOLDERS)}

_TEXTS = (".txt", ".lst", ".csv", ".tsv", ".json", ".yaml", ".yml", ".pbtxt", ".names")
"""Files at the top that may be lists."""

_ANNOTATED = {
    f"{name}{tail}": name for name in SPLIT_NAMES for tail in ("annot", "_labels", "_masks")
}
"""CamVid's folders of masks beside the split's images -> the folder of the images."""

_TAIL = re.compile(
    r"(_gtFine_labelIds|_gtFine_labelTrainIds|_labelIds|_L"
    r"|(?i:[_.-]masks?|_labels?|_seg(mentation)?|_gt|_groundtruth|_annot(ation)?))$"
)
"""What may follow an image's name in its mask's."""
_CITYSCAPES = "_leftImg8bit"


Found = list[tuple[PurePosixPath, tuple[str, ...]]]
"""Paths, each with the parts of its id."""


@dataclass
class Pairs:
    """Images and masks of a folder by id."""

    images: dict[str, str] = field(default_factory=dict)
    """Id -> path."""
    masks: dict[str, str] = field(default_factory=dict)
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What the folders say; empty where they say nothing."""
    layout: str = "voc"
    """`voc`, `splits` (a folder a split), `camvid` or `cityscapes`."""
    unused: list[tuple[str, str]] = field(default_factory=list)
    """(image or mask that is not used, the other one of the same id)."""
    version: str = ""
    """Of Mapillary's masks, `v2.0` before `v1.2`; empty elsewhere."""
    other_folders: tuple[str, ...] = ()
    """Folders of images or masks that are not used, because others come first."""


def is_known_name(name: str) -> bool:
    """Whether a folder at the top of a data set, or a file there, can belong to it."""
    lower = name.lower()
    lists = ("imagesets", "splits", "split", "lists", "list")
    known = (*FOLDERS, *lists, *SPLIT_NAMES, *_ANNOTATED)
    return lower in known or lower.endswith(_TEXTS)


def find_pairs(names: Iterable[str]) -> Pairs:
    """Sort the files of a folder into images and masks.

    Args:
        names: paths below the folder.
    """
    paths = [PurePosixPath(name) for name in names]
    tops = {p.parts[0] for p in paths if len(p.parts) > 1}
    pairs = Pairs()
    image_top = _first(IMAGE_FOLDERS, tops, paths, IMAGE_SUFFIXES)
    mask_top = _first(MASK_FOLDERS, tops, paths, (*MASK_SUFFIXES, *LOSSY_SUFFIXES))
    if image_top and mask_top:
        image_files = [(p, _key(p.parts[1:])) for p in paths if p.parts[0] == image_top]
        mask_files = [(p, _key(p.parts[1:])) for p in paths if p.parts[0] == mask_top]
        pairs.layout = "cityscapes" if image_top == "leftImg8bit" else "voc"
    elif any(top.lower() in _ANNOTATED for top in tops):
        pairs.layout = "camvid"
        masks_of = {top: _ANNOTATED[top.lower()] for top in tops if top.lower() in _ANNOTATED}
        image_files = [(p, _key(p.parts)) for p in paths if p.parts[0].lower() in SPLIT_NAMES]
        mask_files = [
            (p, _key((masks_of[p.parts[0]], *p.parts[1:]))) for p in paths if p.parts[0] in masks_of
        ]
    else:
        pairs.layout = "splits"
        image_files, mask_files, pairs.version = _split_folders(paths)
    _collect_images(pairs, image_files)
    _collect_masks(pairs, mask_files)
    found = {i: SPLIT_NAMES.get(i.split("/")[0].lower()) for i in pairs.images if "/" in i}
    ids = {i: split for i, split in found.items() if split}
    if len(ids) == len(pairs.images) or {"train"} < {*ids.values()}:
        pairs.splits = {
            split: tuple(sorted(i for i, s in ids.items() if s == split))
            for split in ("train", "val", "test")
            if split in ids.values()
        }
    used = {p.parts[0] for p, _ in (*image_files, *mask_files)}
    known = {*FOLDERS, *SPLIT_NAMES}
    filled = {p.parts[0] for p in paths if p.suffix.lower() in IMAGE_SUFFIXES}
    pairs.other_folders = tuple(
        top for top in sorted(tops - used) if top.lower() in known and top in filled
    )
    return pairs


def _first(
    candidates: tuple[str, ...],
    tops: set[str],
    paths: list[PurePosixPath],
    suffixes: tuple[str, ...],
) -> str | None:
    """The first candidate among the folders that holds files of these suffixes, or is there."""
    there = [top for c in candidates for top in sorted(tops) if top.lower() == c.lower()]
    filled = {p.parts[0] for p in paths if p.suffix.lower() in suffixes}
    return next((top for top in there if top in filled), there[0] if there else None)


def _key(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of an id, and of the same in its mask's path, whatever the split's name there."""
    if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
        return (SPLIT_NAMES[parts[0].lower()], *parts[1:])
    return parts


def _split_folders(paths: list[PurePosixPath]) -> tuple[Found, Found, str]:
    """Images, masks and their version, of the layouts whose first folder is the split."""
    images, masks = [], []
    version = max((p.parts[1] for p in paths if _is_mapillary(p)), default="")
    image_folders = {f.lower() for f in IMAGE_FOLDERS}
    mask_folders = {f.lower() for f in MASK_FOLDERS}
    for p in paths:
        if p.parts[0].lower() not in SPLIT_NAMES or len(p.parts) < 2:
            continue
        inner = [part.lower() for part in p.parts[1:-1]]
        if inner and inner[0] in image_folders:
            images.append((p, _key((p.parts[0], *p.parts[2:]))))
        elif inner and inner[0] in mask_folders:
            masks.append((p, _key((p.parts[0], *p.parts[2:]))))
        elif _is_mapillary(p):
            if p.parts[1] == version:
                masks.append((p, _key((p.parts[0], *p.parts[3:]))))
        elif not inner:
            masked = p.suffix.lower() in MASK_SUFFIXES and _TAIL.search(p.stem)
            (masks if masked else images).append((p, _key(p.parts)))
    return images, masks, version


def _is_mapillary(path: PurePosixPath) -> bool:
    """Whether a file lies in a folder such as training/v2.0/labels."""
    inner = path.parts[1:-1]
    return len(inner) > 1 and inner[0].startswith("v") and inner[1] == "labels"


def _id(key: tuple[str, ...], stem: str) -> str:
    """The id of a file; macOS decomposes the letters of a name, other systems do not."""
    return unicodedata.normalize("NFC", "/".join((*key[:-1], stem)))


def _collect_images(pairs: Pairs, found: Found) -> None:
    ranks: dict[str, int] = {}
    for path, key in found:
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            continue
        stem = path.stem.removesuffix(_CITYSCAPES)
        example_id, rank = _id(key, stem), IMAGE_SUFFIXES.index(suffix)
        other = pairs.images.get(example_id)
        if other is not None and ranks[example_id] <= rank:
            pairs.unused.append((path.as_posix(), other))
            continue
        if other is not None:
            pairs.unused.append((other, path.as_posix()))
        pairs.images[example_id], ranks[example_id] = path.as_posix(), rank


def _collect_masks(pairs: Pairs, found: Found) -> None:
    ranks: dict[str, tuple[int, int]] = {}
    suffixes = (*MASK_SUFFIXES, *LOSSY_SUFFIXES)
    for path, key in found:
        if path.suffix.lower() not in suffixes:
            continue
        stems = [path.stem, _TAIL.sub("", path.stem)]
        stems += [path.stem[: -len(s)] for s in IMAGE_SUFFIXES if path.stem.lower().endswith(s)]
        ids = [_id(key, stem) for stem in stems]
        level = next((n for n, i in enumerate(ids) if i in pairs.images), 0)
        rank = (level, suffixes.index(path.suffix.lower()))
        if "labelTrainIds" in path.stem:
            rank = (9, 0)  # the ids as distributed come first
        elif any(t in path.stem for t in ("_gtFine_color", "_gtFine_instanceIds")):
            continue
        other = pairs.masks.get(ids[level])
        if other is not None and 9 not in (rank[0], ranks[ids[level]][0]):
            better = rank < ranks[ids[level]]
            pairs.unused.append((other, path.as_posix()) if better else (path.as_posix(), other))
        if other is None or rank < ranks[ids[level]]:
            pairs.masks[ids[level]], ranks[ids[level]] = path.as_posix(), rank
