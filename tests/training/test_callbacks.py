"""Callbacks: they are told every step and epoch, once and in order, with the run's own numbers."""

import json
import logging
import struct
import sys

import numpy as np
import pytest

from fcn_jax.config import Runtime, to_dict
from fcn_jax.training import callbacks, loop, progress, run_dir
from fcn_jax.types import InputError
from tests import fakes

pytestmark = pytest.mark.usefixtures("tiny")


class Recorder(callbacks.Callback):
    """Remembers all calls."""

    def __init__(self):
        self.starts, self.steps, self.epochs, self.ends = [], [], [], []

    def on_start(self, run):
        self.starts.append(run)

    def on_step(self, step):
        self.steps.append(step)

    def on_epoch(self, row, best):
        self.epochs.append((row, best))

    def on_end(self, result):
        self.ends.append(result)


def test_what_they_are_told(tmp_path):
    seen = Recorder()
    config = fakes.config(epochs=2)
    result = loop.train(
        config, fakes.dataset(), tmp_path, Runtime(show=False), [seen, callbacks.Callback()]
    )
    (start,) = seen.starts
    assert (start.folder, start.steps_per_epoch, start.step) == (tmp_path, 2, 0)
    assert start.parameters == 267  # 3 x 3 x 3 x 8 + 8, 8 + 8, 8 x 3 + 3
    assert [(s.step, s.epoch) for s in seen.steps] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [row for row, _ in seen.epochs] == run_dir.read_metrics(tmp_path)
    for epoch, (row, _) in enumerate(seen.epochs):
        first, second = seen.steps[2 * epoch : 2 * epoch + 2]
        assert (first.loss + second.loss) / 2 == row["train"]["loss"]
        assert first.mean_loss == first.loss
        assert second.mean_loss == row["train"]["loss"]
        assert second.grad_norm > 0
    assert [best for _, best in seen.epochs].index(True) == 0
    assert seen.ends == [result]


def test_what_they_do_with_what_they_are_given_changes_nothing(tmp_path):
    class Vandal(callbacks.Callback):
        def on_validation(self, result):
            result.summary.clear()

        def on_epoch(self, row, best):
            row["val"]["miou"] = row["note"] = np.float32(9)
            del row["train"]

        def on_end(self, result):
            assert result is not None
            result.clear()

    plain, quiet = fakes.config(epochs=2), Runtime(show=False)
    expected = loop.train(plain, fakes.dataset(), tmp_path / "a", quiet)
    result = loop.train(plain, fakes.dataset(), tmp_path / "b", quiet, [Vandal()])
    assert result["val"] == expected["val"]
    rows = [run_dir.read_metrics(tmp_path / name) for name in "ab"]
    for row in (*rows[0], *rows[1]):
        del row["seconds"], row["images_per_second"]
    assert rows[0] == rows[1]


def test_an_error_ends_the_training_and_every_callback(tmp_path):
    class Failing(callbacks.Callback):
        def on_epoch(self, row, best):
            raise RuntimeError("the logger is down")

    seen = Recorder()
    with pytest.raises(RuntimeError, match="the logger is down"):
        loop.train(
            fakes.config(), fakes.dataset(), tmp_path, Runtime(show=False), [seen, Failing()]
        )
    assert seen.ends == [None]
    assert loop.train(fakes.config(), fakes.dataset(), tmp_path, Runtime(show=False))


def test_what_is_logged(tmp_path, monkeypatch, caplog):
    """What is trained on what, and a line an epoch; nothing of the paper's own metrics."""
    monkeypatch.setattr(progress, "_cache", lambda: None)  # nothing is known of another time
    with caplog.at_level(logging.INFO, "fcn_jax"):
        loop.train(fakes.config(epochs=2), fakes.dataset(), tmp_path / "run")
    lines = [r.getMessage() for r in caplog.records if r.name == progress.__name__]
    # A 3x3 convolution of 3 to 8 channels and a 1x1 one of 8 to 3, at 32 x 32:
    # 2 x 32 x 32 x (27 x 8 + 24) operations.
    assert lines[0].endswith(" x cpu, f32")
    assert lines[1].startswith("data: fake, 8 train and 5 val images, 3 classes, ")
    assert lines[1].endswith(" % void")
    assert lines[2] == "network: tiny, 267 parameters, 0.000492 GFLOPs an image at 32x32"
    assert lines[3] == f"run: 2 epochs of 2 steps, batches of 3, new in {tmp_path / 'run'}"
    assert lines[4] == "compiling the training step ..."
    assert lines[5].startswith("first step after ")
    assert lines[6].split() == " ".join(progress.HEADING).split()
    assert lines[7].startswith("      1/2  ")
    assert lines[8].startswith("      2/2  ")
    assert lines[8].endswith("  0 s")
    assert [len(line) for line in lines[6:]] == [75, 75, 75]
    assert "paper" not in caplog.text


def test_the_time_until_the_first_step_is_remembered(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_cache", lambda: str(tmp_path))
    known = progress.FirstStep(fakes.config())
    (tmp_path / "first-steps.json").write_text("[1, damaged")
    assert known.last_time() is None
    known.remember(3.25)
    assert known.last_time() == 3.25
    assert progress.FirstStep(fakes.config()).last_time() == 3.25
    assert progress.FirstStep(fakes.config(precision="bf16")).last_time() is None
    with caplog.at_level(logging.INFO, "fcn_jax"):
        info = callbacks.RunInfo(fakes.config(), tmp_path, fakes.CLASSES, 267, 2, 0)
        progress.EpochLog().on_start(info)
    assert caplog.messages == ["compiling the training step, about 3 s as the last time ..."]


def test_a_split_without_labels_is_logged(caplog):
    log = progress.EpochLog()
    log._epochs, log._best, log._seconds, log._waited = 2, "-", [], 0.0
    row = {
        "epoch": 1, "train": {"loss": 1.0}, "val": {"loss": None, "miou": None}, "seconds": 1.0,
        "images_per_second": 3.0,
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "fcn_jax"):
        log.on_epoch(row, False)
    assert caplog.messages[1].split() == ["1/2", "1.0000", "-", "-", "-", "3.0", "1", "s"]


def test_the_speed_of_the_first_epoch_leaves_the_compilation_out(tmp_path):
    """Four steps; the first, which compiles, takes most of the time by far."""
    rows = []

    class Recording(callbacks.Callback):
        def on_epoch(self, row, best):
            rows.append(row)

    config = fakes.config(epochs=2)
    loop.train(config, fakes.dataset(12), tmp_path, Runtime(show=False), [Recording()])
    assert rows[0]["images_per_second"] > 5 * 12 / rows[0]["seconds"]
    assert rows[0]["images_per_second"] < 20 * rows[1]["images_per_second"]


def test_the_heading_of_the_epochs_is_repeated(caplog):
    log = progress.EpochLog()
    log._epochs, log._best, log._seconds, log._waited = 41, "-", [], 0.0
    row = {
        "train": {"loss": 1.0}, "val": {"loss": 1.0, "miou": 0.5}, "seconds": 1.0,
        "images_per_second": 3.0,
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "fcn_jax"):
        for epoch in range(1, 42):
            log.on_epoch({**row, "epoch": epoch}, epoch == 1)
    heads = [i for i, line in enumerate(caplog.messages) if line.split()[0] == "epoch"]
    assert heads == [0, 21, 42]
    assert [r for r in caplog.records if getattr(r, "best", False)] == [caplog.records[1]]


def test_the_time_left_leaves_the_compilation_out(caplog):
    """After a first epoch of 50 s, of which 40 s before the first step, two more take 20 s."""
    log = progress.EpochLog()
    log._epochs, log._best, log._seconds, log._waited = 3, "-", [], 40.0
    row = {
        "epoch": 1, "train": {"loss": 1.0}, "val": {"loss": 1.0, "miou": 0.5}, "seconds": 50.0,
        "images_per_second": 3.0,
    }  # fmt: skip
    with caplog.at_level(logging.INFO, "fcn_jax"):
        log.on_epoch(row, True)
        log.on_epoch({**row, "epoch": 2, "seconds": 12.0}, False)
    assert [line.rpartition("  ")[2] for line in caplog.messages[1:]] == ["20 s", "10 s"]


def read_events(file):
    """The events of a file of TFRecords: length, its checksum, data, its checksum."""
    from tensorboardX.proto import event_pb2

    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(
            event_pb2.Event.FromString(  # pyright: ignore[reportAttributeAccessIssue]
                data[12 : 12 + length]
            )
        )
        data = data[16 + length :]
    return events


def test_tensorboard_gets_losses_scores_and_the_configuration(tmp_path):
    pytest.importorskip("tensorboardX")
    config, quiet = fakes.config(epochs=1), Runtime(show=False)
    result = loop.train(config, fakes.dataset(), tmp_path, quiet, [callbacks.TensorBoard()])
    (file,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    written = [(v, event.step) for event in read_events(file) for v in event.summary.value]
    values = {v.tag: (v.simple_value, step) for v, step in written}
    assert values["val/miou"] == (np.float32(result["val"]["miou"]), 2)
    assert values["iou/left"] == (np.float32(result["val"]["iou"]["left"]), 2)
    losses = [v.simple_value for v, _ in written if v.tag == "train/loss"]
    assert sum(losses) / 2 == pytest.approx(values["train/epoch_loss"][0], rel=1e-6)
    (text,) = [v.tensor.string_val[0].decode() for v, _ in written if v.tag.startswith("config")]
    assert json.loads(text.strip("`\n")) == to_dict(config)


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match="tensorboardX is not installed"):
        loop.train(
            fakes.config(), fakes.dataset(), tmp_path / "run", Runtime(show=False),
            [callbacks.TensorBoard()],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
