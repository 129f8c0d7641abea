"""The studies of the recipes: which runs they make, what they compare, what they write."""

import json

import pytest

from experiments import paper, reproduce, run, study, tuned
from experiments.cli import command, sweep
from experiments.cli import flags as options
from fcn_jax import config as configs
from fcn_jax.data import prepare
from fcn_jax.training import loop
from fcn_jax.types import InputError
from tests import fakes


@pytest.fixture
def small(monkeypatch):
    """The FCN's recipe stands for a network and a data set that take seconds."""
    made = lambda: fakes.config(experiment="tuned_fcn", **{"data.batch_size": 2})
    monkeypatch.setitem(tuned.EXPERIMENTS, "tuned_fcn", made)
    monkeypatch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
    monkeypatch.setattr(command, "setup_jax", lambda **_: None)


@pytest.mark.usefixtures("tiny", "small")
def test_an_ablation_compares_every_variant_with_the_candidate(tmp_path, capsys, monkeypatch):
    argv = ["ablation", "--epochs", "1", "--seeds", "0,1", "--workdir", str(tmp_path)]
    argv += ["--only", "+ scale jitter", "batches of 16", study.CANDIDATE]
    assert study.main(argv) == 0
    out = capsys.readouterr()
    # The fake data set has 8 images: a variant that cannot be made leaves the others standing.
    assert "batches of 16 was not run: --batch-size 16: training has 8 images" in out.err
    table = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in table["metrics"]["miou"]] == [
        study.CANDIDATE,
        "+ scale jitter",
    ]
    assert [row["n"] for row in table["metrics"]["miou"]] == [2, 2]
    assert [(p["a"], p["b"]) for p in table["pairs"]] == [("+ scale jitter", study.CANDIDATE)]
    assert table["command"].startswith("python -m experiments.study ablation --epochs 1")
    folders = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert {
        "the-candidate-seed0",
        "the-candidate-seed1",
        "scale-jitter-seed0",
        "scale-jitter-seed1",
    } <= folders
    assert "augment.scale_jitter: None -&gt; [0.8, 1.5]" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(loop._Run, "train_epoch", lambda *_: pytest.fail("trained again"))
    assert study.main(argv) == 0


def test_variants_that_change_nothing_are_left_out(monkeypatch):
    planned = []
    monkeypatch.setattr(sweep, "open_sweep", lambda *_: None)

    def stop(plans, _):
        planned.extend(plans)
        raise InputError("enough")

    monkeypatch.setattr(sweep, "run", stop)
    with pytest.raises(InputError, match="enough"):
        study.main(["ablation", "--batch-size", "16", "--epochs", "2"])
    candidate, *variants = [plan.config for plan in planned]
    assert candidate.epochs == 2
    assert variants
    assert candidate not in variants
    assert "batches of 16" not in [plan.name for plan in planned]


@pytest.mark.parametrize("arch", study.PAPER)
def test_every_variant_fits_every_recipe(arch):
    candidate, theirs, kept, *variants = study.ablation(arch)
    recipe = tuned.EXPERIMENTS[f"tuned_{arch}"]()
    assert kept.config == recipe
    assert theirs.config == paper.EXPERIMENTS[study.PAPER[arch]]()
    assert recipe.model.arch == arch
    assert [plan.name for plan in [kept, *variants]] == list(study.ABLATION)
    for plan in variants:
        changes = study.ABLATION[plan.name]
        found = {line.split(":")[0] for line in configs.differences(candidate.config, plan.config)}
        assert found <= set(changes)


def test_networks_are_compared_with_the_papers_recipe():
    plans = {plan.name: plan.config for plan in study.networks()}
    assert list(plans)[:2] == ["fcn, paper", "fcn, tuned"]
    assert len(plans) == 8
    for name, config in plans.items():
        arch, kind = name.split(", ")
        assert config.model.arch == arch
        assert (config.experiment in paper.EXPERIMENTS) == (kind == "paper")
    assert plans["fcn, paper"] == paper.weighted()
    assert study.compared("networks", ["unet, paper", "unet, tuned", "fcn, paper"]) == [
        ("unet, tuned", "unet, paper")
    ]


def test_without_imagenet_the_backbone_learns_like_the_rest():
    args_none = reproduce.parser().parse_args(["--pretrained", "none"])
    for config in (paper.resnet50(), tuned.tuned_resnet50_fcn()):
        found = sweep.adapted(config, args_none)
        assert (found.model.pretrained, found.optim.backbone_scale) == (None, 1.0)
    assert sweep.adapted(paper.unet(), args_none) == paper.unet()
    args = run.parser().parse_args(["--experiment", "resnet50", "--pretrained", "none"])
    assert options.to_config(args) == sweep.adapted(paper.resnet50(), args_none)
    args = reproduce.parser().parse_args(["--pretrained", "file.pth"])
    assert sweep.adapted(paper.resnet50(), args).model.pretrained == "file.pth"


def test_an_unknown_line_is_refused():
    with pytest.raises(InputError, match="--only 'nothing': choose of"):
        study.main(["networks", "--only", "nothing"])
