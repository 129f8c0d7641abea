"""What is worth knowing about a data set; and every damage, named by check and training alike."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fcn_jax.data import prepare, survey
from tests.drills import damage


@pytest.fixture
def root(tmp_path):
    return damage.make_folder(tmp_path / "set")


def look(root):
    return survey.survey(prepare.open_source(str(root)))


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_every_damage_is_named_and_refused_alike(name, tmp_path):
    assert damage.try_one(name, seed=list(damage.DAMAGES).index(name), folder=tmp_path) is None


@pytest.mark.slow
def test_two_hundred_variants(tmp_path):
    for seed in range(200):
        name = list(damage.DAMAGES)[seed % len(damage.DAMAGES)]
        assert damage.try_one(name, 1000 + seed, tmp_path / str(seed)) is None
        shutil.rmtree(tmp_path / str(seed))


def test_a_sound_folder_has_no_problems_and_is_counted(root):
    found = look(root)
    assert (found.problems, found.notes) == ([], [])
    assert found.splits["train"].ids == ["000", "001", "002", "003"]
    assert found.splits["val"].sizes[(28, 32)] == 1
    masks = [np.array(Image.open(root / f"SegmentationClass/{i:03d}.png")) for i in range(4)]
    expected = sum(np.bincount(m.ravel(), minlength=256) for m in masks)
    np.testing.assert_array_equal(found.splits["train"].pixels, expected)
    assert found.splits["train"].masks[[1, 2, 3, 255]].tolist() == [4, 4, 0, 4]


def test_several_damages_are_all_named(root):
    (root / "JPEGImages/001.jpg").unlink()
    (root / "SegmentationClass/004.png").write_bytes(b"")
    Image.new("L", (9, 9)).save(root / "SegmentationClass/002.png")
    found = look(root)
    assert len(found.problems) == 3
    assert found.splits["train"].ids == ["000", "003"]


def test_equal_images_are_found_whatever_their_names(root):
    pixels = Image.open(root / "JPEGImages/001.jpg")
    mask = Image.open(root / "SegmentationClass/001.png")
    (root / "JPEGImages/005.jpg").unlink()
    pixels.save(root / "JPEGImages/005.png")  # other bytes, the same pixels
    mask.save(root / "SegmentationClass/005.png")
    notes = look(root).notes
    assert len(notes) == 1
    assert notes[0].startswith("the same image: train/001 = val/005: scores are taken")


def test_masks_swallowed_by_void(root):
    for name, value in (("000", 0), ("003", 255)):
        path = root / f"SegmentationClass/{name}.png"
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 1, 255, value).astype(np.uint8)).save(path)
    found = look(root)
    assert found.problems == []
    assert found.notes[0].startswith("mask 000.png holds only 0 and 255, and 255 is void")
    assert found.notes[1].startswith("mask 003.png is void everywhere and teaches nothing")


def test_absent_classes_and_unused_files(root):
    for i in (4, 5, 6):
        path = root / f"SegmentationClass/{i:03d}.png"
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 2, 0, ids).astype(np.uint8)).save(path)
    Image.open(root / "JPEGImages/000.jpg").save(root / "JPEGImages/000.png")
    shutil.copy(root / "JPEGImages/000.jpg", root / "JPEGImages/900.jpg")
    shutil.copy(root / "SegmentationClass/000.png", root / "SegmentationClass/900.png")
    shutil.copy(root / "SegmentationClass/000.png", root / "SegmentationClass/901.png")
    assert look(root).notes == [
        "pairs in no list, which stay unused (1): 900",
        "masks without an image, which stay unused (1): 901",
        "JPEGImages/000.png is not used: JPEGImages/000.jpg has the same id",
        "no val mask holds: house",
    ]
