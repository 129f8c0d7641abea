"""The classes of a data set: VOC's, or those of a class list. Nothing here reads files."""

import colorsys
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fcn_jax.types import VOID, VOID_COLOUR, InputError, background_class

Colour = tuple[int, ...]
"""Red, green and blue, each 0..255."""

VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore")
"""What pixels that do not count are called, with or without underscores around it."""

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 21 classes of PASCAL VOC in the order of their ids; id 0 is the background."""


def voc_palette(n: int = 256) -> np.ndarray:
    """VOC's colours for the class ids 0..n-1, uint8 [n, 3].

    The bits of the id go to red, green and blue in turn, each colour taking its most
    significant bit first: colour c of id i is sum_k ((i >> (3k + c)) & 1) << (7 - k), k = 0..7
    (the colour map of the PASCAL VOC development kit). Id 255 gets its cream, `types.VOID_COLOUR`.
    """
    ids = np.arange(n)
    palette = np.zeros((n, 3), np.uint8)
    for channel in range(3):
        for k in range(8):
            bit = (ids >> (3 * k + channel)) & 1
            palette[:, channel] |= (bit << (7 - k)).astype(np.uint8)
    return palette


def default_palette(names: Sequence[str]) -> np.ndarray:
    """Colours for classes that bring none, uint8 [K, 3].

    VOC's for VOC's own classes. Else the background, if a class is named so, is black, and the
    others have bright colours that lie far apart: hues a golden section of the circle apart, in
    three degrees of brightness. (VOC's colours begin with dark red, green and olive.)
    """
    if tuple(names) == VOC_CLASSES:
        return voc_palette(len(names))
    background, palette = background_class(names), np.zeros((len(names), 3), np.uint8)
    for i, index in enumerate(k for k in range(len(names)) if k != background):
        saturation, value = ((0.9, 1.0), (0.55, 1.0), (1.0, 0.75))[i // 8 % 3]
        colour = colorsys.hsv_to_rgb(0.98 + i * 0.618034, saturation, value)
        palette[index] = np.rint(255 * np.array(colour))
    return palette


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and how they are written in masks."""

    names: tuple[str, ...]
    """Of the class ids 0..K-1."""
    palette: np.ndarray
    """uint8 [K, 3]."""
    colours: Mapping[Colour, int] | None
    """Colour in a mask -> class id or `VOID`; None where masks hold numbers only."""
    values: Mapping[int, int]
    """Number in a mask -> class id or `VOID`."""


def plain_classes(names: Sequence[str], palette: np.ndarray | None = None) -> Classes:
    """Classes without colours, numbered from 0; `VOID` is void."""
    values = {**{i: i for i in range(len(names))}, VOID: VOID}
    chosen = default_palette(names) if palette is None else palette
    return Classes(tuple(names), chosen, None, values)


class _Row(NamedTuple):
    """One class of a text."""

    line: int
    name: str
    value: int | None = None
    colour: Colour | None = None


def parse_classes(text: str, where: str) -> Classes:
    """Read a list of classes.

    These forms are read: one name per line; `name r g b` or `r g b name`; numbered lists, as `0
    background` or `0: background`, in any order; tables with commas, semicolons or tabs, with a
    header or without (class_dict.csv, Roboflow's _classes.csv); CVAT's labelmap.txt; a YAML
    list under `names:`. Empty lines and lines that begin with # are skipped. A class named
    void, unlabelled, unlabeled or ignore, anywhere in the list, is no class: its number and its
    colour mean void.

    Args:
        text: of the file.
        where: its name, for errors.

    Raises:
        InputError: that names `where`, and the line where there is one.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    rows = _rows(lines, where)
    for row in rows:
        if row.colour and max(row.colour) > 255:
            raise InputError(
                f"{where} line {row.line}: colour {row.colour} is not in 0..255: correct it"
            )
    return _assemble(rows, where)


_HEADER = ("name", "names", "class", "classes", "label", "labels", "classname", "classnames")
_COLUMNS = {
    **dict.fromkeys(_HEADER, "name"),
    **dict.fromkeys(("id", "value", "index", "classid", "pixelvalue", "labelid"), "value"),
    **{"r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b"},
}


def _rows(lines: list[tuple[int, str]], where: str) -> list[_Row]:
    if lines and lines[0][1][0] in "{[<":
        line = lines[0][0]
        raise InputError(f"{where} line {line} is no list of classes: write one name per line")
    if lines and _word(lines[0][1].rstrip(":")) in _HEADER:
        lines = lines[1:]  # a header, or YAML's `names:`
    if lines and all(line.startswith("- ") for _, line in lines):
        lines = [(number, line[2:].strip()) for number, line in lines]
    cvat = [re.fullmatch(r"([^:]+):(\d+),(\d+),(\d+):[^:]*:[^:]*", line) for _, line in lines]
    if lines and all(cvat):
        return [
            _Row(n, m[1].strip(), None, (int(m[2]), int(m[3]), int(m[4])))
            for (n, _), m in zip(lines, cvat, strict=True)
            if m
        ]
    for delimiter in "\t;,":
        if lines and all(delimiter in line for _, line in lines):
            cells = [(n, [c.strip(" \"'") for c in line.split(delimiter)]) for n, line in lines]
            if re.fullmatch(r"\d+(\s+\d+)+", cells[0][1][0]):
                break  # `r g b`, a tab, the name
            return _table(cells, where)
    return _lines(lines)


def _lines(lines: list[tuple[int, str]]) -> list[_Row]:
    """Lines without delimiters: an optional number, the name, an optional colour."""
    first = [re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)", line) for _, line in lines]
    if lines and all(m and not m[4].isdigit() for m in first):
        return [
            _Row(n, m[4], None, (int(m[1]), int(m[2]), int(m[3])))
            for (n, _), m in zip(lines, first, strict=True)
            if m
        ]
    numbered = [re.fullmatch(r"(\d+)\s*(?:[:.)]\s*|\s)\s*(\S.*)", line) for _, line in lines]
    values = [int(m[1]) for m in numbered if m]
    if not lines or len(values) < len(lines):
        numbered, values = [None] * len(lines), []
    rows = []
    for (n, line), m in zip(lines, numbered, strict=True):
        tokens = (m[2] if m else line).split()
        has_colour = len(tokens) >= 4 and all(t.isascii() and t.isdigit() for t in tokens[-3:])
        colour = tuple(int(t) for t in tokens[-3:]) if has_colour else None
        name = " ".join(tokens[:-3] if has_colour else tokens).strip("\"'")
        rows.append(_Row(n, name, int(m[1]) if m else None, colour))
    return rows


def _word(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()


def _table(cells: list[tuple[int, list[str]]], where: str) -> list[_Row]:
    """Rows of a table; the columns are known by its header, or by what they hold."""
    number, head = cells[0]
    if not any(c.isdigit() for c in head):
        columns = [_COLUMNS.get(_word(c)) for c in head]
        cells = cells[1:]
        if "name" not in columns:
            raise InputError(
                f"{where} line {number}: the header {', '.join(head)} names no column `name`: "
                "write one name per line"
            )
    else:
        numeric = [all(len(r) > i and r[i].isdigit() for _, r in cells) for i in range(len(head))]
        shapes = {
            (True, False): ["value", "name"],
            (False, True): ["name", "value"],
            (False, True, True, True): ["name", "r", "g", "b"],
            (True, True, True, False): ["r", "g", "b", "name"],
            (True, False, True, True, True): ["value", "name", "r", "g", "b"],
            (False, True, True, True, True): ["name", "value", "r", "g", "b"],
        }
        columns = shapes.get(tuple(numeric), [])
    rows = []
    for line, row in cells:
        found = {c: v for c, v in zip(columns, row, strict=False) if c}
        digits = {c: v for c, v in found.items() if c != "name"}
        if "name" not in found or not all(v.isdigit() for v in digits.values()):
            raise InputError(f"{where} line {line} is not understood: write one name per line")
        colour = tuple(int(digits[c]) for c in "rgb") if {"r", "g", "b"} <= set(digits) else None
        rows.append(
            _Row(line, found["name"], int(digits["value"]) if "value" in digits else None, colour)
        )
    return rows


def is_void(name: str) -> bool:
    """Whether a name means pixels that do not count."""
    return name.strip(" _-").lower() in VOID_NAMES


def _assemble(rows: list[_Row], where: str) -> Classes:
    # labelme lists __ignore__ first, as number -1: it takes no number from the others.
    ignored = rows[0] if rows and rows[0].name == "__ignore__" and rows[0].value is None else None
    counted = rows[1:] if ignored and not ignored.colour else rows
    counted = sorted(counted, key=lambda row: -1 if row.value is None else row.value)
    numbered = [row.value if row.value is not None else i for i, row in enumerate(counted)]
    names = [row.name for row in counted if not is_void(row.name)]
    _check_names(names, numbered, where)
    if not any(row.colour for row in counted if not is_void(row.name)):
        palette, colours = default_palette(names), None
    else:
        palette, colours = _colour_table(counted, where)
    values, index = {VOID: VOID}, 0
    for value, row in zip(numbered, counted, strict=True):
        values[value] = VOID if is_void(row.name) else index
        index += not is_void(row.name)
    return Classes(tuple(names), palette, colours, values)


def _check_names(names: list[str], numbers: list[int], where: str) -> None:
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{where} names the class {repeated[0]!r} twice: remove or rename one")
    if not 2 <= len(names) <= VOID:
        raise InputError(f"{where} names {len(names)} classes: 2 to {VOID} are possible")
    twice = [n for n in numbers if numbers.count(n) > 1]
    if twice:
        raise InputError(f"{where} numbers two classes {twice[0]}: make the numbers differ")


def _colour_table(rows: list[_Row], where: str) -> tuple[np.ndarray, dict[Colour, int]]:
    table: dict[Colour, int] = {VOID_COLOUR: VOID}
    given: dict[Colour, str] = {}
    palette: list[Colour] = []
    for row in rows:
        if row.colour is None:
            if is_void(row.name):
                continue
            raise InputError(
                f"{where} gives no colour for {row.name!r}: give all classes one, or none"
            )
        if row.colour in given:
            raise InputError(f"{where} gives {row.colour} to two classes: make the colours differ")
        given[row.colour] = row.name
        table[row.colour] = VOID if is_void(row.name) else len(palette)
        if not is_void(row.name):
            palette.append(row.colour)
    return np.array(palette, np.uint8), table


def numbered_list(classes: Classes, label: int) -> str:
    """The text of a class list in which 255 in a mask means the class `label`, and is not void.

    Raises:
        InputError: if there is no such class, or masks are read by colour.
    """
    if classes.colours is not None:
        raise InputError("the class list gives colours: give the object's colour there instead")
    if not 0 <= label < len(classes.names):
        raise InputError(
            f"{label} is not the number of a class, 0 to {len(classes.names) - 1}: choose one"
        )
    values = {index: value for value, index in classes.values.items() if index != VOID}
    values[label] = VOID
    return "".join(f"{values[i]} {name}\n" for i, name in enumerate(classes.names))


# ---------------------------------------------------------------- data sets as distributed


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
    names = [n for n in names if n]
    unique = [n if names.index(n) == i else f"{n} {i + 1}" for i, n in enumerate(names)]
    if not 2 <= len(unique) < VOID:
        raise InputError(f"{where} names {len(unique)} classes: it is damaged, copy it again")
    plain = plain_classes(unique)
    values = {0: VOID, VOID: VOID, **{i + 1: i for i in range(len(unique))}}
    return Classes(plain.names, plain.palette, None, values)


def mapillary(text: str, where: str) -> Classes:
    """Mapillary Vistas' classes from its config.json."""
    try:
        labels: list[dict[str, Any]] = json.loads(text)["labels"]
        rows = [
            _Row(i, str(x["readable"]), i, tuple(int(v) for v in x["color"]))
            for i, x in enumerate(labels)
        ]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{where} is no list of Mapillary's labels: copy it again") from None
    numbers = [row.value for row in rows if not is_void(row.name)]
    names = [row.name for row in rows if not is_void(row.name)]
    unique = [n if names.index(n) == i else f"{n} {i + 1}" for i, n in enumerate(names)]
    colours = [row.colour for row in rows if not is_void(row.name)]
    values = dict.fromkeys((*range(len(rows)), VOID), VOID)
    values |= {n: i for i, n in enumerate(numbers) if n is not None}
    return Classes(tuple(unique), np.array(colours, np.uint8), None, values)
