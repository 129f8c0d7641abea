"""VOC's class names and its palette. Nothing here reads files."""

import numpy as np

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

    The bits of the id are dealt out to red, green and blue in turn, each colour taking its most
    significant bit first: colour c of id i is sum_k ((i >> (3k + c)) & 1) << (7 - k), k = 0..7
    (the colour map of the PASCAL VOC development kit). Id 255 gets its cream (224, 224, 192).
    """
    ids = np.arange(n)
    palette = np.zeros((n, 3), np.uint8)
    for channel in range(3):
        for k in range(8):
            bit = (ids >> (3 * k + channel)) & 1
            palette[:, channel] |= (bit << (7 - k)).astype(np.uint8)
    return palette
