"""A data set that is ready to be read: its classes, its splits, and facts about every image."""

import dataclasses
import hashlib
import io
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from PIL import Image

from fcn_jax.data.classes import Trivial, default_palette, find_trivial
from fcn_jax.data.images import to_rgb
from fcn_jax.runtime import machine
from fcn_jax.types import VOID, Example, InputError


class Facts(NamedTuple):
    """What is known of the images of a split without decoding them."""

    ids: tuple[str, ...]
    shapes: np.ndarray
    """int32 [N, 2]: height and width."""
    pixels: np.ndarray
    """int64 [N, 256]: pixels of each value of the mask."""

    def select(self, indices: Sequence[int]) -> "Facts":
        """The same of some of the images."""
        chosen = np.asarray(indices, np.int64)
        ids = tuple(self.ids[i] for i in chosen)
        return Facts(ids, self.shapes[chosen], self.pixels[chosen])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that is ready to be read.

    >>> import numpy as np
    >>> images = np.zeros((4, 32, 48, 3), np.uint8)
    >>> masks = np.ones((4, 32, 48), np.uint8)
    >>> pairs = list(zip(images, masks))
    >>> data = Dataset.from_arrays({"train": pairs[:3], "val": pairs[3:]}, ("background", "cat"))
    >>> len(data.splits["train"]), data.splits["val"][0].id
    (3, 'val/000000')
    """

    name: str
    class_names: tuple[str, ...]
    """Of the class ids 0..K-1."""
    palette: np.ndarray
    """uint8 [K, 3], the colour of each class."""
    splits: Mapping[str, Sequence[Example]]
    """"train", "val" and, where there is one, "test"; each sorted by id, decoded on access.

    Indexing a split that does not exist raises InputError.
    """
    digest: str = ""
    """Changes whenever an image, a mask, a list or the classes change; "" where it is not known."""
    root: str = ""
    """The absolute path of the raw files; "" where there are none."""

    def __repr__(self) -> str:
        """Short: not the palette."""
        sizes = ", ".join(f"{name} {len(split)}" for name, split in self.splits.items())
        return f"Dataset({self.name}, {len(self.class_names)} classes, images: {sizes})"

    @cached_property
    def trivial(self) -> Trivial:
        """The constant predictor that results on this data set are compared with."""
        found = find_trivial(self.class_names)
        if found.background is not None:
            return found
        pixels = facts_of(self.splits["train"]).pixels.sum(0)
        return find_trivial(self.class_names, pixels)

    @classmethod
    def from_arrays(
        cls,
        splits: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
        class_names: Sequence[str],
        palette: np.ndarray | None = None,
        name: str = "arrays",
    ) -> "Dataset":
        """Make a data set of pairs in memory, or of any sequences that give them.

        Every pair is read once here, to be checked, and again whenever it is needed.

        Args:
            splits: "train", "val" and perhaps "test" -> a sequence of (image, mask): uint8
                [H, W, 3], RGB, and integers [H, W], class ids or 255 for void. Sizes may differ.
            class_names: of the class ids 0..K-1.
            palette: uint8 [K, 3]; None for bright ones.
            name: of the data set.

        Raises:
            InputError: for a missing split, unusable classes or colours, or a pair of another form;
                it names the pair.
        """
        for split in ("train", "val"):
            if not len(splits.get(split, ())):
                raise InputError(f"the data set has no {split} pairs: give at least one")
        colours = default_palette(class_names) if palette is None else np.asarray(palette)
        _check_classes(class_names, colours)
        made = {s: _Pairs(s, pairs, len(class_names)) for s, pairs in splits.items()}
        digest = hashlib.sha256(repr(tuple(class_names)).encode())
        for split, examples in made.items():
            for i in range(len(examples)):
                example = examples[i]
                digest.update(repr((split, example.image.shape)).encode())
                digest.update(example.image.tobytes())
                digest.update(example.mask.tobytes())
        made = Splits(made, "give it")
        digest = digest.hexdigest()[:12]
        return cls(name, tuple(class_names), colours.astype(np.uint8), made, digest)


def _check_classes(names: Sequence[str], palette: np.ndarray) -> None:
    if isinstance(names, str) or not 2 <= len(names) <= VOID or len(set(names)) < len(names):
        raise InputError(f"{len(names)} class names: give 2 to {VOID}, and each once")
    wanted = (len(names), 3)
    if palette.shape != wanted or palette.dtype.kind not in "iu" or not _is_bytes(palette):
        raise InputError(
            f"the palette is {palette.dtype} {list(palette.shape)}: give integers {list(wanted)} "
            "from 0 to 255"
        )


def _is_bytes(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 255)).all())


class Splits(dict[str, Sequence[Example]]):
    """The splits by name; one that is missing is an InputError."""

    def __init__(self, splits: Mapping[str, Sequence[Example]], remedy: str):
        """Hold `splits`.

        Args:
            splits: by name.
            remedy: what to do about one that is missing.
        """
        super().__init__(splits)
        self._remedy = remedy

    def __missing__(self, split: str) -> Sequence[Example]:
        raise InputError(
            f"the data set has no split {split!r}, only {', '.join(self)}: choose one of them, or "
            f"{self._remedy}"
        )


class Examples(Sequence[Example]):
    """Examples made on access; a subclass has `__len__` and `_example`."""

    @cached_property
    def facts(self) -> Facts:
        """From decoding all of it, once."""
        return _count(self)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return Subset(self, range(*index.indices(len(self))))
        return self._example(range(len(self))[index])  # negative ones too; IndexError past the end

    def _example(self, index: int) -> Example:
        """The example at 0 <= index < len(self)."""
        raise NotImplementedError


class _Pairs(Examples):
    """Pairs of arrays as examples, checked on access."""

    def __init__(self, split: str, pairs: Sequence[tuple[Any, Any]], num_classes: int):
        self._split, self._pairs, self._num_classes = split, pairs, num_classes

    def __len__(self) -> int:
        return len(self._pairs)

    def _example(self, index: int) -> Example:
        image, mask = (np.asarray(part) for part in self._pairs[index])
        name = f"{self._split}/{index:06d}"
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(
                f"image {name} is {image.dtype} {list(image.shape)}: give uint8 [height, width, 3]"
            )
        if mask.shape != image.shape[:2] or mask.dtype.kind not in "iu":
            raise InputError(
                f"mask {name} is {mask.dtype} {list(mask.shape)}: give integers of the image's "
                f"{list(image.shape[:2])}"
            )
        wrong = mask[(mask != VOID) & ((mask < 0) | (mask >= self._num_classes))]
        if wrong.size:
            raise InputError(
                f"mask {name} holds the class id {int(wrong[0])}, not 0..{self._num_classes - 1} "
                f"or {VOID} (void): fix the mask"
            )
        return Example(name, image, np.ascontiguousarray(mask, np.uint8))


class Subset(Examples):
    """Some examples of a sequence, decoded on access."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int]):
        """Select `indices` of `examples`, in their order."""
        if isinstance(examples, Subset):
            examples, known = examples.source
            indices = [known[i] for i in indices]
        self.source = examples, tuple(indices)
        """The sequence these are taken from, and which they are."""

    @cached_property
    def facts(self) -> Facts:
        """As `facts_of` the whole."""
        examples, indices = self.source
        return facts_of(examples).select(indices)

    def __len__(self) -> int:
        return len(self.source[1])

    def _example(self, index: int) -> Example:
        examples, indices = self.source
        return examples[indices[index]]


class Records(Examples):
    """A prepared split: random access, decoded on each access, safe to use from several threads."""

    def __init__(
        self, records: Any, facts: Facts | None = None, cache: Path | None = None, key: str = ""
    ):
        """Read encoded records.

        Args:
            records: a sequence of {"id", "image", "mask"}, encoded.
            facts: of the split, where they are known.
            cache: where resized images of it may be kept on disk; None: nowhere.
            key: what names the split there; changes with its content.
        """
        self._records, self.cache, self.key = records, cache, key
        if facts is not None:
            self.facts = facts
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._records)

    def _example(self, index: int) -> Example:
        with self._lock:
            record = self._records[index]
        # Decoded here and not by tfds, which would take OpenCV where that happens to be installed.
        image = to_rgb(Image.open(io.BytesIO(record["image"])))
        mask = Image.open(io.BytesIO(record["mask"]))
        return Example(record["id"].decode(), np.array(image), np.array(mask))


def facts_of(examples: Sequence[Example]) -> Facts:
    """Facts of a split: those it carries, else by decoding all of it."""
    known = getattr(examples, "facts", None)
    return _count(examples) if known is None else known


def _count(examples: Sequence[Example]) -> Facts:
    """Decode all of a split, on all cores."""

    def look(index: int) -> tuple[str, tuple[int, ...], np.ndarray]:
        example = examples[index]
        pixels = np.bincount(example.mask.ravel(), minlength=256)
        return example.id, example.mask.shape, pixels

    with ThreadPoolExecutor(machine.cores()) as pool:
        found = list(pool.map(look, range(len(examples))))
    ids, shapes, pixels = zip(*found, strict=True) if found else ((), (), ())
    return Facts(
        tuple(ids),
        np.asarray(shapes, np.int32).reshape(-1, 2),
        np.asarray(pixels, np.int64).reshape(-1, 256),
    )
