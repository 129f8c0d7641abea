"""Data sets from arrays, facts that are stored, and the digest of the content."""

import os
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import fcn_jax
from fcn_jax.data import dataset, prepare
from fcn_jax.types import VOID, InputError
from tests import fakes
from tests.data.test_prepare import make_folder


def pairs(count, classes=3):
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (8 + i, 9, 3), np.uint8), rng.integers(0, classes, (8 + i, 9)))
        for i in range(count)
    ]


def test_a_data_set_from_any_sequence_of_pairs():
    class Lazy:
        asked = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            Lazy.asked += 1
            return pairs(3)[index]

    data = fcn_jax.Dataset.from_arrays({"train": cast(Any, Lazy()), "val": pairs(2)}, fakes.CLASSES)
    asked = Lazy.asked
    example = data.splits["train"][2]
    assert (example.id, Lazy.asked) == ("train/000002", asked + 1)
    np.testing.assert_array_equal(example.image, pairs(3)[2][0])
    np.testing.assert_array_equal(example.mask, pairs(3)[2][1])
    assert example.mask.dtype == np.uint8
    assert data.palette.shape == (3, 3)
    assert repr(data) == "Dataset(arrays, 3 classes, images: train 3, val 2)"
    with pytest.raises(InputError, match="no split 'test', only train, val"):
        data.splits["test"]


def test_the_digest_of_arrays_follows_their_content():
    made = [pairs(3) for _ in range(3)]
    made[1][0][1][0, 0] = VOID
    make = lambda train: fcn_jax.Dataset.from_arrays(
        {"train": train, "val": pairs(1)}, fakes.CLASSES
    )
    digests = [make(train).digest for train in made]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((np.zeros((4, 4, 3)), np.zeros((4, 4), int)), "image train/000001 is float64"),
        ((np.zeros((4, 4), np.uint8), np.zeros((4, 4), int)), "give uint8 .height, width, 3."),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), int)), "mask train/000001 is int64"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 3)), "holds the class id 3, not 0..2"),
        ((np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -1)), "holds the class id -1"),
    ],
)
def test_bad_pairs_are_named(pair, words):
    with pytest.raises(InputError, match=words):
        fcn_jax.Dataset.from_arrays({"train": [*pairs(1), pair], "val": pairs(1)}, fakes.CLASSES)


@pytest.mark.parametrize(
    ("names", "palette", "words"),
    [
        (("a",), None, "1 class names: give 2 to 255"),
        (("a", "a"), None, "each once"),
        ([str(i) for i in range(256)], None, "256 class names"),
        (("a", "b"), np.zeros((1, 3), np.uint8), r"the palette is uint8 \[1, 3\]: .*\[2, 3\]"),
        (("a", "b"), np.full((2, 3), 256), "from 0 to 255"),
        (("a", "b"), np.zeros((2, 3)), "the palette is float64"),
    ],
)
def test_unusable_classes_and_colours_are_refused(names, palette, words):
    plain = [(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int))]
    with pytest.raises(InputError, match=words):
        fcn_jax.Dataset.from_arrays({"train": plain, "val": plain}, names, palette)


def test_a_split_is_missing():
    with pytest.raises(InputError, match="has no val pairs"):
        fcn_jax.Dataset.from_arrays({"train": pairs(2)}, fakes.CLASSES)


def test_the_trivial_class():
    data = fakes.dataset()
    assert data.trivial == (0, "all-background")
    masks = [(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 1))]
    data = fcn_jax.Dataset.from_arrays({"train": masks, "val": masks}, ("sky", "road"))
    assert data.trivial == (1, "majority class")


def load(root, tmp_path):
    return prepare.load(str(root), data_dir=tmp_path / "data", progress=False)


def test_facts_are_stored_with_the_data_and_cost_no_decoding(tmp_path, monkeypatch):
    data = load(make_folder(tmp_path / "set"), tmp_path)
    found = {s: dataset.facts_of(list(e)) for s, e in data.splits.items()}
    monkeypatch.setattr(Image, "open", None)
    for split, examples in load(tmp_path / "set", tmp_path).splits.items():
        facts = dataset.facts_of(examples)
        assert facts.ids == found[split].ids
        np.testing.assert_array_equal(facts.shapes, found[split].shapes)
        np.testing.assert_array_equal(facts.pixels, found[split].pixels)
        some = dataset.facts_of(examples[1:])
        assert some.ids == facts.ids[1:]
        np.testing.assert_array_equal(some.pixels, facts.pixels[1:])


def test_masks_in_memory_are_counted_once(monkeypatch):
    pair = (np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.uint8))
    data = fcn_jax.Dataset.from_arrays({"train": [pair] * 4, "val": [pair]}, ("sky", "road"))
    train = data.splits["train"]
    first = dataset.facts_of(train)
    monkeypatch.setattr(type(train), "__getitem__", None)
    assert dataset.facts_of(train) is first
    assert first.pixels[:, 1].tolist() == [16] * 4


@pytest.mark.parametrize("damage", [os.unlink, lambda path: path.write_bytes(b"PK")])
def test_lost_facts_are_taken_again(damage, tmp_path):
    first = load(make_folder(tmp_path / "set"), tmp_path)
    (path,) = (tmp_path / "data").rglob("facts.npz")
    damage(path)
    again = load(tmp_path / "set", tmp_path)
    assert (again.digest, path.stat().st_size > 100) == (first.digest, True)
    facts, expected = (dataset.facts_of(d.splits["train"]) for d in (again, first))
    assert facts.ids == expected.ids
    np.testing.assert_array_equal(facts.pixels, expected.pixels)


def test_the_digest_follows_the_content_and_not_the_place_or_time(tmp_path):
    first = load(make_folder(tmp_path / "set"), tmp_path)
    copy = load(make_folder(tmp_path / "copy"), tmp_path)
    assert first.digest == copy.digest
    assert (first.root, copy.root) == (str(tmp_path / "set"), str(tmp_path / "copy"))
    path = tmp_path / "set/SegmentationClass/000000.png"
    os.utime(path, ns=(1, 1))
    assert load(tmp_path / "set", tmp_path).digest == first.digest
    ids = np.array(Image.open(path))
    ids[0, 0] = 3  # the same id, one pixel edited
    Image.fromarray(ids).save(path)
    edited = load(tmp_path / "set", tmp_path).digest
    assert edited != first.digest
    (tmp_path / "copy/classes.txt").write_text("".join(f"class {i}\n" for i in range(21)))
    assert load(tmp_path / "copy", tmp_path).digest not in (first.digest, edited)


def test_public_names():
    assert fcn_jax.load_dataset is prepare.load
    values = np.asarray(fcn_jax.normalize(np.full((1, 2, 2, 3), 255, np.uint8)))
    np.testing.assert_allclose(values[0, 0, 0], [2.2489083, 2.4285714, 2.64], rtol=1e-6)
