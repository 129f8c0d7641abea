"""Damaged data sets: every kind of damage on files chosen at random.

Run `python -m tests.drills.damage`.

For each variant of a small folder, `check` must name the damage and the file, and training must
refuse it with the same words.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fcn_jax.data import prepare, survey
from fcn_jax.data.classes import voc_palette
from fcn_jax.types import InputError

CLASSES = ("ground", "tree", "house")


def make_folder(root: Path, train: int = 4, val: int = 3) -> Path:
    """A sound folder of three classes; sizes differ, so that no pair fits another's picture."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for i in range(train + val):
        size = (24 + 2 * i, 16 + 3 * i)
        Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(size).save(
            root / f"JPEGImages/{i:03d}.jpg"
        )
        mask = np.array(Image.fromarray(rng.integers(0, 3, (3, 4), np.uint8)).resize(size, 0))
        mask[:2], mask[2:4], mask[4:6] = 255, 1, 2
        Image.fromarray(mask).save(root / f"SegmentationClass/{i:03d}.png")
    for split, ids in (("train", range(train)), ("val", range(train, train + val))):
        text = "".join(f"{i:03d}\n" for i in ids)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(text)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return root


class Victim:
    """One pair of a folder, chosen at random, and ways to hurt it."""

    def __init__(self, root: Path, rng: np.random.Generator):
        """Choose."""
        self.root, self.rng = root, rng
        self.id = f"{int(rng.integers(7)):03d}"
        self.image = root / f"JPEGImages/{self.id}.jpg"
        self.mask = root / f"SegmentationClass/{self.id}.png"
        self.split = "train" if int(self.id) < 4 else "val"
        self.list = root / f"ImageSets/Segmentation/{self.split}.txt"
        self.ids = np.array(Image.open(self.mask))

    def cut(self, path: Path) -> None:
        """Keep the header, but not all pixels (without its end mark only, a PNG is still whole)."""
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * self.rng.uniform(0.5, 0.7))])

    def save(self, array: np.ndarray, **options) -> None:
        """Replace the mask."""
        Image.fromarray(array).save(self.mask, **options)


Damage = Callable[[Victim], tuple[str, str]]
DAMAGES: dict[str, Damage] = {}


def damage(function: Damage) -> Damage:
    """Register a damage: it does it and returns (the words to be said, the file to be named)."""
    DAMAGES[function.__name__] = function
    return function


@damage
def image_missing(v):
    v.image.unlink()
    return "is missing", f"image of {v.id}"


@damage
def mask_missing(v):
    v.mask.unlink()
    return "is missing", f"mask of {v.id}"


@damage
def image_cut(v):
    v.cut(v.image)
    return "cannot be decoded", v.image.name


@damage
def mask_cut(v):
    v.cut(v.mask)
    return "cannot be decoded", v.mask.name


@damage
def image_empty(v):
    v.image.write_bytes(b"")
    return "is no readable image", v.image.name


@damage
def mask_noise(v):
    v.mask.write_bytes(v.rng.bytes(200))
    return "is no readable image", v.mask.name


@damage
def image_is_a_web_page(v):
    v.image.write_text("<html>404</html>")
    return "is no readable image", v.image.name


@damage
def mask_of_another_size(v):
    h, w = v.ids.shape
    v.save(np.ones((h, w + int(v.rng.integers(1, 9))), np.uint8))
    return f"its mask {h}x{np.array(Image.open(v.mask)).shape[1]}", v.image.name


@damage
def mask_turned(v):
    v.save(v.ids.T.copy())
    return "fix the mask", v.image.name


@damage
def image_of_another_size(v):
    Image.open(v.image).resize((9, 9)).save(v.image)
    return "is 9x9", v.image.name


@damage
def mask_with_a_wrong_id(v):
    wrong = int(v.rng.integers(3, 255))
    v.ids[-1, int(v.rng.integers(v.ids.shape[1]))] = wrong
    v.save(v.ids)
    return f"holds the class id {wrong}", v.mask.name


@damage
def mask_turned_grey(v):
    v.save((v.ids * 80).astype(np.uint8))  # as when a palette is converted to brightness
    return "holds the class id", v.mask.name


@damage
def mask_in_colours(v):
    v.save(voc_palette()[v.ids])
    return "is in colours (mode RGB)", v.mask.name


@damage
def mask_with_alpha(v):
    v.save(np.dstack([voc_palette()[v.ids], np.full(v.ids.shape, 255, np.uint8)]))
    return "is in colours (mode RGBA)", v.mask.name


@damage
def mask_of_16_bits(v):
    v.save(np.full(v.ids.shape, 300, np.uint16))
    return "holds the class id 300", v.mask.name


@damage
def image_of_16_bits(v):
    Image.fromarray(np.zeros(v.ids.shape, np.uint16)).save(v.image, "PNG")
    return "has the mode I;16 with 16 bits a channel", v.image.name


@damage
def mask_is_a_jpeg(v):
    v.save(v.ids, format="JPEG")
    return "is JPEG inside, not PNG", v.mask.name


@damage
def image_of_two_frames(v):
    image = Image.open(v.image).convert("RGB")
    image.save(v.image, "WEBP", save_all=True, append_images=[image.rotate(180)])
    return "has 2 frames", v.image.name


@damage
def image_of_32_bits(v):
    Image.fromarray(np.zeros(v.ids.shape, np.float32)).save(v.image, "TIFF")
    return "has the mode F", v.image.name


@damage
def id_twice(v):
    v.list.write_text(v.list.read_text() + f"{v.id}\n")
    return "twice", f"{v.list.name} lists {v.id}"


@damage
def id_of_nothing(v):
    v.list.write_text(v.list.read_text() + f"ghost{v.id}\n")
    return "is missing", f"image of ghost{v.id}"


@damage
def list_empty(v):
    v.list.write_text("\n")
    return "is empty", v.list.name


@damage
def list_missing(v):
    v.list.unlink()
    return "add it, with one id per line", v.list.name


@damage
def masks_of_0_and_255_only(v):
    for path in v.mask.parent.iterdir():
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 0, 0, 255).astype(np.uint8)).save(path)
    return "save it as the class id 1", "no mask has any class but 0 and void 255"


@damage
def class_twice(v):
    (v.root / "classes.txt").write_text("ground\ntree\ntree\n")
    return "names the class 'tree' twice", "classes.txt"


@damage
def colour_lacking(v):
    (v.root / "classes.txt").write_text("ground 0 0 0\ntree 9 9 9\nhouse\n")
    return "gives no colour for 'house'", "classes.txt"


@damage
def colour_unknown(v):
    (v.root / "classes.txt").write_text("ground 0 0 0\ntree 9 9 9\nhouse 1 2 3\n")
    v.save(np.full((*v.ids.shape, 3), 4, np.uint8))
    return "holds the colour (4, 4, 4)", v.mask.name


@damage
def masks_in_no_folder(v):
    v.mask.parent.rename(v.root / "Truth")
    return "has no folder SegmentationClass or masks", str(v.root)


def said_by_check(root: Path) -> list[str]:
    """What `check` calls errors."""
    try:
        return [p.message for p in survey.survey(prepare.open_source(str(root))).problems]
    except InputError as error:
        return [str(error)]


def said_by_training(root: Path, data_dir: Path) -> str | None:
    """In which words training refuses the folder; None if it does not."""
    try:
        prepare.load(str(root), data_dir=data_dir, progress=False)
    except InputError as error:
        return str(error)
    return None


def try_one(name: str, seed: int, folder: Path) -> str | None:
    """Make one variant in `folder`, check it, and say what is amiss (None: all is well)."""
    root = make_folder(folder / "set")
    words, named = DAMAGES[name](Victim(root, np.random.default_rng(seed)))
    check, training = said_by_check(root), said_by_training(root, folder / "data")
    if not any(words in line and named in line for line in check):
        return f"check does not say {words!r} of {named!r}: {check}"
    if len(check) != 1 and name != "masks_in_no_folder":
        return f"check says more than that: {check}"
    return None if training in check else f"training says {training!r}, check {check}"


def main() -> int:
    """Run `--variants` of them, every kind in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.damage", description=__doc__)
    parser.add_argument("--variants", type=int, default=200)
    variants, failures, done = parser.parse_args().variants, 0, Counter()
    for seed in range(variants):
        name = list(DAMAGES)[seed % len(DAMAGES)]
        folder = Path(tempfile.mkdtemp(prefix="fcn_jax-damage-"))
        try:
            amiss = try_one(name, seed, folder)
        finally:
            shutil.rmtree(folder)
        done[name] += 1
        if amiss:
            failures += 1
            print(f"{name}, seed {seed}: {amiss}", file=sys.stderr)
    print(
        f"{variants} variants of {len(done)} kinds: {variants - failures} named and refused alike"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
