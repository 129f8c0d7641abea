"""A fixed, stratified division of a train split into a part to train on and a part held out."""

import hashlib
from collections.abc import Sequence

import numpy as np

from fcn_jax.data.dataset import Subset, facts_of
from fcn_jax.types import VOID, Example, InputError


def split_train(
    examples: Sequence[Example], fraction: float
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Divide a train split into a part to train on and a part to validate on.

    The division depends on the ids and the classes of each mask only, so that it is the same for
    every seed of a run.

    Args:
        examples: the train split.
        fraction: of its images that are trained on.

    Returns:
        (train, held out), each in the order of `examples`.

    Raises:
        InputError: if one of the parts would be empty.
    """
    facts = facts_of(examples)
    classes = [frozenset(np.flatnonzero(row).tolist()) - {VOID} for row in facts.pixels]
    train, held = stratify(facts.ids, classes, fraction)
    return Subset(examples, train), Subset(examples, held)


def stratify(
    ids: Sequence[str], classes: Sequence[frozenset[int]], fraction: float
) -> tuple[list[int], list[int]]:
    """Divide indices so that each class is divided as the whole is.

    Iterative stratification (Sechidis et al. 2011): images of the rarest class that is left are
    dealt out first, each to the part that lacks this class most. The sizes are exact.

    Args:
        ids: unique names; a hash of them decides the order among equals.
        classes: that occur in each image.
        fraction: of the images in the first part, rounded to a whole number of images.

    Returns:
        Sorted indices of the two parts.

    Raises:
        InputError: if one of the parts would be empty.
    """
    first = round(fraction * len(ids))
    if not 0 < first < len(ids):
        raise InputError(
            f"divides {len(ids)} images into {first} and {len(ids) - first}: choose another "
            "fraction, or leave it out",
            field="data.split_train",
            value=fraction,
        )
    room = [first, len(ids) - first]
    fractions = [part / len(ids) for part in room]
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    left = dict.fromkeys(order)
    every = sorted(frozenset().union(*classes))
    wanted = {c: [f * sum(c in own for own in classes) for f in fractions] for c in every}
    parts: tuple[list[int], list[int]] = ([], [])

    def deal(index: int, lack: list[float]) -> None:
        open_parts = [p for p in (0, 1) if len(parts[p]) < room[p]]
        part = max(open_parts, key=lambda p: (lack[p], room[p] - len(parts[p]), -p))
        parts[part].append(index)
        del left[index]
        for c in classes[index]:
            wanted[c][part] -= 1

    while True:
        counts = {c: sum(c in classes[i] for i in left) for c in every}
        rarest = min((c for c in every if counts[c]), key=lambda c: (counts[c], c), default=None)
        if rarest is None:
            break
        for index in [i for i in left if rarest in classes[i]]:
            deal(index, wanted[rarest])
    for index in list(left):  # void everywhere
        deal(index, [float(room[p] - len(parts[p])) for p in (0, 1)])
    return sorted(parts[0]), sorted(parts[1])
