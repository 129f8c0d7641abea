"""Check a data set before training: `python -m experiments.check DATASET`."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import arguments, command, flags, streams
from fcn_jax.runtime import text
from fcn_jax.types import VOID, InputError

if TYPE_CHECKING:
    from fcn_jax.data import survey
    from fcn_jax.data.classes import Classes
    from fcn_jax.data.source import Source

EPILOG = """examples:
  python -m experiments.check MY-FOLDER --out contact.png
  python -m experiments.check voc2007 --archives DIR-WITH-THE-TARS

Exit code 0: training will accept the data; 1: it will not, for the reasons given."""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "check",
        "List everything that is wrong with a data set, file by file, as training would "
        "refuse it, and what else is worth knowing; then count the pixels of each class.",
        EPILOG,
    )
    parser.add_argument(
        "dataset", type=arguments.name, help="voc2007, shapes, or the folder of a data set"
    )
    parser.add_argument("--out", type=arguments.path, metavar="PNG", help="write a contact sheet")
    parser.add_argument(
        "--fix-255",
        type=int,
        metavar="ID",
        help="for masks in which 255 is an object: write a classes.txt that gives 255 to class ID "
        "(the old one becomes classes.txt.bak), then check; no mask is changed",
    )
    parser.add_argument(
        "--clear-cache",
        action="store_true",
        help="first remove the resized images that runs have kept on disk, of every data set",
    )
    flags.add_data_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, look, report."""
    args = parser().parse_args(argv)
    if args.out and args.out.suffix.lower() != ".png":
        raise InputError(f"--out {args.out}: the contact sheet is a PNG: give a name in .png")
    if args.fix_255 is not None and args.dataset in ("voc2007", "shapes"):
        raise InputError("--fix-255: goes with a folder of yours: name one, or leave it out")
    command.tune()

    from fcn_jax.data import prepare, resize_cache, survey
    from fcn_jax.runtime import terminal

    if args.clear_cache:
        removed = resize_cache.clear(args.data_dir or prepare.default_data_dir())
        print(f"resized images removed: {text.amount(removed)}")
    try:
        find = partial(prepare.open_source, args.dataset)
        source = find(archives=args.archives, data_dir=args.data_dir)
        if args.fix_255 is not None:
            fix_255(source, args.fix_255)
            source = find()
    except InputError as error:
        _say("error", str(error))
        print("training would fail: 1 error")
        return 1
    if args.out:
        check_sheet(args.out, source)
    total = sum(len(ids) for ids in source.splits.values())
    with terminal.bar(total) as bar:
        found = survey.survey(source, bar.update)
    report(found, source.classes, args.out)
    notes = text.count(len(found.notes), "note")
    if not found.problems:
        print(f"training will accept it ({notes})")
        return 0
    print(f"training would fail: {text.count(len(found.problems), 'error')}, {notes}")
    return 1


def check_sheet(path: Path, source: Source) -> None:
    """Refuse to write the contact sheet over an image or a mask, or where there is no folder."""
    from fcn_jax.runtime import files

    data = {Path(source.root, p) for p in (*source.images.values(), *source.masks.values())}
    if path.resolve() in data:
        raise InputError(f"{path} belongs to the data set: write the contact sheet elsewhere")
    files.make_folder(path.parent)


def report(found: survey.Survey, classes: Classes, sheet: Path | None) -> None:
    """Print what was found, and write a contact sheet if its path is given."""
    from fcn_jax.data.survey import grouped
    from fcn_jax.report import contact_sheet

    for line in grouped(found.problems):
        _say("error", line)
    for note in found.notes:
        _say("note", note)
    print(table(found))
    if sheet is not None:
        groups = [
            (f"{name}: {text.count(len(split.ids), 'image')}", split.samples)
            for name, split in found.splits.items()
        ]
        contact_sheet.write_contact_sheet(groups, found.class_names, found.palette, sheet)
        print(f"contact sheet: {sheet}")
    if classes.colours is None and (hidden := only_void(found)):
        example = f"{hidden} for {own_classes(classes).names[hidden]}"
        _say("hint", f"if 255 is an object in these masks, add --fix-255 ID, such as {example}")


def fix_255(source: Source, label: int) -> None:
    """Give the mask value 255 to a class, in the data set's classes.txt."""
    from fcn_jax.data.class_lists import numbered_list
    from fcn_jax.runtime import files

    classes = own_classes(source.classes)
    numbered = numbered_list(classes, label)
    path = Path(source.root) / "classes.txt"
    kept = path.with_name("classes.txt.bak")
    if path.exists() and not kept.exists():
        shutil.copy2(path, kept)
    files.write_text(path, numbered)
    print(f"{path}: written, 255 is {classes.names[label]}")


def own_classes(classes: Classes) -> Classes:
    """The folder's classes; background and object where it has no list, and VOC's were taken."""
    from fcn_jax.data.classes import VOC_CLASSES, plain_classes

    return plain_classes(("background", "object")) if classes.names == VOC_CLASSES else classes


def only_void(found: survey.Survey) -> int:
    """The likely class of 255, where masks have void pixels and no class but 0; else 0."""
    import numpy as np

    pixels = np.sum([split.pixels for split in found.splits.values()], axis=0)
    if len(found.class_names) < 2 or not pixels[VOID] or pixels[1 : len(found.class_names)].any():
        return 0
    return 1


def table(found: survey.Survey) -> str:
    """Sizes of the images; then a line a class: percent of the pixels, masks, suggested weight."""
    from fcn_jax.losses import class_weights

    lines = [sizes(name, split) for name, split in found.splits.items()]
    names, splits = found.class_names, found.splits
    if "train" not in splits or not splits["train"].ids:
        return "\n".join(lines)
    train = splits["train"].pixels[: len(names)]
    weights = class_weights(train, "inverse_sqrt", 20.0) * len(names)
    wide = max(len(n) for n in names)
    lines += ["", "pixels (% of the labelled ones) and masks of each class:"]
    heads = "".join(f"{s:>12} {'%':>7} {'masks':>6}" for s in splits)
    lines.append(f"{'id':>3} {'class':<{wide}}{heads} {'weight':>8}")
    for i, name in enumerate(names):
        cells = [_cell(s, i, len(names)) for s in splits.values()]
        lines.append(f"{i:>3} {name:<{wide}}{''.join(cells)} {weights[i]:>8.3f}")
    cells = [f"{int(s.pixels[VOID]):>12} {'':>7} {int(s.masks[VOID]):>6}" for s in splits.values()]
    lines.append(f"{'':>3} {'void':<{wide}}{''.join(cells)}")
    ratio = train.max() / max(1, train.sum())
    lines.append(
        "weight: --class-weights inverse_sqrt --weight-cap 20, scaled to a mean of 1\n"
        f"the largest class has {ratio:.1%} of the labelled train pixels"
    )
    return "\n".join(lines)


def sizes(name: str, split: survey.Split) -> str:
    """One line on the images of a split."""
    if not split.ids:
        return f"{name}: no valid image"
    heights, widths = zip(*split.sizes, strict=True)
    h, w = split.sizes.most_common(1)[0][0]
    images = text.count(len(split.ids), "valid image")
    if len(split.sizes) == 1:
        return f"{name}: {images} of {h}x{w} (height x width)"
    return (
        f"{name}: {images} of {len(split.sizes)} sizes, most often {h}x{w} (height x width)\n"
        f"  heights {min(heights)} to {max(heights)}, widths {min(widths)} to {max(widths)}"
    )


def _say(label: str, line: str) -> None:
    print(streams.fitted(f"{label}: {text.plain(line)}", sys.stdout))


def _cell(split: survey.Split, index: int, classes: int) -> str:
    labelled = max(1, int(split.pixels[:classes].sum()))
    pixels = int(split.pixels[index])
    return f"{pixels:>12} {100 * pixels / labelled:>7.3f} {int(split.masks[index]):>6}"


if __name__ == "__main__":
    command.start(main)
