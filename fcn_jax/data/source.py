"""The raw files of a data set, before it is prepared: its ids, splits and classes.

A `Source` is opened from VOC-2007's archives or from a folder. It reads names and lists, no images;
`validate` looks into those.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fcn_jax.data import class_lists, known_classes, layouts, splits
from fcn_jax.data.classes import VOC_CLASSES, Classes, plain_classes
from fcn_jax.data.raw_files import VOC_ROOT, Files, FolderFiles, TarFiles
from fcn_jax.data.splits import LISTS, SPLITS
from fcn_jax.types import InputError

CLASS_FILES = (
    *("classes.txt", "class_names.txt", "labelmap.txt", "class_dict.csv", "_classes.csv"),
    *("classes.csv", "label_colors.txt", "labels.txt"),
)
"""Files that list the classes; the first that is there counts."""

_LIKE_CLASSES = re.compile(
    r"(class|label|categor|names|colou?r)[^/]*\.(txt|csv|tsv|json|ya?ml|pbtxt)$|\.names$"
)


@dataclass(frozen=True)
class Source:
    """A data set's raw files, and what they are."""

    name: str
    files: Files
    classes: Classes
    splits: Mapping[str, tuple[str, ...]]
    """Ids in the order of the lists; "train", "val", "test", as far as there are any."""
    images: Mapping[str, str]
    """Id -> path."""
    masks: Mapping[str, str]
    has_lists: bool
    honour_exif: bool
    digest: str
    """Changes when a file, its time of change or the folder changes."""
    root: str
    """The absolute path of the folder, or of the folder of the archives."""
    unused: tuple[tuple[str, str], ...] = ()
    """(image or mask that is not used, the other one of the same id)."""
    notes: tuple[str, ...] = ()
    """Worth telling the user, and no error."""

    def list_name(self, split: str) -> str:
        """Where an id of `split` can be removed."""
        return f"{split}.txt" if self.has_lists else "the folder"

    def bytes_needed(self) -> int:
        """Bytes of all listed images and masks: about what the prepared data will take."""
        sizes, total = self.files.names(), 0
        for ids in self.splits.values():
            for example_id in ids:
                for paths in (self.images, self.masks):
                    total += sizes.get(paths.get(example_id, ""), 0)
        return total


def open_archives(trainval: Path, test: Path | None, name: str = "voc2007") -> Source:
    """Open VOC-2007 in its official tar archives.

    Args:
        trainval: the archive with the train and val splits.
        test: the archive with the test split; None: there is no such split.
        name: of the data set.

    Raises:
        InputError: for an archive that is cut off, no tar, or has no split list.
    """
    paths = [path for path in (trainval, test) if path is not None]
    files = TarFiles(paths)
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    known = ("JPEGImages/", "SegmentationClass/")
    pairs = layouts.find_pairs(n for n in files.names() if n.startswith(known))
    lists = splits.read_lists(files, pairs.images)
    for split in SPLITS if test is not None else SPLITS[:2]:
        if split not in lists:
            path = test if split == "test" else trainval
            raise InputError(
                f"{path} has no {VOC_ROOT}/{LISTS}/{split}.txt: it is not the VOC-2007 archive; "
                "download it again"
            )
    return Source(
        name=name,
        files=files,
        classes=plain_classes(VOC_CLASSES),
        splits={split: lists[split] for split in SPLITS if split in lists},
        images=pairs.images,
        masks=pairs.masks,
        has_lists=True,
        honour_exif=False,  # the official masks lie on the pixels as they are stored
        digest=_digest(stamps),
        root=str(trainval.resolve().parent),
    )


def open_folder(root: Path, name: str | None = None, seed: int = 0) -> Source:
    """Open a folder in one of the layouts that `layouts` knows.

    Splits come from lists (ImageSets/Segmentation/{train,val,test}.txt, one id per line), else from
    the folders of the images; without either one image of five, chosen by `seed`, is val and the
    rest train. A class list (`CLASS_FILES`, see `class_lists.parse_classes`) names the classes;
    without it they are VOC's 21, or those of the data set that the layout belongs to.

    Args:
        root: the folder.
        name: of the data set; None for the folder's.
        seed: of the val split where nothing says which it is.

    Raises:
        InputError: when the folder is missing or not of this shape.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no directory: give the folder of a data set")
    try:
        files = FolderFiles(root, layouts.is_known_name)
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}): check its permissions"
        ) from None
    pairs = layouts.find_pairs(files.names())
    if not pairs.images or not pairs.masks:
        raise _not_a_data_set(root, pairs, files)
    classes, notes = _classes(files, root, pairs)
    lists = splits.read_lists(files, pairs.images)
    chosen, more = splits.choose(lists, pairs.splits, sorted(pairs.images), seed, str(root))
    notes += more
    folders = f"folders that are not used: {', '.join(pairs.other_folders)}"
    notes += [folders] if pairs.other_folders else []
    notes += splits.unread_lists(files)
    tested = chosen.get("test", ())
    if any(i in pairs.images for i in tested) and not any(i in pairs.masks for i in tested):
        del chosen["test"]
        notes.append(f"the test split has {len(tested)} images and no mask: it is left out")
    return Source(
        name=name or root.resolve().name,
        files=files,
        classes=classes,
        splits=chosen,
        images=pairs.images,
        masks=pairs.masks,
        has_lists=bool({*lists} & {*SPLITS}),
        honour_exif=True,
        digest=_digest([str(root.resolve()), seed, files.stamps]),
        root=str(root.resolve()),
        unused=tuple(pairs.unused),
        notes=(*notes, *splits.shared_ids(chosen)),
    )


def _classes(files: Files, root: Path, pairs: layouts.Pairs) -> tuple[Classes, list[str]]:
    """The classes of a folder, and notes."""
    by_name = {name.lower(): name for name in files.names()}
    inside = {name.split("/")[-1].lower(): name for name in files.names() if name.count("/") == 1}
    for wanted in CLASS_FILES:
        path = by_name.get(wanted) or (inside.get(wanted) if wanted.endswith(".csv") else None)
        if path is not None:
            spare = [name for wanted in CLASS_FILES if (name := by_name.get(wanted, path)) != path]
            notes = [f"class lists that are not used: {', '.join(spare)}"] if spare else []
            return _listed(files, root, path), notes
    versions = (pairs.version,) if pairs.version else ("v2.0", "v1.2")
    for wanted, parse in (
        ("objectinfo150.txt", known_classes.ade20k),
        *((f"config_{v}.json", known_classes.mapillary) for v in versions),
        ("config.json", known_classes.mapillary),
    ):
        if wanted in by_name and (pairs.layout == "splits" or wanted.endswith(".txt")):
            path = by_name[wanted]
            return parse(splits.decode_text(files, path), str(root / path)), []
    if pairs.layout == "cityscapes":
        masks = [path for i, path in sorted(pairs.masks.items()) if i in pairs.images]
        train_ids = [path for path in masks if "labelTrainIds" in path]
        if len(train_ids) not in (0, len(masks)):
            raise InputError(
                f"{root} has no labelIds beside {train_ids[0]} as it has beside others: add them"
            )
        return known_classes.cityscapes(bool(train_ids)), [
            f"{root} is read as Cityscapes, 19 classes"
        ]
    if pairs.layout == "camvid":
        return known_classes.camvid(), [f"{root} is read as CamVid, 11 classes"]
    note = f"{root} has no classes.txt: its masks are read with VOC's 21 classes"
    alike = [n for n in files.names() if n.count("/") < 2 and _LIKE_CLASSES.search(n.lower())]
    note += f"; not read as class lists: {splits.some(alike)}" if alike else ""
    return plain_classes(VOC_CLASSES), [note]


def _listed(files: Files, root: Path, path: str) -> Classes:
    """The classes of a list, and of those by the same name in other folders (Roboflow's splits)."""
    folder, _, name = path.rpartition("/")
    paths = [p for p in files.names() if folder and p.count("/") == 1 and p.endswith(f"/{name}")]
    found = {
        p: class_lists.parse_classes(splits.decode_text(files, p), str(root / p))
        for p in (path, *paths)
    }
    first = found[path]
    for other, classes in found.items():
        if (classes.names, classes.values) != (first.names, first.values):
            raise InputError(f"{root}: {path} and {other} list different classes: make them equal")
    return first


def _not_a_data_set(root: Path, pairs: layouts.Pairs, files: Files) -> InputError:
    """Why there is nothing to read in a folder."""
    hint = _hint(root)
    there = {name.split("/")[0] for name in files.names() if "/" in name}
    there |= {p.name for p in root.iterdir() if p.is_dir()}
    if not any(f in there for f in layouts.IMAGE_FOLDERS) and not pairs.images:
        return InputError(f"{root} has no folder JPEGImages or images: add it{hint}")
    if not any(f in there for f in layouts.MASK_FOLDERS) and not pairs.masks:
        return InputError(
            f"{root} has no folder SegmentationClass or masks (labels, annotations): add it{hint}"
        )
    lacking = "masks" if pairs.images else "images"
    folders = layouts.MASK_FOLDERS if pairs.images else layouts.IMAGE_FOLDERS
    other = next((n for n in files.names() if n.split("/")[0] in folders), None)
    unread = f" ({other} is there, which is not read)" if other else ""
    return InputError(f"{root} has no {lacking} in its folders{unread}: add them{hint}")


def _hint(root: Path) -> str:
    """Where the data set may be, if it is beside or below the folder that was named."""
    broken = [p.name for p in root.iterdir() if p.is_symlink() and not p.exists()]
    if broken:
        return f"; {broken[0]} is a link to nothing"
    near = [root / VOC_ROOT, *sorted(p for p in root.iterdir() if p.is_dir())]
    if root.name in (*layouts.IMAGE_FOLDERS, *layouts.MASK_FOLDERS):
        near.append(root.parent)
    for folder in near:
        if any((folder / name).is_dir() for name in layouts.IMAGE_FOLDERS):
            return f"; did you mean {folder}?"
    return ""


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()[:12]
