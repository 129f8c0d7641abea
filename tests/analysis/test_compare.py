"""Which runs are one line of a comparison, and what the lines are called."""

import dataclasses
import json

import pytest

from fcn_jax import config as configs
from fcn_jax.analysis import compare
from fcn_jax.training import evaluate
from fcn_jax.types import InputError
from tests import fakes


@pytest.fixture
def make(tmp_path):
    def run(name, seed=0, lr=0.1, **loss):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        data = configs.to_dict(configs.replace(configs.Config(seed=seed), **{"optim.lr": lr}))
        data["loss"] |= loss
        (folder / "config.json").write_text(json.dumps(data))
        return folder

    return run


def lines(folders):
    return [(entry.name, [f.name for f in entry.folders]) for entry in compare.group(folders)]


def test_runs_that_differ_in_the_seed_are_one_line(make):
    found = lines([make("x-seed0"), make("x-seed1", seed=1), make("y-seed0", lr=0.2)])
    assert found == [("x", ["x-seed0", "x-seed1"]), ("y-seed0", ["y-seed0"])]


def test_a_setting_that_the_network_has_no_use_for_makes_no_other_line(make):
    runs = [make("x-seed0", aux_weight=0.0), make("x-seed1", seed=1, aux_weight=0.4)]
    assert lines(runs) == [("x", ["x-seed0", "x-seed1"])]
    assert len(lines([make("a/run"), make("b/run", dice=1.0)])) == 2


def test_folders_of_one_name_keep_a_line_each_with_a_label_of_its_own(make):
    folders = [make("a/run"), make("b/run", lr=0.2), make("other", lr=0.3)]
    assert [name for name, _ in lines(folders)] == ["a/run", "b/run", "other"]
    folders = [make("c/z/run", lr=0.4), make("d/z/run", lr=0.5)]
    assert [name for name, _ in lines(folders)] == ["c/z/run", "d/z/run"]


def test_the_same_seed_again_is_no_other_seed(make):
    found = lines([make("a/run"), make("b/run")])
    assert found == [("a/run", ["run"]), ("b/run", ["run"])]


def test_a_folder_given_twice_is_refused(make):
    folder = make("run")
    with pytest.raises(InputError, match="given twice"):
        compare.group([folder, folder.parent / "." / "run"])


def test_two_entries_of_one_name_are_refused(make):
    folder = make("run")
    twice = [compare.Entry("same", [folder]), compare.Entry("same", [folder])]
    with pytest.raises(InputError, match="'same' names two entries"):
        compare._check(twice, fakes.dataset())


def test_a_data_set_of_other_classes_is_refused(make):
    result = evaluate.evaluate_native(fakes.checkpoint(), fakes.dataset().splits["val"])
    folder = make("run")
    evaluate.save(result._replace(method=None), folder)
    compare._check([compare.Entry("run", [folder])], fakes.dataset())
    other = dataclasses.replace(fakes.dataset(), class_names=("sky", "land", "sea"))
    with pytest.raises(InputError, match=r"has 3 classes \(sky, land, sea, \.\.\.\), .*run 3 \("):
        compare._check([compare.Entry("run", [folder])], other)
