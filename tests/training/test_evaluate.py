"""Evaluation: exact counts, floor and ceiling, the prediction's own code path, views."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluate as command
from fcn_jax import metrics
from fcn_jax.config import Runtime
from fcn_jax.data import batches, loader
from fcn_jax.inference import predict
from fcn_jax.runtime import files
from fcn_jax.training import evaluate, loop
from fcn_jax.training.callbacks import Callback
from fcn_jax.types import SCALES, VOID, Example, InputError
from fcn_jax.weights import model_folder
from tests import fakes


@pytest.fixture(scope="module")
def restored():
    return fakes.checkpoint()


@pytest.mark.parametrize("scale", SCALES)
def test_every_labelled_pixel_counts_once(restored, scale):
    examples = [fakes.example(i, 40 + i, 50 + 3 * i) for i in range(3)]
    ticks = []
    result = evaluate.evaluate_native(
        restored, examples, "val", scale, tick=lambda: ticks.append(1)
    )
    assert result.summary["pixels"] == sum(int((e.mask != VOID).sum()) for e in examples)
    assert result.counts.sum() == sum(e.mask.size for e in examples)
    expected = metrics.image_counts(
        examples[2].mask, predict.predict(restored, examples[2].image, scale), 3
    )
    np.testing.assert_array_equal(result.counts[2], expected)
    assert result.ids == ("000000", "000001", "000002")
    assert len(ticks) == 3
    assert result.summary["loss"] is None
    assert result.perfect["miou"] == 1


def test_views_change_the_prediction_and_are_recorded(restored, tmp_path):
    examples = [fakes.example(0)]
    tta = predict.TTA(*command.parse_tta("flip,0.5"))
    result = evaluate.evaluate_native(restored, examples, "test", "native", tta)
    mask = predict.probabilities(restored, examples[0].image, "native", tta).argmax(-1)
    np.testing.assert_array_equal(result.counts[0], metrics.image_counts(examples[0].mask, mask, 3))
    path = evaluate.save(result, tmp_path)
    assert path.name == "eval-test-native-every-pixel-flip-0.5.json"
    data, counts, _ = evaluate.load(tmp_path, "test-native-every-pixel-flip-0.5")
    assert data["method"] == {
        "resolution": "native", "scale": "native", "flip": True, "factors": [0.5, 1.0],
    }  # fmt: skip
    np.testing.assert_array_equal(counts, result.counts)


def test_flags_for_views():
    assert predict.TTA(*command.parse_tta(None)) == predict.TTA()
    assert predict.TTA(*command.parse_tta("1.25,flip,0.75")) == predict.TTA(True, (0.75, 1.0, 1.25))
    for bad in ("mirror", "9", "flip,,1", "nan"):
        with pytest.raises(InputError, match="is neither flip nor a size"):
            command.parse_tta(bad)
    with pytest.raises(InputError, match="go with --resolution native"):
        command.main(["run", "--tta", "flip"])
    with pytest.raises(InputError, match="--batch-size 0"):
        command.main(["run", "--batch-size", "0"])


class _Oracle:
    """Predicts background everywhere, or the mask that the image's first channel shows."""

    def __init__(self, perfect):
        self.perfect = perfect

    def apply(self, variables, images, train):
        shown = jnp.round((images[..., 0] * batches.STD[0] + batches.MEAN[0]) * 255)
        classes = jnp.where(self.perfect & (shown != VOID), shown, 0).astype(jnp.int32)
        return jax.nn.one_hot(classes, 3) * 50.0


@pytest.mark.parametrize("perfect", [False, True])
def test_floor_and_ceiling_come_out_of_the_real_pipeline(perfect):
    masks = [fakes.example(i, 32, 32).mask for i in range(5)]
    examples = [Example(str(i), np.stack([m] * 3, -1), m) for i, m in enumerate(masks)]
    padded = loader.cached(jax.device_put(fakes.resized(examples, (32, 32))))
    program = evaluate.make_program(_Oracle(perfect), 3, None, 0)
    ids = [e.id for e in examples]
    result = evaluate.evaluate(program, {}, padded, ids, fakes.CLASSES, 2)
    expected = result.perfect if perfect else result.trivial
    scores = {k: v for k, v in result.summary.items() if k != "loss"}
    assert scores == {k: v for k, v in expected.items() if k != "loss"}
    assert result.collapsed != perfect
    labelled = np.concatenate([m[m != VOID] for m in masks])
    background = float((labelled == 0).mean())
    assert result.summary["miou"] == pytest.approx(1.0 if perfect else background / 3)


def test_an_images_score_is_taken_over_the_classes_of_its_truth():
    # One class, 97 of its 100 pixels right, three stray ones: 0.97, not (0.97 + 0) / 2.
    alone = [[97, 3, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    # Two classes: 6 / (8 + 7 - 6) and 1 / (3 + 4 - 1); the void row does not count.
    two = [[6, 2, 0], [1, 1, 1], [0, 0, 0], [9, 9, 9]]
    void = [[0, 0, 0], [0, 0, 0], [0, 0, 0], [5, 0, 0]]
    scores = evaluate.image_scores(np.array([alone, two, void]))
    assert scores[0] == pytest.approx(0.97)
    assert scores[1] == pytest.approx((6 / 9 + 1 / 5) / 2)
    assert scores[2] is None


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"no zip"])
def test_a_damaged_evaluation_is_named(restored, tmp_path, content):
    result = evaluate.evaluate_native(restored, [fakes.example(0)])
    path = evaluate.save(result, tmp_path).with_suffix(".npz")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"eval-val-native\.npz: cannot be read"):
        evaluate.load(tmp_path, "val-native")
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(InputError, match=r"eval-val-native\.json: cannot be read"):
        evaluate.load(tmp_path, "val-native")


@pytest.mark.usefixtures("tiny")
def test_the_training_images_of_an_overfit_run_are_those_of_its_own_data(tmp_path):
    known = dataclasses.replace(fakes.dataset(), digest="1")
    loop.train(fakes.config(epochs=1), known, tmp_path, Runtime(show=False))
    restored = predict.load_checkpoint(tmp_path)
    overfit = {**restored.meta["config"]["data"], "overfit": 2}
    meta = {**restored.meta, "config": {**restored.meta["config"], "data": overfit}}
    restored = restored._replace(meta=meta)
    assert len(evaluate.split_examples(restored, known, "val")) == 2
    other = dataclasses.replace(known, digest="2")
    assert evaluate.split_examples(restored, other, "val") is other.splits["val"]


def test_each_way_of_evaluating_has_a_file_of_its_own(restored, tmp_path):
    examples = [fakes.example(0)]
    ways = [
        ("fit", "", ""),
        ("fit", "flip", "-flip"),
        ("fit", "flip,2,3", "-flip-2-3"),
        ("native", "", "-every-pixel"),
        ("native", "1.25", "-every-pixel-1.25"),
    ]
    for scale, views, suffix in ways:
        tta = predict.TTA(*command.parse_tta(views))
        result = evaluate.evaluate_native(restored, examples, "val", scale, tta)
        assert evaluate.save(result, tmp_path).name == f"eval-val-native{suffix}.json"
    assert len(list(tmp_path.glob("*.json"))) == len(ways)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("native", [False, True])
def test_an_exported_network_is_evaluated_like_its_run(tmp_path, native):
    dataset = fakes.dataset()
    loop.train(fakes.config(epochs=1), dataset, tmp_path / "run", Runtime(show=False))
    restored = predict.load_checkpoint(tmp_path / "run")
    model_folder.save(tmp_path / "net", restored.variables, restored.meta)
    exported = predict.load_checkpoint(tmp_path / "net")

    def evaluated(network):
        images = evaluate.split_examples(network, dataset, "val")
        result = (
            evaluate.evaluate_native(network, images)
            if native
            else evaluate.evaluate_checkpoint(network, dataset)
        )
        return evaluate.mark_data(result, network, dataset)

    ours, theirs = evaluated(restored), evaluated(exported)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    assert ours.other_data is None
    published = restored._replace(meta={})  # as `load_published` gives it
    np.testing.assert_array_equal(evaluated(published).counts, ours.counts)
    # It does not know its data, so results on two data sets must not share a file.
    assert theirs.other_data == evaluate.identity(dataset)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("native", [False, True])
def test_results_on_other_data_never_replace_the_runs_own(tmp_path, native):
    """The content decides: a moved data set is the run's own, another one at its path is not."""
    quiet = Runtime(show=False)
    known = dataclasses.replace(fakes.dataset(), digest="1", root="/data")
    loop.train(fakes.config(epochs=1), known, tmp_path, quiet)
    restored = predict.load_checkpoint(tmp_path)
    before = (tmp_path / "eval-val.json").read_bytes()

    def evaluated(**changes):
        dataset = dataclasses.replace(known, **changes)
        if native:
            images = evaluate.split_examples(restored, dataset, "val")
            result = evaluate.mark_data(
                evaluate.evaluate_native(restored, images), restored, dataset
            )
        else:
            result = evaluate.evaluate_checkpoint(restored, dataset)
        return evaluate.save(result, tmp_path)

    suffix = "-native" if native else ""
    moved = evaluated(root="/elsewhere")
    assert moved.name == f"eval-val{suffix}.json"
    assert files.read_json(moved)["other_data"] is None
    edited = evaluated(digest="2")
    renamed = evaluated(digest="3", root="/b", name="my data")
    assert re.fullmatch(rf"eval-val{suffix}-on-fake-[0-9a-f]{{8}}\.json", edited.name)
    assert re.fullmatch(rf"eval-val{suffix}-on-my-data-[0-9a-f]{{8}}\.json", renamed.name)
    assert files.read_json(renamed)["other_data"] == {
        "name": "my data", "root": "/b", "digest": "3",
    }  # fmt: skip
    assert (tmp_path / "eval-val.json").read_bytes() == before
    assert evaluated(digest="", root="/b").name.startswith(f"eval-val{suffix}-on-fake-")
    assert evaluated(digest="").name == f"eval-val{suffix}.json"


@pytest.mark.usefixtures("tiny")
def test_the_real_val_split_of_a_run_that_divided_train_has_a_file_of_its_own(tmp_path):
    config = fakes.config(**{"data.split_train": 0.5, "epochs": 1})
    loop.train(config, fakes.dataset(), tmp_path, Runtime(show=False))
    result = evaluate.evaluate_checkpoint(predict.load_checkpoint(tmp_path), fakes.dataset())
    assert result.ids == tuple(e.id for e in fakes.dataset().splits["val"])
    assert evaluate.save(result, tmp_path).name == "eval-val-real.json"
    assert files.read_json(tmp_path / "eval-val-real.json")["other_split"] is True


@pytest.mark.usefixtures("tiny")
def test_edited_data_are_noticed_when_a_run_is_resumed(tmp_path):
    config, quiet = fakes.config(), Runtime(show=False)
    known = dataclasses.replace(fakes.dataset(), digest="1", root="/data")

    class Stop(Callback):
        def on_epoch(self, row, best):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(config, known, tmp_path, quiet, [Stop()])
    with pytest.raises(InputError, match="images or masks in /data have changed"):
        loop.train(config, dataclasses.replace(known, digest="2"), tmp_path, quiet)
    moved = dataclasses.replace(known, root="/elsewhere")
    assert loop.train(config, moved, tmp_path, quiet)["epochs_run"] == 3
