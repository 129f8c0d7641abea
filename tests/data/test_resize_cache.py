"""Resized images on disk: the same batches, no second decoding, bounded, and safe to lose."""

import errno

import jax
import numpy as np
import pytest

from fcn_jax.data import loader, prepare, resize_cache
from fcn_jax.data.dataset import Records
from tests import fakes
from tests.data.test_prepare import make_folder

SIZE = (32, 40)


@pytest.fixture
def train(tmp_path):
    root = make_folder(tmp_path / "set", (("train", 6), ("val", 2)))
    return prepare.load(str(root), data_dir=tmp_path / "data", progress=False).splits["train"]


def whole(split):
    """All of a split's images, as numbers."""
    ((batch, _),) = split.loader([np.arange(len(split.ids))[None]])
    return [np.asarray(part)[: len(split.ids)] for part in batch]


def open_split(examples, mode="host"):
    return loader.open_split(examples, SIZE, 21, jax.device_put, mode)


def forbid(self, index):
    raise AssertionError("decoded again")


@pytest.mark.parametrize("mode", ["host", "device"])
def test_the_second_start_decodes_nothing_and_has_the_same_bits(mode, train, monkeypatch):
    expected = fakes.resized(train, SIZE)
    first = whole(open_split(train, mode))
    monkeypatch.setattr(Records, "__getitem__", forbid)
    for found in (first, whole(open_split(train, mode))):
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_a_large_part_of_a_split_is_taken_from_the_whole(train, monkeypatch):
    expected = fakes.resized(train, SIZE)
    open_split(train)
    part = train[1:]
    monkeypatch.setattr(Records, "__getitem__", forbid)
    for ours, theirs in zip(whole(open_split(part)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs[1:])


def test_for_a_small_part_of_a_split_nothing_is_written(train):
    expected = fakes.resized(train[:2], SIZE)
    for ours, theirs in zip(whole(open_split(train[:2])), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not train.cache.exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", None])
def test_damaged_files_are_written_again(content, train):
    expected = whole(open_split(train))
    (path,) = train.cache.glob("*/mask.npy")
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    for ours, theirs in zip(whole(open_split(train)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(list(train.cache.iterdir())) == 1


@pytest.mark.parametrize("reason", ["limit", "room", "disk"])
def test_where_nothing_can_be_kept_images_are_decoded(reason, train, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if reason == "limit":
        monkeypatch.setattr(resize_cache, "LIMIT", 1000)
    elif reason == "room":
        monkeypatch.setattr(resize_cache.files, "free", lambda _: 1000)
    else:
        monkeypatch.setattr(resize_cache, "_begin", full)
    expected = fakes.resized(train, SIZE)
    for ours, theirs in zip(whole(open_split(train)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not train.cache.exists() or not list(train.cache.iterdir())


def test_the_least_recently_used_is_removed_first(train, monkeypatch):
    sizes = [(32, 40), (32, 48), (32, 56)]
    need = [len(train) * h * w * 4 + 400 for h, w in sizes]
    monkeypatch.setattr(resize_cache, "LIMIT", need[1] + need[2])
    for size in sizes[:2]:
        resize_cache.open_resized(train, size)
    resize_cache.open_resized(train, sizes[0])  # used again: now the second is older
    resize_cache.open_resized(train, sizes[2])
    assert sorted(p.name.split("-")[2] for p in train.cache.iterdir()) == ["32x40", "32x56"]


def test_clear(train):
    open_split(train)
    removed = resize_cache.clear(train.cache.parent)
    assert removed == len(train) * SIZE[0] * SIZE[1] * 4 + 2 * 128
    assert not train.cache.exists()
    assert resize_cache.clear(train.cache.parent) == 0


def test_facts_tell_the_counts_without_decoding(train, monkeypatch):
    expected = fakes.class_counts(train, 21)
    monkeypatch.setattr(Records, "__getitem__", forbid)
    split = open_split(train, "none")
    np.testing.assert_array_equal(split.counts, expected)
    assert split.ids == ("000000", "000001", "000002", "000003", "000004", "000005")
