"""A data set looked over before it is trained on: what is wrong, what is worth knowing, numbers.

What is wrong is found by `source.problems`, the very checks that training makes.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from fcn_jax.data import source as sources
from fcn_jax.types import VOID, Example

SAMPLES = 24
"""Pictures kept of each split, for a contact sheet."""

SHOWN = 8
"""Ids or class names that one note spells out."""


@dataclass
class Split:
    """What the sound pairs of one split hold."""

    ids: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of every mask value, over all masks."""
    masks: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Masks that hold the value."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) -> pictures."""
    samples: list[Example] = field(default_factory=list)


@dataclass
class Survey:
    """The result of `survey`."""

    problems: list[str]
    """What training would refuse, in training's words, one line each."""
    notes: list[str]
    """Worth knowing; training would not stop."""
    class_names: tuple[str, ...]
    palette: np.ndarray
    splits: Mapping[str, Split]


def survey(source: sources.Source, tick: Callable[[], object] = lambda: None) -> Survey:
    """Look at every pair of every split once; `tick` is called for each."""
    splits = {split: Split() for split in source.splits}
    content: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    swallowed: list[str] = []
    empty: list[str] = []

    def see(split: str, stored: sources.Stored) -> None:
        example = _decode(stored)
        facts = splits[split]
        counts = np.bincount(example.mask.ravel(), minlength=256)
        facts.ids.append(stored.id)
        facts.pixels += counts
        facts.masks += counts > 0
        facts.sizes[(example.mask.shape[0], example.mask.shape[1])] += 1
        # Evenly over the split, without knowing beforehand which pairs are sound.
        if len(facts.ids) % max(1, -(-len(source.splits[split]) // SAMPLES)) == 0:
            facts.samples.append(example)
        shape = repr(example.image.shape).encode()
        content[hashlib.sha256(shape + example.image.tobytes()).digest()].append((split, stored.id))
        if stored.classes == {VOID}:
            empty.append(_name(source.masks[stored.id]))
        elif VOID in stored.classes and stored.classes <= {0, VOID}:
            swallowed.append(_name(source.masks[stored.id]))

    found = list(dict.fromkeys(sources.problems(source, tick, see)))
    notes = [
        *source.notes,
        *_file_notes(source),
        *_void_notes(swallowed, empty),
        *_duplicates(content),
        *_absences(splits, source.class_names),
    ]
    return Survey(found, notes, source.class_names, source.palette, splits)


def _decode(stored: sources.Stored) -> Example:
    image = np.asarray(sources.to_rgb(Image.open(io.BytesIO(stored.image))))
    return Example(stored.id, image, np.asarray(Image.open(io.BytesIO(stored.mask))))


def _name(path: str) -> str:
    return path.split("/", 1)[-1]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _file_notes(source: sources.Source) -> list[str]:
    """Files that nothing uses, and pictures of equal stem."""
    notes = []
    listed = {i for ids in source.splits.values() for i in ids}
    spare = sorted(i for i in source.images.keys() & source.masks.keys() if i not in listed)
    if spare:
        notes.append(f"pairs in no list, which stay unused ({len(spare)}): {_some(spare)}")
    lone = sorted(source.masks.keys() - source.images.keys() - listed)
    if lone:
        notes.append(f"masks without an image, which stay unused ({len(lone)}): {_some(lone)}")
    used = set(source.images.values())
    folders = {PurePosixPath(path).parts[0] for path in used}
    for name in sorted(source.files.names()):
        path = PurePosixPath(name)
        known = path.suffix.lower() in sources.IMAGE_SUFFIXES
        if name in used or not known or path.parts[0] not in folders:
            continue
        example_id = path.relative_to(path.parts[0]).with_suffix("").as_posix()
        other = source.images[example_id]
        notes.append(f"image {_name(name)} is not used: {_name(other)} has the same id")
    return notes


def _void_notes(swallowed: list[str], empty: list[str]) -> list[str]:
    """Masks whose object may be hidden in void: of 255 drawn where a class id was meant."""
    notes = [
        f"mask {name} holds only 0 and 255, and 255 is void, which is never trained on: "
        "where an object was meant, save it as its class id"
        for name in swallowed
    ]
    return notes + [f"mask {name} is void everywhere: it teaches nothing" for name in empty]


def _duplicates(content: Mapping[bytes, list[tuple[str, str]]]) -> list[str]:
    """Pictures that are equal pixel for pixel, whatever their names; those across splits first."""
    notes = []
    for places in content.values():
        if len(places) > 1:
            across = len({split for split, _ in places}) > 1
            where = " = ".join(f"{split}/{example_id}" for split, example_id in places)
            text = "the splits are judged on what was trained on" if across else "it counts twice"
            notes.append((not across, f"the same picture: {where}: {text}"))
    return [text for _, text in sorted(notes)]


def _absences(splits: Mapping[str, Split], class_names: tuple[str, ...]) -> list[str]:
    notes = []
    for split, facts in splits.items():
        absent = [n for n, count in zip(class_names, facts.masks, strict=False) if not count]
        if facts.ids and absent:
            notes.append(f"no {split} mask holds: {_some(absent)}")
    return notes
