"""Find which of the paper's numbers a constant prediction gives: `python -m experiments.explain`.

A network that has learnt nothing predicts one class everywhere. What that scores follows from the
masks alone, and from how one counts. The command tries every class with every plausible way of
counting (`VOIDS`, `UNITS`, `CLASSES`), and keeps those that give a number of the paper to its last
printed digit. With so many ways some agree by chance. So each number comes with how many ways were
tried, how many would agree by chance, and in how many respects the best of them departs from the
released code (`USUAL`).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from experiments import paper
from experiments.cli import arguments, command, stopping
from fcn_jax.data.classes import VOC_CLASSES
from fcn_jax.report.tables import markdown
from fcn_jax.types import VOID, InputError

EPILOG = """examples:
  python -m experiments.explain --archives DIR          VOC's tar files; their masks are enough
  python -m experiments.explain --archives masks.tar --out explained.json"""

BATCH = 16
"""The paper's batch size."""

SIDE = 224
"""The paper's image size; a side of 0 stands for the size that a mask has."""

# ---- ways of counting ----------------------------------------------------------------------------

Read = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(pixels of each class [N, 21], of void [N, 1]) -> (of each class [N, K], of all that count)."""

VOIDS: dict[str, tuple[str, Read]] = {
    "background": (
        "void is background",
        lambda p, v: (np.hstack([p[:, :1] + v, p[:, 1:]]), (p.sum(1) + v[:, 0])),
    ),
    "wrong": ("void is always wrong", lambda p, v: (p, p.sum(1) + v[:, 0])),
    "ignored": ("void is left out", lambda p, v: (p, p.sum(1))),
    "class": ("void is a class of its own", lambda p, v: (np.hstack([p, v]), p.sum(1) + v[:, 0])),
}

UNITS: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "batch": ("mean over batches of 16, the last one smaller", lambda h, n: _batches(h, n)),
    "image": ("mean over images", lambda h, n: h),
    "full batch": ("mean over full batches of 16", lambda h, n: _batches(h, n)[: len(h) // n]),
    "data set": ("whole data set at once", lambda h, n: h.sum(0, keepdims=True)),
}
"""Name -> (text, how pixels [N, classes] are added up to what is scored as one)."""

Average = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
"""(IoU, is it in the label, is it in label or prediction), all [units, classes] -> their mean."""

CLASSES: dict[str, tuple[str, Average]] = {
    "absent 0": ("absent classes count 0", lambda iou, label, seen: iou.mean()),
    "absent 1": (
        "absent classes count 1",
        lambda iou, label, seen: np.where(seen, iou, 1.0).mean(),
    ),
    "no background": (
        "background left out, absent classes count 0",
        lambda iou, label, seen: iou[:, 1:].mean(),
    ),
    "present": (
        "classes in label or prediction, averaged first",
        lambda iou, label, seen: _mean_of(iou, seen, 1),
    ),
    "present by class": (
        "classes in label or prediction, averaged last",
        lambda iou, label, seen: _mean_of(iou, seen, 0),
    ),
    "labelled": (
        "classes in the label, averaged first",
        lambda iou, label, seen: _mean_of(iou, label, 1),
    ),
}
"""Name -> (text, how the IoUs of the classes become one number)."""


def _batches(histograms: np.ndarray, size: int) -> np.ndarray:
    return np.add.reduceat(histograms, np.arange(0, len(histograms), size), axis=0)


def _mean_of(iou: np.ndarray, counted: np.ndarray, axis: int) -> Any:
    """The mean over `axis` of what is counted, then over the rest; where nothing is, left out."""
    some = counted.any(axis)
    return ((iou * counted).sum(axis)[some] / counted.sum(axis)[some]).mean()


class Counting(NamedTuple):
    """A constant prediction, and how it is scored."""

    label: int
    """The class that is predicted everywhere."""
    split: str
    side: int
    void: str
    unit: str
    classes: str | None
    """None for the pixel accuracy."""

    def departures(self) -> int:
        """In how many respects this is not what the released code does."""
        return sum(value not in USUAL[name] for name, value in self._asdict().items())

    def __str__(self) -> str:
        size = f"at {self.side}x{self.side}" if self.side else "at full size"
        parts = [f"{VOC_CLASSES[self.label]} everywhere", f"{self.split} {size}"]
        parts += [VOIDS[self.void][0], UNITS[self.unit][0]]
        return "; ".join(parts + ([CLASSES[self.classes][0]] if self.classes else []))


USUAL: dict[str, tuple[Any, ...]] = {
    "label": (0,),
    "split": ("val",),
    "side": (SIDE,),
    "void": ("background", "wrong"),  # it was once left in the labels, and is never predicted
    "unit": ("batch", "image"),  # some scripts go image by image
    "classes": (None, "absent 0"),  # intersection / max(union, 1)
}
"""Field of `Counting` -> what the released code has there."""


def candidates(
    histograms: Mapping[tuple[str, int], np.ndarray], batch: int = BATCH
) -> Iterator[tuple[Counting, float]]:
    """Every constant prediction under every way of counting, with its score.

    The prediction's union with its class is everything that counts; all other IoUs are 0.

    Args:
        histograms: as `read_histograms` returns them.
        batch: images of a batch.
    """
    for (split, side), counts in histograms.items():
        for (void, (_, read)), (unit, (_, pool)) in product(VOIDS.items(), UNITS.items()):
            pooled = pool(counts, batch)
            if not len(pooled):
                continue  # no full batch
            pixels, total = read(pooled[:, :-1], pooled[:, -1:])
            fractions = pixels / np.maximum(total, 1)[:, None]
            for label in range(len(VOC_CLASSES)):
                counting = Counting(label, split, side, void, unit, None)
                if void != "class":  # its accuracy is that of "wrong"
                    yield counting, float(fractions[:, label].mean())
                is_label = np.arange(pixels.shape[1]) == label
                iou, labelled = np.where(is_label, fractions, 0.0), pixels > 0
                for classes, (_, average) in CLASSES.items():
                    score = float(average(iou, labelled, labelled | is_label))
                    yield counting._replace(classes=classes), score


# ---- masks ---------------------------------------------------------------------------------------


def read_histograms(
    path: Path, sides: Sequence[int] = (SIDE, 0)
) -> dict[tuple[str, int], np.ndarray]:
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
    masks: dict[str, Image.Image] = {}
    for archive in sorted(path.glob("VOC*.tar")) if path.is_dir() else [path]:
        try:
            _read_archive(archive, lists, masks)
        except (OSError, tarfile.TarError) as error:
            raise InputError(f"{archive}: cannot be read ({error}): download it again") from None
    if "train" in lists and "val" in lists:
        lists.setdefault("trainval", sorted(lists["train"] + lists["val"]))
    whole = {split: ids for split, ids in lists.items() if masks.keys() >= set(ids)}
    if "val" not in whole:
        raise InputError(f"{path} lacks masks of VOC-2007's val split: give its archives")
    return {
        (split, side): np.stack([histogram(masks[i], side, f"mask {i}") for i in ids])
        for split, ids in whole.items()
        for side in sides
    }


def _read_archive(path: Path, lists: dict[str, list[str]], masks: dict[str, Image.Image]) -> None:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            file, stem = archive.extractfile(member), name.partition(".")[0]
            if file is not None and folder.endswith("ImageSets/Segmentation"):
                lists[stem] = [
                    line.split()[0] for line in file.read().decode().splitlines() if line
                ]
            elif file is not None and folder.endswith("SegmentationClass"):
                masks[stem] = Image.open(io.BytesIO(file.read()))


def histogram(image: Image.Image, side: int, name: str) -> np.ndarray:
    """int64 [22]: pixels of each class and, last, of void, after a nearest resize."""
    if side:
        image = image.resize((side, side), Image.Resampling.NEAREST)
    counts = np.bincount(np.asarray(image).ravel(), minlength=256)
    kept = np.append(counts[: len(VOC_CLASSES)], counts[VOID])
    if kept.sum() != counts.sum():
        raise InputError(f"{name}: holds values that are neither classes nor void")
    return kept


# ---- the paper's numbers -------------------------------------------------------------------------


class Printed(NamedTuple):
    """A number as the paper prints it."""

    experiment: str
    metric: str
    """`IoU` or `pixel accuracy`."""
    text: str

    def matches(self, value: float) -> bool:
        """Whether a value rounds to the number."""
        return abs(value - float(self.text)) <= self.width() / 2

    def width(self) -> float:
        """Of the interval of values that round to it."""
        return 10.0 ** -len(self.text.partition(".")[2])


def printed() -> list[Printed]:
    """The fourteen numbers of the paper's section 6, as it prints them."""
    metrics = ("IoU", "pixel accuracy")
    return [
        Printed(name, metric, str(number))
        for name, numbers in paper.PAPER.items()
        for metric, number in zip(metrics, numbers, strict=True)
    ]


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
    data: dict[str, Any] = {
        **number._asdict(),
        "tried": len(own),
        "matches": len(found),
        "chance": near * number.width() / (target / 2),
        "best": None,
    }
    if found:
        counting, value = min(found, key=lambda pair: pair[0].departures())
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
    rows: list[Sequence[str]] = [
        (
            "experiment", "the paper's", "agree / tried", "by chance",
            "nearest to the released code", "gives", "departures (tried)",
        )
    ]  # fmt: skip
    for n in numbers:
        cells = ("no constant prediction", "", "")
        if best := n["best"]:
            departures = f"{best['departures']} ({best['like_it']})"
            cells = (best["text"], f"{best['value']:.4f}", departures)
        tried = f"{n['matches']} / {n['tried']}"
        paper_cell = f"{n['metric']} {n['text']}"
        rows.append((n["experiment"], paper_cell, tried, f"{n['chance']:.1f}", *cells))
    return markdown(rows, left=(0, 1, 4))


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
