"""Dividing a train split: exact sizes, every class in both parts, the same each time."""

import numpy as np
import pytest

from fcn_jax.data import subset
from fcn_jax.types import VOID, Example, InputError


def test_rare_classes_reach_both_parts():
    ids = [f"im{i:03d}" for i in range(100)]
    # Class 0 everywhere, class 1 in every second image, class 2 in 4, class 3 in 2 of the images.
    classes = [
        frozenset({0, *({1} if i % 2 else ()), *({2} if i < 4 else ()), *({3} if i > 97 else ())})
        for i in range(100)
    ]
    train, held = subset.stratify(ids, classes, 0.75)
    assert (len(train), len(held)) == (75, 25)
    assert sorted(train + held) == list(range(100))
    count = lambda part, c: sum(c in classes[i] for i in part)
    assert (count(train, 2), count(held, 2)) == (3, 1)
    assert (count(train, 3), count(held, 3)) in {(1, 1), (2, 0)}
    assert abs(count(train, 1) - 37.5) <= 1


def test_the_division_does_not_depend_on_the_order_of_the_images():
    ids = [f"im{i:03d}" for i in range(40)]
    classes = [frozenset({0, i % 3}) for i in range(40)]
    train, _ = subset.stratify(ids, classes, 0.6)
    backwards, _ = subset.stratify(ids[::-1], classes[::-1], 0.6)
    assert [ids[i] for i in train] == sorted(ids[::-1][i] for i in backwards)


def test_images_that_are_void_everywhere_are_divided_too():
    train, held = subset.stratify("abcd", [frozenset()] * 4, 0.5)
    assert (len(train), len(held)) == (2, 2)


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.5), (4, 0.95), (4, 0.05)])
def test_an_empty_part_is_refused(count, fraction):
    with pytest.raises(InputError, match=f"data.split_train={fraction}: divides {count} images"):
        subset.stratify([str(i) for i in range(count)], [frozenset({0})] * count, fraction)


def test_void_is_no_class_and_examples_are_decoded_on_access():
    seen = []

    class Recorder(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    mask = lambda i: np.array([[0, i % 2, VOID]], np.uint8)
    made = Recorder(Example(str(i), np.full((1, 3, 3), i, np.uint8), mask(i)) for i in range(8))
    train, held = subset.split_train(made, 0.5)
    assert sorted(seen) == list(range(8))
    assert sorted(int(e.image[0, 0, 0]) for e in [*train, *held]) == list(range(8))
    assert [e.mask[0, 1] for e in train].count(1) == 2
    assert [e.id for e in train[1:3]] == [train[1].id, train[2].id]
