import numpy as np
import pytest

from fcn_jax.analysis.bootstrap import paired_bootstrap
from fcn_jax.types import InputError

RIGHT = [[2, 0], [0, 2], [0, 0]]
"""One image, two pixels of each class, all right (rows: truth, the last void)."""
BLIND = [[2, 0], [2, 0], [0, 0]]
"""The same image, all predicted as class 0."""


def counts(*images):
    return np.array(images, np.int64)


def test_two_pictures_by_hand():
    # Drawn twice, the first image: A has mIoU 1, B (2/4 + 0/2) / 2 = 0.25; so +0.75, and -0.75
    # for the second image. Both images once: the two networks are equal.
    test = paired_bootstrap(counts(RIGHT, BLIND), counts(BLIND, RIGHT), samples=2000)
    assert test.difference == 0
    assert test.low == pytest.approx(-0.75)
    assert test.high == pytest.approx(0.75)
    assert test.p == 1.0


def test_difference_is_that_of_the_summed_counts_not_of_single_pictures():
    # A: class 0 4/6, class 1 2/4. B: class 0 4/8, class 1 0/4.
    test = paired_bootstrap(counts(RIGHT, BLIND), counts(BLIND, BLIND), samples=10)
    assert test.difference == pytest.approx((4 / 6 + 2 / 4) / 2 - (4 / 8 + 0) / 2)


def test_always_better_is_as_sure_as_the_number_of_samples_allows():
    test = paired_bootstrap(counts(*[RIGHT] * 5), counts(*[BLIND] * 5), samples=999)
    assert test == pytest.approx((0.75, 0.75, 0.75, 2 / 1000))


def test_swapping_the_networks_swaps_the_sign():
    generator = np.random.default_rng(0)
    a = counts(*[RIGHT if x else BLIND for x in generator.random(30) < 0.7])
    b = counts(*[RIGHT if x else BLIND for x in generator.random(30) < 0.5])
    one, two = paired_bootstrap(a, b, 500, seed=3), paired_bootstrap(b, a, 500, seed=3)
    assert one.difference == pytest.approx(-two.difference)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert one.p == two.p
    assert one.low < one.difference < one.high


def test_equal_networks_never_differ():
    a = counts(RIGHT, BLIND, RIGHT)
    assert paired_bootstrap(a, a, samples=50) == (0, 0, 0, 1)


def test_void_does_not_count():
    a, b = counts(RIGHT, BLIND), counts(BLIND, BLIND)
    with_void_a, with_void_b = a.copy(), b.copy()
    with_void_a[:, 2], with_void_b[:, 2] = [3, 4], [7, 0]
    assert paired_bootstrap(with_void_a, with_void_b, 100) == paired_bootstrap(a, b, 100)


def test_class_absent_from_truth_and_prediction_is_left_out_of_the_mean():
    wide = np.zeros((1, 4, 3), np.int64)
    wide[0, :2, :2] = RIGHT[:2]
    blind = np.zeros((1, 4, 3), np.int64)
    blind[0, :2, :2] = BLIND[:2]
    assert paired_bootstrap(wide, blind, 5).difference == pytest.approx(0.75)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Images are right with chance 0.6 (A) and 0.4 (B), two classes of equal size: the difference
    # of a large split tends to that of the summed counts.
    def miou(right):
        return (1 / (2 - right) + right) / 2

    generator, inside = np.random.default_rng(1), 0
    for trial in range(100):
        drawn = generator.random((2, 60))
        a = counts(*[RIGHT if x else BLIND for x in drawn[0] < 0.6])
        b = counts(*[RIGHT if x else BLIND for x in drawn[1] < 0.4])
        test = paired_bootstrap(a, b, 300, seed=trial)
        inside += test.low <= miou(0.6) - miou(0.4) <= test.high
    assert 86 <= inside <= 100


def test_blocks_of_samples_do_not_change_the_number_of_samples():
    test = paired_bootstrap(counts(RIGHT), counts(BLIND), samples=2500)
    assert test.p == pytest.approx(2 / 2501)


def test_counts_of_other_pictures_are_refused_and_named():
    other = counts(RIGHT, [[3, 0], [0, 1], [0, 0]])
    with pytest.raises(InputError, match="row 1"):
        paired_bootstrap(counts(RIGHT, RIGHT), other)


def test_networks_evaluated_at_different_sizes_can_be_compared():
    a, b = counts(RIGHT, BLIND, RIGHT), counts(BLIND, RIGHT, BLIND)
    assert paired_bootstrap(4 * a, b, 100) == paired_bootstrap(a, b, 100)
    resized = 4 * b + counts([[1, 0], [0, 0], [0, 0]])  # at the edges a pixel more or less
    paired_bootstrap(a, resized, 10)
    other = counts(*resized[:2], [[12, 0], [4, 0], [0, 0]])
    with pytest.raises(InputError, match="row 2"):
        paired_bootstrap(a, other, 10)


@pytest.mark.parametrize(
    ("a", "b", "samples", "message"),
    [
        (np.zeros((2, 3, 2)), np.zeros((3, 3, 2)), 10, r"\(2, 3, 2\) and \(3, 3, 2\)"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), 10, r"K\+1"),
        (np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), 10, "N > 0"),
        (np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), 0, "samples is 0"),
    ],
)
def test_bad_input_says_what_was_found(a, b, samples, message):
    with pytest.raises(InputError, match=message):
        paired_bootstrap(a, b, samples)
