"""The classes of a data set: their names, their colours, and what stands for them in masks."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fcn_jax.types import VOID, background_class

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


class Trivial(NamedTuple):
    """The constant predictor that results are compared with."""

    label: int = 0
    """The class it predicts everywhere."""
    name: str = "all-background"
    """What its row is called: `all-background`, or `majority class` where no class is that."""

    @property
    def background(self) -> int | None:
        """The class id of the background; None where no class is it."""
        return self.label if self.name == "all-background" else None


def find_trivial(class_names: Sequence[str], counts: np.ndarray | None = None) -> Trivial:
    """The best constant predictor that can be known before training.

    Args:
      class_names: the background is found among them by its name, wherever it stands.
      counts: pixels of each class in the train split, [K] or more; used if there is no background.

    >>> find_trivial(("cat", "background"))
    Trivial(label=1, name='all-background')
    >>> find_trivial(("sky", "road"), np.array([3, 5]))
    Trivial(label=1, name='majority class')
    """
    background = background_class(class_names)
    if background is not None:
        return Trivial(background)
    largest = 0 if counts is None else int(np.argmax(np.asarray(counts)[: len(class_names)]))
    return Trivial(largest, "majority class")


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


def is_void(name: str) -> bool:
    """Whether a name means pixels that do not count."""
    return name.strip(" _-").lower() in VOID_NAMES
