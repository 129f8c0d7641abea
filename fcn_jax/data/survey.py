"""A survey of a data set before training: problems, notes and statistics.

What is wrong is found by `validate.problems`, the very checks that training makes.
"""

import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from fcn_jax.data import images, validate
from fcn_jax.data.source import Source
from fcn_jax.data.splits import SHOWN, some
from fcn_jax.types import VOID, Example

SAMPLES = 24
"""Images kept of each split, for a contact sheet."""


@dataclass
class Split:
    """What the valid pairs of one split hold."""

    ids: list[str] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of every mask value, over all masks."""
    masks: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Masks that hold the value."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) -> images."""
    samples: list[Example] = field(default_factory=list)


@dataclass
class Survey:
    """The result of `survey`."""

    problems: list[validate.Problem]
    """What training would refuse, in training's words."""
    notes: list[str]
    """Worth knowing; training would not stop."""
    class_names: tuple[str, ...]
    palette: np.ndarray
    splits: Mapping[str, Split]


def grouped(problems: Sequence[validate.Problem]) -> list[str]:
    """One line per group of problems: the first of them, how many more there are, and where.

    Messages are of one group if they differ in names of files and numbers only.
    """
    groups: dict[str, list[validate.Problem]] = defaultdict(list)
    for problem in problems:
        name = problem.example_id
        text = problem.message.replace(name, "") if name else problem.message
        groups[re.sub(r"\S*[\d/.]\S*", "", text)].append(problem)
    lines = []
    for first, *more in groups.values():
        where = some(p.example_id or p.message for p in more)
        lines.append(
            f"{first.message}; {len(more)} more of this kind: {where}" if more else first.message
        )
    return lines


def survey(source: Source, tick: Callable[[], object] = lambda: None) -> Survey:
    """Look at every pair of every split once; `tick` is called for each."""
    splits = {split: Split() for split in source.splits}
    content: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    swallowed: list[str] = []
    empty: list[str] = []

    def see(split: str, stored: validate.Stored) -> None:
        pixels = np.asarray(images.to_rgb(Image.open(io.BytesIO(stored.image))))
        example = Example(stored.id, pixels, np.asarray(Image.open(io.BytesIO(stored.mask))))
        facts = splits[split]
        facts.ids.append(stored.id)
        facts.pixels += stored.pixels
        facts.masks += stored.pixels > 0
        facts.sizes[stored.shape] += 1
        # Evenly over the split, without knowing beforehand which pairs are valid.
        if len(facts.ids) % max(1, -(-len(source.splits[split]) // SAMPLES)) == 0:
            facts.samples.append(example)
        shape = repr(example.image.shape).encode()
        content[hashlib.sha256(shape + example.image.tobytes()).digest()].append((split, stored.id))
        values = set(np.flatnonzero(stored.pixels).tolist())
        if values == {VOID}:
            empty.append(_name(source.masks[stored.id]))
        elif VOID in values and values <= {0, VOID}:
            swallowed.append(_name(source.masks[stored.id]))

    checker = validate.Checker(source)
    found = list(dict.fromkeys(validate.problems(source, tick, see, checker)))
    notes = [
        *source.notes,
        *checker.notes(),
        *_file_notes(source),
        *_void_notes(swallowed, empty),
        *_duplicates(content),
        *_absences(splits, source.classes.names),
    ]
    return Survey(found, notes, source.classes.names, source.classes.palette, splits)


def _name(path: str) -> str:
    return path.split("/", 1)[-1]


def _file_notes(source: Source) -> list[str]:
    """Files that nothing uses, and images of equal stem."""
    notes = []
    listed = {i for ids in source.splits.values() for i in ids}
    spare = sorted(i for i in source.images.keys() & source.masks.keys() if i not in listed)
    if spare:
        notes.append(f"pairs in no list, which stay unused ({len(spare)}): {some(spare)}")
    lone = sorted(source.masks.keys() - source.images.keys() - listed)
    if lone:
        named = [f"{i}{validate.similar(i, 'image', source)}" for i in lone[:SHOWN]] + lone[SHOWN:]
        notes.append(f"masks without an image, which stay unused ({len(lone)}): {some(named)}")
    if source.unused:
        (name, other), *more = sorted(source.unused)
        rest = f"; and {len(more)} more of this kind" if more else ""
        notes.append(f"{name} is not used: {other} has the same id{rest}")
    return notes


def _void_notes(swallowed: list[str], empty: list[str]) -> list[str]:
    """Masks whose object may be hidden in void: of 255 drawn where a class id was meant."""
    notes = []
    if swallowed:
        what = (
            f"mask {swallowed[0]} holds" if len(swallowed) == 1 else f"{len(swallowed)} masks hold"
        )
        notes.append(
            f"{what} only 0 and 255, and 255 is void, which is never trained on: where an object "
            f"was meant, save it as its class id{_examples(swallowed)}"
        )
    if empty:
        one = len(empty) == 1
        what = f"mask {empty[0]} is" if one else f"{len(empty)} masks are"
        teach = "teaches" if one else "teach"
        notes.append(f"{what} void everywhere and {teach} nothing{_examples(empty)}")
    return notes


def _examples(names: list[str]) -> str:
    return f" ({some(names)})" if len(names) > 1 else ""


def _duplicates(content: Mapping[bytes, list[tuple[str, str]]]) -> list[str]:
    """Images that are equal pixel for pixel, whatever their names; those across splits first."""
    across, within = [], []
    for found in content.values():
        if len({example_id for _, example_id in found}) > 1:
            group = across if len({split for split, _ in found}) > 1 else within
            group.append(" = ".join(f"{split}/{example_id}" for split, example_id in found))
    notes = []
    for group, text in (
        (across, "scores are taken on what was trained on"),
        (within, "it counts more than once"),
    ):
        if len(group) == 1:
            notes.append(f"the same image: {group[0]}: {text}")
        elif group:
            notes.append(
                f"{len(group)} images are there more than once: {text}: {some(sorted(group))}"
            )
    return notes


def _absences(splits: Mapping[str, Split], class_names: tuple[str, ...]) -> list[str]:
    notes = []
    for split, facts in splits.items():
        absent = [n for n, count in zip(class_names, facts.masks, strict=False) if not count]
        if facts.ids and absent:
            notes.append(f"no {split} mask holds: {some(absent)}")
    return notes
