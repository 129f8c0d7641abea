"""Lists of classes as text, in the forms that tools write. Nothing here reads files."""

import csv
import itertools
import re
from functools import partial
from typing import NamedTuple

import numpy as np

from fcn_jax.data.classes import Classes, Colour, default_palette, is_void
from fcn_jax.types import VOID, VOID_COLOUR, InputError


class _Row(NamedTuple):
    """One class of a text."""

    line: int
    name: str
    value: int | None = None
    colour: Colour | None = None


def parse_classes(text: str, where: str) -> Classes:
    """Read a list of classes.

    These forms are read: one name per line; `name r g b` or `r g b name`, also with colours as
    #rrggbb or (r, g, b); numbered lists, as `0 background`, `0: background` or `background: 0`, in
    any order; tables with commas, semicolons or tabs, with a header or without (class_dict.csv,
    Roboflow's _classes.csv); CVAT's labelmap.txt; a YAML list under `names:`. Empty lines, lines
    that begin with #, and what follows a # between blanks are skipped. A class named void,
    unlabelled, unlabeled or ignore, anywhere in the list, is no class: its number and its colour
    mean void.

    Args:
        text: of the file.
        where: its name, for errors.

    Raises:
        InputError: that names `where`, and the line where there is one.
    """
    lines = [
        (number, re.sub(r"\s#\s.*", "", line).strip())
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


_NAMES = ("name", "names", "class", "classes", "label", "labels", "category", "categories")
_VALUES = ("id", "idx", "value", "index", "number", "code", "pixel")
_COLUMNS = {
    **dict.fromkeys(_NAMES, "name"),
    **{f"{noun}{end}": "name" for noun in ("class", "label", "category") for end in _NAMES[:2]},
    **dict.fromkeys(_VALUES, "value"),
    **{f"{w}{end}": "value" for w in ("class", "label", "category", "pixel") for end in _VALUES},
    **{f"{c}{hue}": hue[0] for c in ("", "color", "colour") for hue in ("red", "green", "blue")},
    **{f"{c}{hue}": hue for c in ("", "color", "colour") for hue in "rgb"},
    **dict.fromkeys(("color", "colour", "rgb", "hex", "colorrgb"), "colour"),
}
_TRIPLE = r"\d+\s+\d+\s+\d+"


def _rows(lines: list[tuple[int, str]], where: str) -> list[_Row]:
    other = [n for n, line in lines if re.match(r"names:.", line)]
    other += [n for n, line in lines[:1] if re.match(r"[<|]|\[\D", line)]
    other += [n for n, line in lines if re.search(r"[{}]", line)]
    if other:
        raise InputError(f"{where} line {other[0]} is no list of classes: write one name per line")
    lines = [(number, _plain_colours(line)) for number, line in lines]
    yaml = [i + 1 for i, (_, line) in enumerate(lines) if line == "names:"]
    if yaml or (lines and _is_header(lines[0][1])):
        lines = lines[yaml[0] if yaml else 1 :]
    lines = _items(lines, bool(yaml), where)
    cvat = [re.fullmatch(rf"(.+):({_TRIPLE})?:[^:]*:[^:]*", line) for _, line in lines]
    if lines and all(cvat):
        return [
            _Row(n, m[1].strip(), None, _colour(m[2]))
            for (n, _), m in zip(lines, cvat, strict=True)
            if m
        ]
    for delimiter in "\t;,":
        if lines and all(delimiter in line for _, line in lines):
            if re.match(rf"{_TRIPLE}\t", lines[0][1]):
                break  # `r g b`, a tab, the name
            read = partial(csv.reader, delimiter=delimiter, skipinitialspace=True)
            rows = [(n, next(read([line]))) for n, line in lines]
            return _table([(n, [c.strip(" \"'") for c in row]) for n, row in rows], where)
    _refuse_torn_table(lines, [m is not None for m in cvat], where)
    return _lines(lines, where)


def _items(lines: list[tuple[int, str]], in_yaml: bool, where: str) -> list[tuple[int, str]]:
    """The lines without the `- ` before them; in YAML the list ends with the next key."""
    is_item = [line.startswith(("- ", "* ")) for _, line in lines]
    if not any(is_item):
        return lines
    if in_yaml and is_item[0]:
        lines = list(itertools.takewhile(lambda pair: pair[1].startswith("- "), lines))
    elif not all(is_item):
        number = lines[is_item.index(False)][0]
        raise InputError(
            f"{where} line {number} is no item of the list, unlike others: write one name per line"
        )
    return [(number, line[2:].strip()) for number, line in lines]


def _refuse_torn_table(lines: list[tuple[int, str]], cvat: list[bool], where: str) -> None:
    """Refuse a table with a line of another form: read as names, all lines would be wrong."""
    torn = cvat if 2 * sum(cvat) >= len(cvat) else []
    for delimiter in "\t;,":
        cells = [[cell.strip(" \"'") for cell in line.split(delimiter)] for _, line in lines]
        several = [len(row) > 1 for row in cells]
        rows = [row for row in cells if len(row) > 1]
        is_header = several[:1] == [True] and all(_word(cell) in _COLUMNS for cell in cells[0])
        has_numbers = all(any(map(_is_number, row)) for row in rows)
        if is_header or (has_numbers and 2 * len(rows) >= len(cells)):
            torn = several
    if any(torn) and not all(torn):
        number = lines[torn.index(False)][0]
        raise InputError(f"{where} line {number} is not of the form of the others: correct it")


def _plain_colours(line: str) -> str:
    """The line with every colour as `r g b`, which may be written #rrggbb, r,g,b or (r, g, b)."""
    line = re.sub(
        r"(?<=\S)([\s:,;\"']+)#([0-9a-fA-F]{6})\b",
        lambda m: m[1] + " ".join(str(v) for v in bytes.fromhex(m[2])),
        line,
    )
    line = re.sub(r"[(\[]\s*(\d+)[,\s]+(\d+)[,\s]+(\d+)\s*[)\]]", r"\1 \2 \3", line)
    return re.sub(r"(?<=[\w\"'][:\s])(\s*)(\d+),\s*(\d+),\s*(\d+)(?=$|:)", r"\1\2 \3 \4", line)


def _colour(text: str | None) -> Colour | None:
    return tuple(int(v) for v in text.split()) if text else None


def _is_header(line: str) -> bool:
    """Whether a line without delimiters names columns, not a class."""
    if _COLUMNS.get(_word(line.rstrip(":"))) == "name":
        return True
    words = re.findall(r"[a-z]+|[\d,;\t]", line.lower())
    hues = {"r", "g", "b"} if {"r", "g", "b"} <= {*words} else set()
    known = {*_NAMES, *_VALUES, *hues, "list", "of"}
    return len(words) > 1 and {*words} <= known and bool({*words} & {*_NAMES})


def _lines(lines: list[tuple[int, str]], where: str) -> list[_Row]:
    """Lines without delimiters: a name, with a number before or behind it, or with a colour."""
    first = [re.fullmatch(rf"(?:(\d+)\s+)?({_TRIPLE})\s+(\S.*)", line) for _, line in lines]
    if lines and all(m and not _is_number(m[3]) for m in first):
        return [
            _Row(n, m[3], int(m[1]) if m[1] else None, _colour(m[2]))
            for (n, _), m in zip(lines, first, strict=True)
            if m
        ]
    pattern = r"[(\[]?(-?\d+)[)\]]?(?:\s*[:.)=]\s*|\s*-\s*(?=\D)|\s+)(\S.*)"
    numbered = [re.fullmatch(pattern, line) for _, line in lines]
    values = [int(m[1]) for m in numbered if m]
    if len(values) < len(lines):
        counted = [int(m[1]) - i for i, m in enumerate(numbered) if m]
        if len(counted) > 1 and len({*counted}) == 1:
            line = lines[next(i for i, m in enumerate(numbered) if not m)][0]
            raise InputError(f"{where} line {line} has no number: number all classes, or none")
        numbered = [None] * len(lines)
    rows = []
    for (n, line), m in zip(lines, numbered, strict=True):
        text = m[2] if m else line
        coloured = re.fullmatch(rf"(.*?\S)[\s:=]+({_TRIPLE})", text, re.ASCII)
        name = " ".join((coloured[1] if coloured else text).split()).strip("\"'")
        if re.search(r"(\s[\d.]+){3}$", f" {name}"):
            raise InputError(
                f"{where} line {n}: {name!r} has a colour that is not three numbers in 0..255"
            )
        rows.append(_Row(n, name, int(m[1]) if m else None, _colour(coloured and coloured[2])))
    last = {row.colour and row.colour[2] for row in rows}
    if len(last) == 1 and None not in last and all(_is_number(row.name[-1:]) for row in rows):
        raise InputError(f"{where} line {rows[0].line}: leave alpha out, write `name r g b`")
    return _numbered_behind(rows)


def _numbered_behind(rows: list[_Row]) -> list[_Row]:
    """The rows by the number behind each name, as `cat 1` or `cat: 1`, if that is what it is."""
    found = [re.fullmatch(r"(.*[^\s:=])\s*[:=\s]\s*(\d+)", row.name) for row in rows]
    if not all(found) or any(row.value is not None or row.colour for row in rows):
        return rows
    names = [m[1].strip("\"' ") for m in found if m]
    values = [int(m[2]) for m in found if m]
    if len({*names}) < len(names) or len({*values}) < len(values):
        return rows  # `car 1`, `car 2` are names
    return [row._replace(name=n, value=v) for row, n, v in zip(rows, names, values, strict=True)]


def _is_number(text: str) -> bool:
    """Whether it is a whole number; `isdigit` knows more digits than `int`."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _word(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()


_SHAPES = {
    "nx": "value name",
    "xn": "name value",
    "xc": "name colour",
    "cx": "colour name",
    "nxc": "value name colour",
    "xnc": "name value colour",
    "xnnn": "name r g b",
    "nnnx": "r g b name",
    "nxnnn": "value name r g b",
    "xnnnn": "name value r g b",
}
"""Tables without a header, by their columns: n numbers, c colours, x anything."""


def _columns(cells: list[tuple[int, list[str]]], where: str) -> tuple[list[str | None], bool]:
    """What each column of a table holds, and whether the first row is a header that says so."""
    number, head = cells[0]
    shared = range(min(len(row) for _, row in cells))
    if not any(_is_number(c[:1]) for c in head):
        columns = [_COLUMNS.get(_word(c)) for c in head]
        numeric = [i for i in shared if all(_is_number(row[i]) for _, row in cells[1:])]
        for i in numeric if len(cells) > 1 and columns.count("name") > 1 else ():
            columns[i] = "value" if columns[i] == "name" else columns[i]
        if "name" not in columns:
            raise InputError(
                f"{where} line {number}: the header {', '.join(head)} names no column `name`: "
                "write one name per line"
            )
        unknown = [head[i] for i in numeric if columns[i] is None]
        if unknown and "value" not in columns and len(cells) > 1:
            raise InputError(
                f"{where} line {number}: the column {unknown[0]} holds numbers: call it id if they "
                "are the masks' numbers, else remove it"
            )
        return columns, True
    kinds = {(True, False): "n", (False, True): "c", (False, False): "x"}
    shape = "".join(
        kinds[
            all(_is_number(row[i]) for _, row in cells),
            all(re.fullmatch(_TRIPLE, row[i]) is not None for _, row in cells),
        ]
        for i in shared
    )
    return list(_SHAPES.get(shape, "").split()), False


def _table(cells: list[tuple[int, list[str]]], where: str) -> list[_Row]:
    """Rows of a table; the columns are known by its header, or by what they hold."""
    columns, has_header = _columns(cells, where)
    rows = []
    for line, row in cells[has_header:]:
        found = {c: v for c, v in zip(columns, row, strict=False) if c}
        digits = {c: v for c, v in found.items() if c not in ("name", "colour")}
        triple = " ".join(digits.get(c, "?") for c in "rgb")
        colour = found.get("colour", triple if {*"rgb"} <= {*digits} else None)
        if (
            not found.get("name")
            or not all(_is_number(v) for v in digits.values())
            or (colour is not None and not re.fullmatch(_TRIPLE, colour))
        ):
            raise InputError(f"{where} line {line} is not understood: write one name per line")
        value = int(digits["value"]) if "value" in digits else None
        rows.append(_Row(line, found["name"], value, _colour(colour)))
    return rows


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
    void = [v for v, index in classes.values.items() if index == VOID and v != VOID]
    lines = [(values[i], name) for i, name in enumerate(classes.names)]
    return "".join(f"{value} {name}\n" for value, name in [*lines, *((v, "void") for v in void)])
