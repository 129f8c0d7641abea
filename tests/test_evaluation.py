"""Judging at the labels' own size: exact counts, the prediction's own code path, views."""

import numpy as np
import pytest

from experiments import evaluate as door
from fcn_jax import evaluation, inference, metrics
from fcn_jax.types import VOID, InputError
from tests import fakes


@pytest.fixture(scope="module")
def restored():
    return fakes.checkpoint()


@pytest.mark.parametrize("scale", inference.SCALES)
def test_every_labelled_pixel_counts_once(restored, scale):
    examples = [fakes.example(i, 40 + i, 50 + 3 * i) for i in range(3)]
    ticks = []
    result = evaluation.evaluate_native(
        restored, examples, "val", scale, tick=lambda: ticks.append(1)
    )
    assert result.summary["pixels"] == sum(int((e.mask != VOID).sum()) for e in examples)
    assert result.counts.sum() == sum(e.mask.size for e in examples)
    expected = metrics.image_counts(
        examples[2].mask, inference.predict(restored, examples[2].image, scale), 3
    )
    np.testing.assert_array_equal(result.counts[2], expected)
    assert result.ids == ("000000", "000001", "000002")
    assert len(ticks) == 3
    assert result.summary["loss"] is None
    assert result.perfect["miou"] == 1


def test_views_change_the_prediction_and_are_recorded(restored, tmp_path):
    examples = [fakes.example(0)]
    tta = door.parse_tta("flip,0.5")
    result = evaluation.evaluate_native(restored, examples, "test", "native", tta)
    mask = inference.probabilities(restored, examples[0].image, "native", tta).argmax(-1)
    np.testing.assert_array_equal(result.counts[0], metrics.image_counts(examples[0].mask, mask, 3))
    path = evaluation.save(result, tmp_path)
    assert path.name == "eval-test-native.json"
    data, counts, _ = evaluation.load(tmp_path, "test-native")
    assert data["method"] == {
        "resolution": "native", "scale": "native", "flip": True, "factors": [0.5, 1.0],
    }  # fmt: skip
    np.testing.assert_array_equal(counts, result.counts)


def test_flags_for_views():
    assert door.parse_tta(None) == inference.TTA()
    assert door.parse_tta("1.25,flip,0.75") == inference.TTA(True, (0.75, 1.0, 1.25))
    for bad in ("mirror", "9", "flip,,1", "nan"):
        with pytest.raises(InputError, match="is neither flip nor a size"):
            door.parse_tta(bad)
    with pytest.raises(InputError, match="go with --resolution native"):
        door.main(["run", "--tta", "flip"])
    with pytest.raises(InputError, match="--batch-size 0"):
        door.main(["run", "--batch-size", "0"])
