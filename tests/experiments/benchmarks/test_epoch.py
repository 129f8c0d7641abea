"""The epoch's parts are all timed, on images of the sizes and the number that were given."""

import pytest

from experiments.benchmarks import epoch, tables
from experiments.cli import flags
from fcn_jax import config as configs


def test_the_stand_in_has_vocs_sizes_and_numbers():
    dataset = epoch.stand_in({"train": 5, "val": 2})
    assert {split: len(examples) for split, examples in dataset.splits.items()} == {
        "train": 5,
        "val": 2,
    }
    shapes = [example.mask.shape for example in dataset.splits["train"]]
    assert shapes == [(375, 500), (375, 500), (500, 375), (333, 500), (375, 500)]
    assert epoch.COUNTS == {"train": 209, "val": 213}


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["device", "host"])
@pytest.mark.usefixtures("tiny")
def test_every_part_of_an_epoch_is_timed(cache):
    changes = {"model.arch": "tiny", "data.image_size": (32, 32), "data.batch_size": 2}
    config = configs.replace(flags.EXPERIMENTS["default"](), **changes)
    dataset = epoch.stand_in({"train": 5, "val": 3}, shapes=((40, 48), (36, 40)))
    found = epoch.measure(config, dataset, cache)
    for split in ("train", "val"):
        assert set(found[split]) == {"compute", "input", "whole"}
        assert all(seconds > 0 for seconds in found[split].values())


def test_the_table_says_how_much_longer_the_whole_takes():
    part = {"whole": 3.0, "compute": 2.0, "input": 0.5}
    table = tables.epoch_table({"fcn": {"train": part}})
    assert table.splitlines()[-1] == "| fcn | train | 3.00 s | 2.00 s | 500 ms | 1.500 |"
