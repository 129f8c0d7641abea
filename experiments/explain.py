"""Find which of the paper's numbers a constant prediction gives: `python -m experiments.explain`.

A network that has learnt nothing predicts one class everywhere. What such a prediction scores
follows from the masks alone, and from how one counts. This tries every constant class with every
plausible way of counting, and lists those that give a number of the paper's to its last
printed digit. Many ways are tried, so some agree by chance: each number comes with how many were
tried, how many would be expected to agree by chance, and in how many respects the best of them
differs from what the released code does (its "departures").
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from experiments import paper
from experiments.cli import arguments, command, stopping
from fcn_jax.data.classes import VOC_CLASSES
from fcn_jax.types import VOID, InputError

EPILOG = """examples:
  python -m experiments.explain --archives DIR          VOC's tar files; their masks are enough
  python -m experiments.explain --archives masks.tar --out explained.json"""

BATCH = 16
"""The paper's batch size."""

SIDE = 224
"""The paper's image size; 0 stands for the size that a mask has."""

Void = Literal["background", "wrong", "ignored", "class"]
Unit = Literal["batch", "image", "full batch", "data set"]
Classes = Literal[
    "absent 0", "absent 1", "no background", "present", "present by class", "labelled"
]

VOIDS: dict[Void, str] = {
    "background": "void is background",
    "wrong": "void is always wrong",
    "ignored": "void is left out",
    "class": "void is a class of its own",
}
UNITS: dict[Unit, str] = {
    "batch": "mean over batches of 16, the last one smaller",
    "image": "mean over images",
    "full batch": "mean over full batches of 16",
    "data set": "whole data set at once",
}
CLASSES: dict[Classes, str] = {
    "absent 0": "absent classes count 0",
    "absent 1": "absent classes count 1",
    "no background": "background left out, absent classes count 0",
    "present": "classes in label or prediction, averaged first",
    "present by class": "classes in label or prediction, averaged last",
    "labelled": "classes in the label, averaged first",
}
"""How the IoUs of the classes become one number."""


class Counting(NamedTuple):
    """A constant prediction, and how it is scored."""

    label: int
    """The class that is predicted everywhere."""
    split: str
    side: int
    void: Void
    unit: Unit
    classes: Classes | None
    """None for the pixel accuracy."""

    def departures(self) -> int:
        """In how many respects this is not what the released code does.

        It resizes to 224, goes through val in order in batches of 16 (some scripts image by image),
        has void as background or, before it was removed, as a value that is never predicted, and
        divides by max(union, 1), so that an absent class counts 0.
        """
        usual = (
            self.label == 0,
            self.split == "val",
            self.side == SIDE,
            self.void in ("background", "wrong"),
            self.unit in ("batch", "image"),
            self.classes in (None, "absent 0"),
        )
        return usual.count(False)

    def __str__(self) -> str:
        size = f"at {self.side}x{self.side}" if self.side else "at full size"
        parts = [f"{VOC_CLASSES[self.label]} everywhere", f"{self.split} {size}", VOIDS[self.void]]
        parts.append(UNITS[self.unit])
        return "; ".join(parts + ([CLASSES[self.classes]] if self.classes else []))


# ---- masks ---------------------------------------------------------------------------------------


def read_histograms(path: Path, sides: Sequence[int] = (SIDE, 0)) -> dict[tuple[str, int], Any]:
    """The pixels of each class in each mask of VOC's archives.

    Args:
        path: a tar file in VOC's layout, or a folder of them; photographs are not needed.
        sides: each mask is resized to these (nearest); 0 leaves it as it is.

    Returns:
        (split, side) -> int64 [N, 22], the last column void; "trainval" is both together, by id.

    Raises:
        InputError: if there are no such files, or masks are missing or hold other values.
    """
    lists: dict[str, list[str]] = {}
    masks: dict[str, Any] = {}
    for archive in sorted(path.glob("VOC*.tar")) if path.is_dir() else [path]:
        try:
            _read_archive(archive, sides, lists, masks)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{archive}: cannot be read ({error}): download it again") from None
    if not lists or not masks:
        raise InputError(f"{path} holds no masks of VOC-2007: give its archives")
    if "train" in lists and "val" in lists:
        lists.setdefault("trainval", sorted(lists["train"] + lists["val"]))
    lost = sorted({i for ids in lists.values() for i in ids} - masks.keys())
    splits = {s: ids for s, ids in lists.items() if masks.keys() >= set(ids)}
    if "val" not in splits:
        raise InputError(f"{path} lacks the mask of {lost[0] if lost else 'val'}: complete it")
    return {
        (split, side): np.stack([masks[i][side] for i in ids])
        for split, ids in splits.items()
        for side in sides
    }


def _read_archive(path: Path, sides: Sequence[int], lists: dict, masks: dict) -> None:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if folder.endswith("ImageSets/Segmentation"):
                lines = _content(archive, member).decode().splitlines()
                lists[name.removesuffix(".txt")] = [line.split()[0] for line in lines if line]
            elif folder.endswith("SegmentationClass"):
                image = Image.open(io.BytesIO(_content(archive, member)))
                masks[name.removesuffix(".png")] = {
                    side: histogram(image, side, f"{path}, {member.name}") for side in sides
                }


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # no folder
    return file.read()


def histogram(image: Image.Image, side: int, name: str) -> np.ndarray:
    """int64 [22]: pixels of each class and, last, of void, after a nearest resize."""
    if side:
        image = image.resize((side, side), Image.Resampling.NEAREST)
    counts = np.bincount(np.asarray(image).ravel(), minlength=256)
    kept = np.append(counts[: len(VOC_CLASSES)], counts[VOID])
    if kept.sum() != counts.sum():
        raise InputError(f"{name}: holds values that are neither classes nor void")
    return kept


# ---- scores --------------------------------------------------------------------------------------


def pooled(histograms: np.ndarray, unit: Unit, batch: int = BATCH) -> np.ndarray:
    """Pixels [units, classes] of what is scored as one: images, batches or everything."""
    if unit == "image":
        return histograms
    if unit == "data set":
        return histograms.sum(0, keepdims=True)
    starts = np.arange(0, len(histograms), batch)
    batches = np.add.reduceat(histograms, starts, axis=0)
    return batches if unit == "batch" else batches[: len(histograms) // batch]


def read_void(histograms: np.ndarray, void: Void) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class [N, K], and of all that count [N]; K is one more with void as one."""
    classes, border = histograms[:, :-1].copy(), histograms[:, -1]
    if void == "class":
        classes = histograms
    elif void == "background":
        classes[:, 0] += border
    total = classes.sum(1) + (border if void == "wrong" else 0)
    return classes, total


def mean_iou(pixels: np.ndarray, total: np.ndarray, label: int, classes: Classes) -> float:
    """The mean IoU of predicting `label` everywhere.

    The union of that class with the prediction is everything; all other classes have IoU 0.

    Args:
        pixels: [units, K] of each class, in the labels.
        total: [units], all pixels.
        label: predicted everywhere.
        classes: how the classes are averaged.
    """
    iou = np.zeros(pixels.shape)
    iou[:, label] = pixels[:, label] / np.maximum(total, 1)
    labelled = pixels > 0
    present = labelled.copy()
    present[:, label] = True
    if classes == "absent 0":
        return float(iou.mean())
    if classes == "absent 1":
        return float(np.where(present, iou, 1.0).mean())
    if classes == "no background":
        return float(iou[:, 1:].mean())
    if classes == "present by class":
        seen = present.any(0)
        return float((iou.sum(0)[seen] / present.sum(0)[seen]).mean())
    counted = labelled if classes == "labelled" else present
    some = counted.any(1)
    return float(((iou * counted).sum(1)[some] / counted.sum(1)[some]).mean())


def candidates(
    histograms: Mapping[tuple[str, int], np.ndarray], batch: int = BATCH
) -> Iterator[tuple[Counting, float]]:
    """Every constant prediction under every way of counting, with its score."""
    for (split, side), counts in histograms.items():
        for void, unit in itertools.product(VOIDS, UNITS):
            pixels, total = read_void(pooled(counts, unit, batch), void)
            if not len(pixels):
                continue  # no full batch
            for label in range(counts.shape[1] - 1):
                rule = Counting(label, split, side, void, unit, None)
                if void != "class":  # its accuracy is that of "wrong"
                    accuracy = pixels[:, label] / np.maximum(total, 1)
                    yield rule, float(accuracy.mean())
                for classes in get_args(Classes):
                    value = mean_iou(pixels, total, label, classes)
                    yield rule._replace(classes=classes), value


# ---- the paper's numbers -------------------------------------------------------------------------


class Printed(NamedTuple):
    """A number as the paper prints it."""

    experiment: str
    metric: Literal["IoU", "pixel accuracy"]
    text: str

    def matches(self, value: float) -> bool:
        """Whether a value rounds to the number."""
        return abs(value - float(self.text)) <= self.width() / 2

    def width(self) -> float:
        """Of the interval of values that round to it."""
        return 10.0 ** -len(self.text.partition(".")[2])


def printed() -> list[Printed]:
    """The fourteen numbers of the paper's section 6, as it prints them."""
    numbers = []
    for name, (iou, accuracy) in paper.PAPER.items():
        numbers += [
            Printed(name, "IoU", str(iou)),
            Printed(name, "pixel accuracy", str(accuracy)),
        ]
    return numbers


def explain(number: Printed, tried: Sequence[tuple[Counting, float]]) -> dict[str, Any]:
    """What gives a number: the nearest to the released code among the countings that agree.

    Args:
        number: of the paper.
        tried: `candidates` of all metrics.

    Returns:
        JSON values: `tried`, how many countings of this metric; `matches`, how many agree;
        `chance`, how many would by chance, were those within a quarter of the number spread evenly;
        `best`, the one of fewest departures (None: nothing agrees), with `like_it`, how many
        countings have no more departures.
    """
    own = [(c, v) for c, v in tried if (c.classes is None) == (number.metric != "IoU")]
    target = float(number.text)
    near = sum(abs(v - target) <= target / 4 for _, v in own)
    found = [(c, v) for c, v in own if number.matches(v)]
    best = min(found, key=lambda pair: pair[0].departures(), default=None)
    data: dict[str, Any] = {
        **number._asdict(),
        "tried": len(own),
        "matches": len(found),
        "chance": near * number.width() / (target / 2),
        "best": None,
    }
    if best is not None:
        counting, value = best
        departures = counting.departures()
        data["best"] = {
            **counting._asdict(),
            "text": str(counting),
            "value": value,
            "departures": departures,
            "like_it": sum(c.departures() <= departures for c, _ in own),
        }
    return data


def table(numbers: Sequence[Mapping[str, Any]]) -> str:
    """The explanations as a Markdown table."""
    lines = [
        "| experiment | the paper's | agree / tried | by chance | nearest to the released code "
        "| gives | departures (tried) |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    for n in numbers:
        best = n["best"]
        best_cells = ["no constant prediction", "", ""]
        if best is not None:
            best_cells = [
                best["text"],
                f"{best['value']:.4f}",
                f"{best['departures']} ({best['like_it']})",
            ]
        cells = [n["experiment"], f"{n['metric']} {n['text']}", f"{n['matches']} / {n['tried']}"]
        lines.append("| " + " | ".join([*cells, f"{n['chance']:.1f}", *best_cells]) + " |")
    return "\n".join(lines)


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "explain",
        "Compute from VOC-2007's masks which constant prediction, and which way of counting, gives "
        "each of the paper's numbers to its last digit.",
        EPILOG,
    )
    parser.add_argument(
        "--archives",
        type=arguments.path,
        metavar="PATH",
        required=True,
        help="folder with VOC-2007's tar files, or one such file",
    )
    parser.add_argument(
        "--out", type=arguments.path, metavar="FILE", help="also write all of it as JSON"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    args = parser().parse_args(argv)
    histograms = read_histograms(args.archives)
    tried = list(candidates(histograms))
    numbers = [explain(number, tried) for number in printed()]
    masks = {split: len(counts) for (split, side), counts in histograms.items() if side}
    print(", ".join(f"{split}: {count} masks" for split, count in masks.items()))
    print(f"{len(tried)} scores of constant predictions\n\n{table(numbers)}")
    if args.out:
        from fcn_jax.runtime import files

        data = {"command": stopping.command("explain", argv), "masks": masks, "numbers": numbers}
        files.write_text(args.out, json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    command.start(main)
