"""Which ids are trained on, validated on and tested on: from lists, folders, or by a seed."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from fcn_jax.data.layouts import FOLDERS, SPLIT_NAMES
from fcn_jax.data.raw_files import Files, FolderFiles
from fcn_jax.types import IMAGE_SUFFIXES, InputError

SPLITS = ("train", "val", "test")
LISTS = "ImageSets/Segmentation"
_LIST_FOLDERS = (LISTS, "ImageSets", "splits", "split", "lists", "list", "")
_LIST_SUFFIXES = (".txt", ".lst")
_POOLS = ("trainval", "default", "all")
"""Lists that name the images, but not which are for validation."""

SHOWN = 8
"""Names that one note spells out."""


def decode_text(files: Files, name: str) -> str:
    """A text file's content."""
    try:
        return files.read(name).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} in {files.title} is no UTF-8 text: save it as UTF-8") from None


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_lists(files: Files, known: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The lists of a data set by their names in lower case; `train`, `val`, `test` by these names.

    Lists in `LISTS` come first, then those in other folders.

    Args:
        files: the data set.
        known: ids of its images; a line may name one with its suffix, its folder, or more behind.
            Lines that begin with # are skipped.
    """
    names = {i: i.rpartition("/")[2] for i in known}
    counts = Counter(names.values())
    by_name = {name: i for i, name in names.items() if counts[name] == 1}
    return {
        split: _read_list(decode_text(files, path.as_posix()), split, known, by_name)
        for split, path in _find_lists(files).items()
    }


def _find_lists(files: Files) -> dict[str, PurePosixPath]:
    """Where the lists are that `read_lists` reads, by the same names."""
    paths = [PurePosixPath(n) for n in files.names() if n.lower().endswith(_LIST_SUFFIXES)]
    first = [folder.lower() or "." for folder in _LIST_FOLDERS]
    others = sorted({p.parent.as_posix().lower() for p in paths} - {*first})
    for folder in (*first, *others):
        found = {p.stem.lower(): p for p in paths if p.parent.as_posix().lower() == folder}
        named: dict[str, PurePosixPath] = {}
        for stem in sorted(found, key=lambda stem: (stem not in SPLITS, stem)):
            name = _list_name(stem, found)
            named[stem if name in named else name] = found[stem]
        if folder != first[0]:
            named = {k: p for k, p in named.items() if k in (*SPLITS, *_POOLS)}
        if named:
            return named
    return {}


def _list_name(stem: str, stems: Container[str]) -> str:
    """train, val or test for `train`, `valid`, `train_list`, `ids_train` and the like."""
    bare = re.sub(r"^(list|split|ids)[_-]|[_-](list|split|ids?|files|images|names|aug)$", "", stem)
    return SPLIT_NAMES.get(stem, stem if bare in stems else SPLIT_NAMES.get(bare, stem))


def _read_list(
    text: str, split: str, known: Mapping[str, str], by_name: Mapping[str, str]
) -> tuple[str, ...]:
    """The ids in a list; a bare name means the image in the split's folder, or the only one."""
    by_name = {**by_name, **{i.partition("/")[2]: i for i in known if i.startswith(f"{split}/")}}
    lines = (line.strip() for line in text.splitlines())
    ids = (_resolve(line, known, by_name) for line in lines if line)
    return tuple(i for i in ids if i in known or not i.startswith("#"))


def unread_lists(files: FolderFiles) -> list[str]:
    """A note on files that seem to be lists of splits and are not read, if there are any."""
    read = {path.as_posix() for path in _find_lists(files).values()}
    names = [
        name
        for name in (*files.names(), *files.elsewhere)
        if name not in read
        and name.lower().endswith((*_LIST_SUFFIXES, ".csv", ".json"))
        and re.search(r"(^|[^a-z])(train|val|test|split)", PurePosixPath(name).stem.lower())
    ]
    return [f"files that are not read as lists: {some(sorted(names))}"] if names else []


def _resolve(line: str, known: Mapping[str, str], by_name: Mapping[str, str]) -> str:
    """The id that a line means: all of it, or its first word, perhaps a path."""
    line = unicodedata.normalize("NFC", line)
    if line in known:
        return line
    content = line.split(" # ")[0].rstrip()
    words = [content]
    for first, *others in (content.split(), re.split(r"[\s,;]+", content)):
        if all(_is_beside(first, other) for other in others):
            words.append(first)
    words = [word.strip("\"'") for word in words]
    for text in words:
        path = PurePosixPath(text.replace("\\", "/"))
        stem = path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path
        tails = {start: "/".join(stem.parts[start:]) for start in range(len(stem.parts))}
        for tail in tails.values():
            if tail in known:
                return tail
        for start, tail in tails.items():
            if tail in by_name and _is_same_folder(stem.parts[:start], by_name[tail]):
                return by_name[tail]
    return next((word for word in words if word in known), line)


def _is_beside(first: str, word: str) -> bool:
    """Whether a word behind an image's name belongs to it: a path, its mask, or VOC's -1, 0, 1."""
    name = PurePosixPath(first.strip("\"'")).stem
    return bool(re.fullmatch(r"-?[01]|.*[/\\.].*", word)) or name in word


def _is_same_folder(dropped: Sequence[str], example_id: str) -> bool:
    """Whether the folders before a name in a list are those of the only image of that name.

    The line `cam2/0001` does not mean the image cam1/0001: it names one that is missing.
    """
    plain = all(part.lower() in FOLDERS for part in dropped)
    return plain or {*PurePosixPath(example_id).parts[:-1]} <= {*dropped}


def choose(
    lists: Mapping[str, tuple[str, ...]],
    folders: Mapping[str, tuple[str, ...]],
    ids: Sequence[str],
    seed: int,
    where: str,
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The splits of a folder, and notes on how they came about.

    Args:
        lists: from `read_lists`.
        folders: what the folders of the images say.
        ids: of all images.
        seed: chooses the val split where nothing says which it is.
        where: the folder, for messages.
    """
    notes = []
    others = sorted(set(lists) - {*SPLITS, *_POOLS})
    given = {s: lists[s] for s in SPLITS if s in lists}
    pool = next((lists[p] for p in _POOLS if p in lists), None)
    for split, other in (("val", "train"), ("train", "val")):
        if pool and other in given and split not in given:
            given[split] = tuple(i for i in pool if i not in set(given[other]))
            beyond = f"what {_pool(lists)}.txt lists beyond {other} is {split}"
            notes.append(f"{where} has no {split}.txt: {beyond}")
    if others and (given or pool):
        notes.append(f"lists that are not used: {some(f'{n}.txt' for n in others)}")
    if "train" in given or "val" in given:
        return {s: given[s] for s in SPLITS if s in given}, notes
    if pool is None and not given and "train" in folders:
        given = dict(folders)
        notes += _outside(folders, ids)
        pool = given.pop("train") if "val" not in given else None
        if pool is None:
            return {s: given[s] for s in SPLITS if s in given}, notes
        reason = "no folder of the val split"
    elif pool is not None:
        reason = f"only {_pool(lists)}.txt of the lists"
    else:
        tested = set(given.get("test", ()))
        pool = tuple(i for i in ids if i not in tested)
        reason = (
            f"no {LISTS}/*.txt"
            if not lists
            else f"no list train.txt, only {some(f'{n}.txt' for n in sorted(lists))}"
        )
    made = {**_seeded(pool, seed, where), **{s: i for s, i in given.items() if s == "test"}}
    sizes = ", ".join(f"{split} {len(split_ids)}" for split, split_ids in made.items())
    notes.append(f"{where} has {reason}: split by seed {seed} into {sizes}")
    return made, notes


def _outside(folders: Mapping[str, tuple[str, ...]], ids: Iterable[str]) -> list[str]:
    """A note on images that are in no folder of a split, if there are any."""
    inside = {i for split in folders.values() for i in split}
    outside = [i for i in ids if i not in inside]
    what = f"images in no folder of a split, which stay unused ({len(outside)})"
    return [f"{what}: {some(outside)}"] if outside else []


def _pool(lists: Mapping[str, tuple[str, ...]]) -> str:
    return next(p for p in _POOLS if p in lists)


def _seeded(ids: Sequence[str], seed: int, where: str) -> dict[str, tuple[str, ...]]:
    if len(ids) < 2:
        raise InputError(
            f"{where} has {len(ids)} image{'' if len(ids) == 1 else 's'}: at least 2 are needed, "
            "to train and to validate"
        )
    # Ordered by a hash of the id, so that adding an image moves no other between the splits' order.
    ranked = sorted(dict.fromkeys(ids), key=lambda i: _hash(seed, i))
    count = max(1, round(len(ids) / 5))
    return {"train": tuple(sorted(ranked[count:])), "val": tuple(sorted(ranked[:count]))}


def _hash(seed: int, example_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{example_id}".encode("utf-8", "surrogateescape")).digest()


def shared_ids(splits: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each two splits that have ids in common."""
    notes = []
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = sorted(set(splits[first]) & set(splits[second]))
            if both:
                count = "1 image is" if len(both) == 1 else f"{len(both)} images are"
                notes.append(
                    f"{count} in {first} and in {second}: {some(both)}: scores on {second} are "
                    f"too high, remove {'it' if len(both) == 1 else 'them'} from one of the lists"
                )
    return notes
