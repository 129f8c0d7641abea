"""Wherever padded batches are kept, the batches are the same, bit for bit."""

import threading

import jax
import numpy as np
import pytest

from fcn_jax.data import batches, loader
from fcn_jax.training import loop, run_dir
from fcn_jax.types import InputError
from fcn_jax.weights import checkpoint
from tests import fakes

MODES = ("device", "host", "none")
STEPS = [
    np.array(rows, np.int32) for rows in ([[0, 3], [2, 5]], [[5, 5], [1, 0]], [[4, 6], [9, 6]])
]
"""Rows 6 and 9 do not exist: filler."""


def opened(mode, size=None, **kinds):
    return loader.open_split(
        fakes.dataset(6, 0).splits["train"], size, 3, jax.device_put, mode, **kinds
    )


def taken(split, steps):
    """The batches, as numbers."""
    return [
        jax.tree.map(np.asarray, batches.take(padded, rows))
        for padded, rows in split.loader(iter(steps))
    ]


@pytest.mark.parametrize("size", [None, (32, 40)])
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_the_whole(mode, size):
    examples = fakes.dataset(6, 0).splits["train"]
    whole = fakes.resized(examples, size) if size else batches.full_resolution(examples)
    split = opened(mode, size)
    assert split.mode == mode
    assert split.ids == tuple(e.id for e in examples)
    np.testing.assert_array_equal(split.counts, fakes.class_counts(examples, 3))
    found = taken(split, STEPS)
    assert len(found) == len(STEPS)
    for batch, rows in zip(found, STEPS, strict=True):
        expected = batches.take(jax.tree.map(jax.numpy.asarray, whole), rows)
        for ours, theirs in zip(batch, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("mode", "at_once", "later"), [("device", 6, 0), ("host", 0, 5)])
def test_images_are_decoded_once_and_for_the_host_when_they_are_needed(mode, at_once, later):
    """Row 4 is of no step here, rows 2 and 5 of two."""

    class Counted(list):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    examples = Counted(fakes.dataset(6, 0).splits["train"])
    counting = len(examples)  # of classes
    split = loader.open_split(examples, None, 3, jax.device_put, mode)
    assert examples.read == counting + at_once
    for _ in range(2):
        taken(split, [np.array(rows, np.int32) for rows in ([[0, 3], [2, 5]], [[5, 1], [2, 0]])])
    assert examples.read == counting + at_once + later


def test_padded_batches_of_every_step_have_one_shape():
    for mode in ("host", "none"):
        assert len({c.image.shape for c, _ in opened(mode).loader(STEPS)}) == 1


def test_auto_takes_the_first_that_fits():
    room, none = 10**9, 0
    assert opened("auto", limits=loader.Budget(room, room)).mode == "device"
    assert opened("auto", limits=loader.Budget(none, room)).mode == "host"
    assert opened("auto", limits=loader.Budget(room, none)).mode == "none"
    assert opened("device", limits=loader.Budget(none, none)).mode == "device"
    assert min(loader.budget().device, loader.budget().host) > 0


def test_it_reads_ahead_but_not_far():
    read, used = [], threading.Event()

    def source(rows):
        read.append(rows.tolist())
        return batches.full_resolution([fakes.example(int(r)) for r in rows])

    stream = loader.streamed(source, 50, lambda tree: tree)(np.array([i]) for i in range(20))
    next(stream)
    used.wait(0.3)
    assert len(read) == 1 + loader.READ_AHEAD
    stream.close()
    assert threading.active_count() < 20
    assert not any(t.name.startswith("read-ahead") for t in threading.enumerate())


def test_an_error_in_the_thread_reaches_the_loop():
    def broken(rows):
        raise InputError("image 000001.jpg is gone")

    with pytest.raises(InputError, match="is gone"):
        list(loader.streamed(broken, 5, lambda tree: tree)([np.array([0])]))


def test_an_unknown_mode():
    with pytest.raises(InputError, match="cache=disk: choose one of auto, device, host, none"):
        opened("disk")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny", "optimized")
@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_training_ends_with_the_same_bits(flip, tmp_path):
    config = fakes.config(epochs=2, **{"augment.flip": flip})
    outcomes = []
    for mode in MODES:
        runtime = loop.Runtime(cache=mode, show=False)
        loop.train(config, fakes.dataset(), tmp_path / mode, runtime)
        state, _ = checkpoint.load(tmp_path / mode / "checkpoints", "latest")
        rows = [(r["train"], r["val"]) for r in run_dir.read_metrics(tmp_path / mode)]
        outcomes.append((state, rows))
    for state, rows in outcomes[1:]:
        assert rows == outcomes[0][1]
        jax.tree.map(np.testing.assert_array_equal, state, outcomes[0][0])


@pytest.mark.parametrize("mode", loader.MODES)
@pytest.mark.parametrize("label", [3, 254])
def test_a_label_that_is_no_class_is_an_error_wherever_images_are_kept(mode, label):
    """The device would leave it out of the loss and of the counts without a word."""
    examples = [fakes.example(i) for i in range(4)]
    examples[2].mask[0, 0] = label
    words = f"the mask of {examples[2].id} holds the class id {label}, not 0..2 or 255"
    with pytest.raises(InputError, match=words):
        loader.open_split(examples, None, 3, jax.device_put, mode)
