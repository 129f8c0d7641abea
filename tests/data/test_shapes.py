"""The drawn data set: the same bytes each time, shaped as VOC, and not learnable from colour."""

import errno
import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import prepare, shapes
from fcn_jax.data.classes import VOC_CLASSES, voc_palette
from fcn_jax.runtime import files as disk
from fcn_jax.types import VOID, InputError

SIZES = {"train": 60, "val": 40, "test": 20}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes")
    shapes.draw(path, sizes=SIZES)
    return path


@pytest.fixture(scope="module")
def pairs(root):
    """{split: [(image, mask)]}, as arrays."""
    result = {}
    for split in SIZES:
        ids = (root / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        result[split] = [
            (
                np.array(Image.open(root / f"JPEGImages/{i}.jpg")),
                np.array(Image.open(root / f"SegmentationClass/{i}.png")),
            )
            for i in ids
        ]
    return result


def digests(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).digest() for p in files}


def test_the_same_bytes_from_the_same_seed(root, tmp_path):
    few = {"train": 3, "val": 2, "test": 1}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        shapes.draw(tmp_path / name, seed, few)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    images = [name for name in first if name.startswith(("JPEG", "Segm"))]
    assert len(images) == 12
    assert all(first[name] != other[name] for name in images)
    whole = digests(root)
    assert all(first[name] == whole[name] for name in images)  # more photos move no other
    assert len({whole[name] for name in whole if name.startswith("JPEG")}) == sum(SIZES.values())


def test_sizes(pairs):
    assert {split: len(items) for split, items in pairs.items()} == SIZES
    shapes_seen = {image.shape[:2] for items in pairs.values() for image, _ in items}
    sides = np.array(sorted(shapes_seen))
    assert len(shapes_seen) > 100  # nearly every photo has a size of its own
    assert 120 <= sides.min() < 220
    assert 450 <= sides.max() <= 500
    assert any(h > w for h, w in shapes_seen)
    for items in pairs.values():
        assert all(image.shape == (*mask.shape, 3) for image, mask in items)


def test_masks_are_as_vocs(root, pairs):
    mask = Image.open(root / "SegmentationClass/train_0000.png")
    assert mask.mode == "P"
    assert mask.getpalette() == voc_palette().ravel().tolist()
    for items in pairs.values():
        counts = np.sum([np.bincount(mask.ravel(), minlength=256) for _, mask in items], axis=0)
        fractions = counts / counts.sum()
        assert 0.65 < fractions[0] < 0.85
        assert 0.01 < fractions[VOID] < 0.08
        assert (counts[1:21] > 0).all()  # every class in every split
        assert counts[21:VOID].sum() == 0


def test_void_lies_between_object_and_background(pairs):
    """No object pixel touches the background: a line of void runs around every object."""
    for _, mask in pairs["train"]:
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            counted = (a != VOID) & (b != VOID) & (a != b)
            assert counted.mean() < 1e-4


def colour_bins(image):
    """The colour of each pixel, coarsely: 8 levels a channel."""
    return ((image >> 5).astype(np.int64) * (64, 8, 1)).sum(-1)


def test_a_classifier_of_single_colours_learns_next_to_nothing(pairs):
    """Best class of each of 512 colours, on train; miou on val, all-background being 0.035."""
    table = np.zeros((512, 256), np.int64)
    for image, mask in pairs["train"]:
        np.add.at(table, (colour_bins(image), mask), 1)
    table = table[:, :21]
    frequency = table.sum(0) / table.sum()
    for power in (0.0, 0.5, 1.0):  # plain, and with rarer classes weighted up
        best = (table / frequency**power).argmax(1)
        matrix = np.zeros((21, 256), np.int64)
        for image, mask in pairs["val"]:
            np.add.at(matrix, (best[colour_bins(image)], mask), 1)
        matrix = matrix[:, :21]
        hits = np.diag(matrix)
        miou = (hits / (matrix.sum(0) + matrix.sum(1) - hits)).mean()
        assert miou < 0.08, power


def test_drawn_once_and_read_by_the_same_builder(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 3, "val": 2, "test": 1})
    dataset = prepare.load("shapes", data_dir=tmp_path, progress=False)
    assert dataset.name == "shapes"
    assert dataset.class_names == VOC_CLASSES
    assert {k: len(v) for k, v in dataset.splits.items()} == {"train": 3, "val": 2, "test": 1}
    assert dataset.splits["val"][1].id == "val_0001"

    def fail(*args, **kwargs):
        raise AssertionError("drawn again")

    monkeypatch.setattr(shapes, "draw", fail)
    again = prepare.load("shapes", data_dir=tmp_path, progress=False)
    np.testing.assert_array_equal(again.splits["val"][1].image, dataset.splits["val"][1].image)


def test_half_drawn_data_are_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 2, "val": 1, "test": 1})
    (tmp_path / "incomplete/JPEGImages").mkdir(parents=True)
    (tmp_path / "incomplete/JPEGImages/old.jpg").write_text("")
    target = shapes.ensure(tmp_path, progress=False)
    assert len(list((target / "JPEGImages").iterdir())) == 4
    assert not (tmp_path / "incomplete").exists()


def test_a_full_disk_is_noticed_before_and_while_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 2, "val": 1, "test": 1})
    with monkeypatch.context() as patch:
        patch.setattr(disk, "free", lambda _: 1000)
        with pytest.raises(
            InputError, match=r"too full \(1.0 kB free, .* needs 20.0 MB\): make room"
        ):
            shapes.ensure(tmp_path, progress=False)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shapes.Image.Image, "save", full)
        with pytest.raises(InputError, match="too full"):
            shapes.ensure(tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]  # its room is given back
    assert shapes.ensure(tmp_path, progress=False).is_dir()


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another directory"):
        shapes.ensure(tmp_path / "file", progress=False)
