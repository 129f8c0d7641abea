"""Judging: exact counts, floor and ceiling, the prediction's own code path, views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import evaluate as door
from fcn_jax import metrics
from fcn_jax.data import batches, loader
from fcn_jax.inference import predict
from fcn_jax.training import evaluate
from fcn_jax.types import VOID, Example, InputError
from tests import fakes


@pytest.fixture(scope="module")
def restored():
    return fakes.checkpoint()


@pytest.mark.parametrize("scale", predict.SCALES)
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
    tta = predict.TTA(*door.parse_tta("flip,0.5"))
    result = evaluate.evaluate_native(restored, examples, "test", "native", tta)
    mask = predict.probabilities(restored, examples[0].image, "native", tta).argmax(-1)
    np.testing.assert_array_equal(result.counts[0], metrics.image_counts(examples[0].mask, mask, 3))
    path = evaluate.save(result, tmp_path)
    assert path.name == "eval-test-native.json"
    data, counts, _ = evaluate.load(tmp_path, "test-native")
    assert data["method"] == {
        "resolution": "native", "scale": "native", "flip": True, "factors": [0.5, 1.0],
    }  # fmt: skip
    np.testing.assert_array_equal(counts, result.counts)


def test_flags_for_views():
    assert predict.TTA(*door.parse_tta(None)) == predict.TTA()
    assert predict.TTA(*door.parse_tta("1.25,flip,0.75")) == predict.TTA(True, (0.75, 1.0, 1.25))
    for bad in ("mirror", "9", "flip,,1", "nan"):
        with pytest.raises(InputError, match="is neither flip nor a size"):
            door.parse_tta(bad)
    with pytest.raises(InputError, match="go with --resolution native"):
        door.main(["run", "--tta", "flip"])
    with pytest.raises(InputError, match="--batch-size 0"):
        door.main(["run", "--batch-size", "0"])


class _Oracle:
    """Predicts background everywhere, or the mask that the picture's first channel shows."""

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
    canvases = loader.cached(jax.device_put(batches.resized(examples, (32, 32))))
    program = evaluate.make_program(_Oracle(perfect), 3, None, 0)
    ids = [e.id for e in examples]
    result = evaluate.evaluate(program, {}, canvases, ids, fakes.CLASSES, 2)
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
