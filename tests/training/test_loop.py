"""The loop: it learns, stops early, resumes to the same bits, and its result can be repeated."""

import dataclasses
import json
import os
import shutil
import signal

import chex
import jax
import numpy as np
import pytest

from fcn_jax import losses, models
from fcn_jax.inference import predict
from fcn_jax.runtime import files
from fcn_jax.training import evaluate as evaluation
from fcn_jax.training import loop, run_dir, saving, setup, trainer
from fcn_jax.training.callbacks import Callback
from fcn_jax.types import VOID, InputError
from fcn_jax.weights import checkpoint
from tests import fakes

CLOCKS = ("seconds", "images_per_second", "environment")
QUIET = loop.Runtime(show=False)

pytestmark = pytest.mark.usefixtures("tiny")


def _outcome(folder):
    """All a run leaves behind that must not depend on interruptions."""
    state, _ = checkpoint.load(folder / "checkpoints", "latest")
    rows = [
        {k: v for k, v in row.items() if k not in CLOCKS} for row in run_dir.read_metrics(folder)
    ]
    result = files.read_json(folder / "result.json")
    return state, rows, {k: v for k, v in result.items() if k not in CLOCKS}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One uninterrupted run, shared by the tests that compare with it."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", fakes.TINY)
        loop.train(fakes.config(), fakes.dataset(), folder, QUIET)
    return folder


def test_it_learns(straight):
    result = files.read_json(straight / "result.json")
    assert result["val"]["miou"] > 2 * result["trivial"]["miou"]
    rows = run_dir.read_metrics(straight)
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert rows[-1]["train"]["loss"] < rows[0]["train"]["loss"]
    assert result["best_epoch"] == 1 + int(np.argmax([r["val"]["miou"] for r in rows]))
    assert result["val"]["miou"] == max(r["val"]["miou"] for r in rows)


def test_the_counts_sum_to_the_labelled_pixels(straight):
    _, counts, ids = evaluation.load(straight)
    data = fakes.dataset()
    val = data.splits["val"]
    assert ids == tuple(e.id for e in val)
    masks = fakes.resized(list(val), (32, 32)).mask
    assert counts[:, :-1].sum() == (masks != VOID).sum()
    assert counts.sum() == masks.size


def test_evaluating_the_checkpoint_gives_the_result_exactly(straight):
    restored = predict.load_checkpoint(straight)
    again = evaluation.evaluate_checkpoint(restored, fakes.dataset())
    assert again.summary == files.read_json(straight / "result.json")["val"]


def test_predictions_have_the_images_own_size(straight):
    restored = predict.load_checkpoint(straight)
    example = fakes.example(50, 61, 83)
    mask = predict.predict(restored, example.image)
    chex.assert_shape(mask, (61, 83))
    assert mask.dtype == np.uint8
    known = example.mask != VOID
    assert (mask == example.mask)[known].mean() > 0.6


class _Stop(Callback):
    """Send a signal to ourselves after so many steps."""

    def __init__(self, after):
        self.left = after

    def on_step(self, step):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("after", [[1], [2], [1, 1]])
def test_interrupted_runs_end_with_the_same_bits(straight, tmp_path, caplog, after):
    for count in after:
        with pytest.raises(loop.Interrupted, match="saved in"):
            loop.train(fakes.config(), fakes.dataset(), tmp_path / "run", QUIET, [_Stop(count)])
    loop.train(fakes.config(), fakes.dataset(), tmp_path / "run", QUIET)
    ours, theirs = _outcome(tmp_path / "run"), _outcome(straight)
    chex.assert_trees_all_equal(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]
    assert "finishing the step" in caplog.text


@pytest.mark.parametrize("bn_batches", [0, 2])
def test_a_signal_in_a_validation_stops_it(straight, tmp_path, monkeypatch, bn_batches):
    """The epoch is trained but not evaluated: it resumes there, to the same bits."""
    config = fakes.config(bn_batches=bn_batches)
    if bn_batches:
        straight = tmp_path / "straight"
        loop.train(config, fakes.dataset(), straight, QUIET)
    program = evaluation.make_program

    def interrupting(*args, **kwargs):
        evaluate, signals = program(*args, **kwargs), iter([signal.SIGTERM])

        def run(*values):
            os.kill(os.getpid(), next(signals, 0))
            return evaluate(*values)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "make_program", interrupting)
        with pytest.raises(loop.Interrupted, match="stopped after step 2; saved in"):
            loop.train(config, fakes.dataset(), tmp_path / "run", QUIET)
    assert run_dir.read_metrics(tmp_path / "run") == []
    loop.train(config, fakes.dataset(), tmp_path / "run", QUIET)
    ours, theirs = _outcome(tmp_path / "run"), _outcome(straight)
    chex.assert_trees_all_equal(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]
    assert all(0 < row["images_per_second"] < 1e6 for row in run_dir.read_metrics(tmp_path / "run"))


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (setup, "build", "before the first step"),
        (loop, "_finish", "after step 6; saved in"),
    ],
)
def test_a_signal_before_and_after_the_training(
    straight, tmp_path, monkeypatch, owner, name, words
):
    original = getattr(owner, name)

    def killing(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing)
        with pytest.raises(loop.Interrupted, match=words):
            loop.train(fakes.config(), fakes.dataset(), tmp_path, QUIET)
    loop.train(fakes.config(), fakes.dataset(), tmp_path, QUIET)
    assert _outcome(tmp_path)[1:] == _outcome(straight)[1:]


STEP = ["train_chunk", "save"]


def _owner(method):
    return saving.Saver if method == "save" else trainer.Trainer


@pytest.mark.parametrize(
    ("save_steps", "name", "call", "expected"),
    [
        (1, "save", 1, STEP),
        (1, "save", 2, STEP * 2),
        (1, "validate", 1, [*STEP * 2, "validate"]),
        (1, "save", 3, [*STEP * 2, "validate", "save"]),
        (0, "settle", 3, ["train_chunk", "train_chunk", "save"]),
    ],
)
def test_what_a_signal_is_followed_by(
    straight, tmp_path, monkeypatch, save_steps, name, call, expected
):
    """The step is finished and nothing else begun; what has been saved is not saved again."""
    runtime, calls = loop.Runtime(save_steps=save_steps, show=False), []

    def watched(name, number):
        original, left = getattr(_owner(name), name), [number]

        def method(*args):
            calls.append(name)
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args)

        return method

    with monkeypatch.context() as patch:
        for other in ("train_chunk", "save", "validate", "settle"):
            patch.setattr(_owner(other), other, watched(other, call if other == name else 0))
        with pytest.raises(loop.Interrupted, match="; saved in"):
            loop.train(fakes.config(), fakes.dataset(), tmp_path, runtime)
    assert [made for made in calls if made != "settle"] == expected
    loop.train(fakes.config(), fakes.dataset(), tmp_path, runtime)
    ours, theirs = _outcome(tmp_path), _outcome(straight)
    chex.assert_trees_all_equal(ours[0], theirs[0])
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_an_epoch_without_a_score_is_never_the_best(tmp_path, monkeypatch, nothing):
    mious, evaluate, saved = iter([nothing, 0.2, nothing, 0.1]), evaluation.evaluate, []

    def fake(*args, **kwargs):
        result = evaluate(*args, **kwargs)
        result.summary["miou"] = next(mious)
        return result

    monkeypatch.setattr(evaluation, "evaluate", fake)
    # JSON has no NaN; the summaries are None there.
    monkeypatch.setattr(
        saving.Saver, "write_metrics", lambda _, progress: saved.append(progress.best_epoch)
    )
    result = loop.train(fakes.config(), fakes.dataset(), tmp_path, QUIET)
    assert saved == [0, 0, 2, 2]
    assert result["best_epoch"] == 2


def test_a_finished_run_is_not_trained_again(straight, monkeypatch):
    before = _outcome(straight)
    monkeypatch.setattr(trainer.Trainer, "train_epoch", lambda *_: pytest.fail("trained again"))
    loop.train(fakes.config(), fakes.dataset(), straight, QUIET)
    assert json.dumps(_outcome(straight)[1:]) == json.dumps(before[1:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "other"}, "images or masks in .* have changed since the run began"),
        ({"class_names": ("x", "y", "z")}, "the run began with .* classes entries"),
    ],
)
def test_a_finished_run_is_not_shown_for_other_data(straight, change, words, tmp_path):
    folder = shutil.copytree(straight, tmp_path / "run")
    data = files.read_json(folder / run_dir.DATA)
    files.write_json(folder / run_dir.DATA, {**data, "digest": "first"})
    dataset = dataclasses.replace(fakes.dataset(), **change)
    with pytest.raises(InputError, match=words):
        loop.train(fakes.config(), dataset, folder, QUIET)


def test_patience_counts_from_the_best_epoch():
    config = fakes.config(epochs=9, patience=2)
    assert not saving.Progress(epoch=4, best_epoch=3).finished(config)
    assert saving.Progress(epoch=5, best_epoch=3).finished(config)
    assert saving.Progress(epoch=9, best_epoch=9).finished(config)
    assert not saving.Progress(epoch=8).finished(fakes.config(epochs=9, patience=0))


def test_patience_stops_early_and_the_best_checkpoint_is_the_result(tmp_path, monkeypatch):
    mious = iter([0.1, 0.5, 0.3, 0.2, 0.4])
    evaluate = evaluation.evaluate

    def fake(*args, **kwargs):
        result = evaluate(*args, **kwargs)
        result.summary["miou"] = next(mious)
        return result

    monkeypatch.setattr(evaluation, "evaluate", fake)
    config = fakes.config(epochs=9, patience=2)
    result = loop.train(config, fakes.dataset(), tmp_path, QUIET)
    assert (result["epochs_run"], result["best_epoch"]) == (4, 2)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(tmp_path):
    config = fakes.config(**{"optim.lr": 1e30, "optim.schedule": "constant", "epochs": 6})
    with pytest.raises(loop.DivergedError, match=r"not finite at step \d+ .* try a lower optim.lr"):
        loop.train(config, fakes.dataset(), tmp_path, QUIET)
    record = files.read_json(tmp_path / "diverged.json")
    assert len(record["ids"]) == 3
    ids = [e.id for e in fakes.dataset().splits["train"]]
    assert record["ids"] == [ids[i] for i in record["indices"]]
    # All that a replay needs: the rows are those of the step, and so is the key.
    made = setup.build(config, fakes.dataset())
    epoch, step = divmod(record["step"], made.steps_per_epoch)
    assert record["indices"] == made.epoch_indices(epoch)[step].tolist()
    assert record["key"] == jax.random.key_data(made.train_key()).tolist()


def test_overfit_validates_on_the_training_images(tmp_path):
    config = fakes.config(**{"data.overfit": 4, "epochs": 1})
    loop.train(config, fakes.dataset(), tmp_path, QUIET)
    assert evaluation.load(tmp_path)[2] == tuple(e.id for e in fakes.dataset().splits["train"])[:4]
    restored = predict.load_checkpoint(tmp_path)
    again = evaluation.evaluate_checkpoint(restored, fakes.dataset())
    assert again.summary == files.read_json(tmp_path / "result.json")["val"]


def test_a_divided_train_split_validates_on_the_rest_of_it(tmp_path):
    config = fakes.config(**{"data.split_train": 0.75, "epochs": 1})
    result = loop.train(config, fakes.dataset(), tmp_path, QUIET)
    train = tuple(e.id for e in fakes.dataset().splits["train"])
    made = setup.build(config, fakes.dataset())
    other = setup.build(fakes.config(**{"data.split_train": 0.75, "seed": 7}), fakes.dataset())
    assert (made.train.ids, made.val.ids) == (other.train.ids, other.val.ids)
    assert sorted(made.train.ids + made.val.ids) == list(train)
    assert evaluation.load(tmp_path)[2] == made.val.ids
    assert (len(made.val.ids), result["split_train"]) == (2, 0.75)
    # Afterwards it is evaluated on the real split, as every run.
    restored = predict.load_checkpoint(tmp_path)
    assert restored.meta["config"]["data"]["split_train"] == 0.75
    again = evaluation.evaluate_checkpoint(restored, fakes.dataset())
    assert again.ids == tuple(e.id for e in fakes.dataset().splits["val"])


def test_void_and_the_trivial_row_follow_the_background_wherever_it_stands(tmp_path):
    data = dataclasses.replace(fakes.dataset(), class_names=("left", "right", "background"))
    config = fakes.config(**{"data.void_as_background": True, "epochs": 1})
    result = loop.train(config, data, tmp_path, QUIET)
    counts = fakes.class_counts(data.splits["val"], 3)
    assert result["trivial_name"] == "all-background"
    assert result["trivial"]["iou"]["left"] == 0
    assert result["trivial"]["pixel_accuracy"] == pytest.approx(counts[2] / counts[:3].sum(), 0.2)
    weights = setup.build(
        fakes.config(**{"data.void_as_background": True, "loss.class_weights": "inverse"}), data
    ).meta["class_weights"]
    train = fakes.class_counts(data.splits["train"], 3)
    expected = losses.class_weights(train[:3] + train[3] * np.array([0, 0, 1]), "inverse", None)
    np.testing.assert_allclose(weights, expected)
    again = evaluation.evaluate_checkpoint(predict.load_checkpoint(tmp_path), data)
    assert (again.summary, again.trivial) == (result["val"], result["trivial"])


def test_without_a_background_the_majority_class_is_the_trivial_row(tmp_path):
    data = dataclasses.replace(fakes.dataset(), class_names=("sky", "left", "right"))
    result = loop.train(fakes.config(epochs=1), data, tmp_path, QUIET)
    assert result["trivial_name"] == "majority class"
    assert result["trivial"]["iou"]["sky"] > 0.5
    assert "paper_iou" not in result["val"]
    restored = predict.load_checkpoint(tmp_path)
    again = evaluation.evaluate_checkpoint(restored, data)
    assert (again.trivial, again.trivial_name) == (result["trivial"], "majority class")
    with pytest.raises(InputError, match="void_as_background=True: no class"):
        setup.build(fakes.config(**{"data.void_as_background": True}), data)


def test_class_weights_come_from_the_part_that_is_trained_on():
    config = fakes.config(**{"data.split_train": 0.5, "loss.class_weights": "inverse"})
    made = setup.build(config, fakes.dataset())
    trained = [e for e in fakes.dataset().splits["train"] if e.id in made.train.ids]
    counts = fakes.class_counts(trained, 3)[:-1]
    expected = losses.class_weights(counts, "inverse", None)
    np.testing.assert_allclose(made.meta["class_weights"], expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.batch_size": 9}, "data.batch_size=9: training has 8 images: use at most"),
        ({"data.overfit": 99}, "data.overfit=99: the train split has 8 images"),
    ],
)
def test_batches_larger_than_the_split_are_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        loop.train(fakes.config(**changes), fakes.dataset(), tmp_path, QUIET)


def test_changed_data_is_refused(straight, tmp_path):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    with pytest.raises(InputError, match="began with 8 train entries, the data set now has 7"):
        loop.train(fakes.config(), fakes.dataset(train=7), tmp_path, QUIET)


def test_other_classes_are_refused(straight):
    restored = predict.load_checkpoint(straight)._replace(class_names=("sky", "road"))
    with pytest.raises(InputError, match="the network 2"):
        evaluation.evaluate_checkpoint(restored, fakes.dataset())


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_precisions_learn_alike(straight, tmp_path, precision):
    loop.train(fakes.config(precision=precision), fakes.dataset(), tmp_path, QUIET)
    ours, theirs = (run_dir.read_metrics(f)[-1]["train"]["loss"] for f in (tmp_path, straight))
    assert ours == pytest.approx(theirs, rel=0.05)
    dtypes = {x.dtype for x in jax.tree.leaves(checkpoint.load(tmp_path / "checkpoints")[0])}
    assert dtypes == {np.dtype(np.float32)}
