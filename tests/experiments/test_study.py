"""The studies of the recipes: which runs they make, what they compare, what they write."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import paper, reproduce, run, study, tuned
from experiments.cli import command, sweep
from experiments.cli import flags as options
from fcn_jax import config as configs
from fcn_jax.analysis import notebook
from fcn_jax.data import prepare
from fcn_jax.training import trainer
from fcn_jax.types import InputError
from tests import fakes


@pytest.fixture
def small(monkeypatch):
    """The base recipe stands for a network and a data set that take seconds."""
    monkeypatch.setattr(tuned, "base", lambda arch: fakes.config(**{"data.batch_size": 2}))
    monkeypatch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
    monkeypatch.setattr(command, "setup_jax", lambda **_: None)


@pytest.mark.usefixtures("tiny", "small")
def test_an_ablation_compares_every_change_with_the_base(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(study.SHARED, "batches of 16", {"data.batch_size": 16})
    argv = ["ablation", "--epochs", "1", "--seeds", "0,1", "--workdir", str(tmp_path)]
    argv += ["--only", "scale jitter 0.5 to 2", "batches of 16", study.BASE]
    assert study.main(argv) == 0
    out = capsys.readouterr()
    # The fake data set has 8 images: a variant that cannot be made leaves the others standing.
    for seed in (0, 1):
        reason = "--batch-size 16: training has 8 images"
        assert f"batches of 16, seed {seed}, was not run: {reason}" in out.err
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in table["metrics"]["miou"]] == [
        study.BASE,
        "scale jitter 0.5 to 2",
    ]
    assert [row["n"] for row in table["metrics"]["miou"]] == [2, 2]
    assert [(p["a"], p["b"]) for p in table["pairs"]] == [("scale jitter 0.5 to 2", study.BASE)]
    assert table["command"].startswith("python -m experiments.study ablation --epochs 1")
    folders = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert {
        "base-seed0",
        "base-seed1",
        "scale-jitter-0-5-to-2-seed0",
        "scale-jitter-0-5-to-2-seed1",
    } <= folders
    assert "augment.scale_jitter: None -&gt; [0.5, 2.0]" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(trainer.Trainer, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert study.main(argv) == 0
    # What is archived without its checkpoints still has its numbers; what is missing is left out.
    for folder in tmp_path.glob("*/checkpoints"):
        shutil.rmtree(folder)
    (tmp_path / "base-seed1" / "result.json").unlink()
    assert study.main([*argv, "--finished"]) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["n"] for row in table["metrics"]["miou"]] == [1, 2]
    assert [(p["a"], p["b"]) for p in table["pairs"]] == [("scale jitter 0.5 to 2", study.BASE)]


@pytest.mark.usefixtures("tiny", "small")
def test_a_seed_that_fails_leaves_the_others_standing(tmp_path, capsys, monkeypatch):
    train = notebook.train

    def failing(config, *arguments, **options):
        if config.seed == 1:
            raise InputError("the loss is not finite")
        return train(config, *arguments, **options)

    monkeypatch.setattr(notebook, "train", failing)
    argv = ["ablation", "--epochs", "1", "--seeds", "0,1,2", "--only", study.BASE]
    assert study.main([*argv, "--workdir", str(tmp_path)]) == 0
    assert "base, seed 1, was not run: the loss is not finite" in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "table.json").read_text())["metrics"]["miou"]
    assert row["n"] == 2


def test_variants_that_change_nothing_are_left_out(monkeypatch):
    planned = []
    opened = sweep.Sweep(fakes.dataset(), Path("unused"), [0], {}, 1, True, "")
    monkeypatch.setattr(sweep, "open_sweep", lambda *_: opened)

    def stop(specs, _):
        planned.extend(specs)
        raise InputError("enough")

    monkeypatch.setattr(sweep, "run", stop)
    with pytest.raises(InputError, match="enough"):
        study.main(["ablation", "--batch-size", "4", "--epochs", "2"])
    base, *variants = [spec.config for spec in planned]
    assert base.epochs == 2
    assert variants
    assert base not in variants
    assert len({repr(config) for config in variants}) == len(variants)
    assert not {"batches of 4", "twice the epochs"} & {spec.name for spec in planned}


@pytest.mark.parametrize("arch", tuned.KEPT)
def test_a_line_changes_what_it_says_and_no_more(arch):
    base, *variants = study.ablation(arch)
    assert (base.name, base.config) == (study.BASE, tuned.base(arch))
    special = study.SCRATCH if base.config.model.pretrained is None else study.TRANSFER
    assert [plan.name for plan in variants] == [*special, *study.SHARED]
    for plan in variants:
        changes = {**special, **study.SHARED}[plan.name]
        found = {line.split(":")[0] for line in configs.differences(base.config, plan.config)}
        assert found == set(changes)


def test_networks_are_compared_with_the_papers_recipe():
    plans = {plan.name: plan.config for plan in study.networks()}
    assert list(plans)[:2] == ["fcn, paper", "fcn, tuned"]
    assert len(plans) == len(tuned.KEPT) + len(study.PAPER)
    for name, config in plans.items():
        arch, kind = name.split(", ")
        assert config.model.arch == arch
        assert (config.experiment in paper.EXPERIMENTS) == (kind == "paper")
    assert plans["fcn, paper"] == paper.weighted()
    assert plans["unet, tuned"] == tuned.EXPERIMENTS["tuned_unet"]()
    assert study.compared("networks", ["unet, paper", "unet, tuned", "fcn, paper"]) == [
        ("unet, tuned", "unet, paper")
    ]


def test_without_imagenet_the_backbone_learns_like_the_rest():
    args_none = reproduce.parser().parse_args(["--pretrained", "none"])
    for config in (paper.resnet50(), tuned.tuned("resnet50_fcn")):
        found = sweep.adapted(config, args_none)
        assert (found.model.pretrained, found.optim.backbone_scale) == (None, 1.0)
        assert not found.model.freeze_bn
    assert sweep.adapted(paper.unet(), args_none) == paper.unet()
    args = run.parser().parse_args(["--experiment", "resnet50", "--pretrained", "none"])
    assert options.to_config(args) == sweep.adapted(paper.resnet50(), args_none)
    args = reproduce.parser().parse_args(["--pretrained", "file.pth"])
    assert sweep.adapted(paper.resnet50(), args).model.pretrained == "file.pth"


def test_an_unknown_line_is_refused():
    with pytest.raises(InputError, match="--only 'nothing': choose one of"):
        study.main(["networks", "--only", "nothing"])
