"""The released scripts' departures from the paper's text: each does what it says."""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import paper, released, reproduce
from experiments.cli import command, sweep
from fcn_jax import config as configs
from fcn_jax import optim
from fcn_jax.data import batches, prepare
from fcn_jax.models import MODELS, create_model
from fcn_jax.models.fcn import FCN
from fcn_jax.types import VOID
from tests import fakes

# Other tests go through all networks: these are known to the tests here only.
NETWORKS = {name: MODELS.pop(name) for name in [*MODELS] if name.startswith("released_")}


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    assert len(NETWORKS) == 3
    for name, network in NETWORKS.items():
        monkeypatch.setitem(MODELS, name, network)


def _train(model, variables, images):
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    return jax.jit(apply)(variables, images)


def test_training_images_are_not_normalised_and_those_of_validation_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    theirs, ours = released.UnnormalisedFCN(3, width=2), FCN(3, width=2)
    variables = jax.jit(ours.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    normalised, plain = batches.normalize(images), images.astype(np.float32) / 255
    got, _ = _train(theirs, variables, normalised)
    np.testing.assert_allclose(got, _train(ours, variables, plain)[0], atol=2e-3)
    assert np.abs(got - _train(ours, variables, normalised)[0]).max() > 0.1
    np.testing.assert_array_equal(
        theirs.apply(variables, normalised), ours.apply(variables, normalised)
    )


def test_a_stage_of_the_u_net_has_one_batch_norm():
    model = create_model("released_unet", 21)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    sizes = jax.tree.map(lambda leaf: leaf.size, shapes["params"])
    assert sum(jax.tree.leaves(sizes)) == 31_038_933
    assert set(shapes["params"]["bottleneck"]) == {"conv1", "conv2", "bn"}


def test_both_convolutions_move_the_shared_statistics():
    stage = released.SharedNormDoubleConv(2)
    x = jnp.asarray(np.random.default_rng(1).normal(3, 2, (2, 6, 6, 2)), jnp.float32)
    variables = jax.jit(stage.init, static_argnums=2)(jax.random.key(0), x, False)
    new: Any = stage.apply(variables, x, True, mutable=["batch_stats"])[1]

    def layer(x, name):
        kernel, bias = (np.asarray(variables["params"][name][k]) for k in ("kernel", "bias"))
        y = jax.lax.conv_general_dilated(
            x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return np.asarray(y) + bias

    first = layer(x, "conv1")
    normal = (first - first.mean((0, 1, 2))) / np.sqrt(first.var((0, 1, 2)) + 1e-5)
    second = layer(np.maximum(normal, 0), "conv2")
    mean = 0.1 * first.mean((0, 1, 2))  # from 0, by PyTorch's momentum; then the second
    mean += 0.1 * (second.mean((0, 1, 2)) - mean)
    np.testing.assert_allclose(new["batch_stats"]["bn"]["mean"], mean, atol=1e-4)


def test_the_statistics_of_a_backbone_with_a_rate_of_zero_move_and_its_weights_do_not():
    [spec] = _specs("resnet50")
    options = {"freeze_backbone": True, "backbone": "resnet18", "width": 2}
    model = create_model(spec.config.model.arch, 3, **options)
    images = jnp.asarray(np.random.default_rng(2).normal(1, 2, (2, 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, new = _train(model, variables, images)
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b),
        variables["batch_stats"]["backbone"],
        new["batch_stats"]["backbone"],
    )
    assert all(jax.tree.leaves(moved))

    optimizer = optim.make_optimizer(spec.config.optim, 10)
    params = {name: {"kernel": jnp.ones(1)} for name in ("backbone", "classifier")}
    updates: Any = optimizer.update(params, optimizer.init(params), params)[0]
    assert updates["backbone"]["kernel"] == 0
    np.testing.assert_allclose(
        updates["classifier"]["kernel"], -1e-2, rtol=1e-4
    )  # Adam's first step: lr


@pytest.mark.parametrize(("name", "labels"), [("weighted", {0}), ("weighted_cast", {0, 1})])
def test_labels_are_lost_in_training_only(name, labels):
    plain = fakes.dataset()
    lost = released.EXPERIMENTS[name].adapt(plain)
    before, after = plain.splits["train"][0], lost.splits["train"][0]
    assert (after.id, set(np.unique(after.mask))) == (before.id, labels)
    np.testing.assert_array_equal(after.mask == 1, (before.mask == VOID) & (1 in labels))
    assert set(np.unique(lost.splits["train"][1:3][0].mask)) == labels
    assert lost.splits["val"] == plain.splits["val"]


def _specs(*names):
    args = reproduce.parser().parse_args(["--released"])
    return sweep.chosen(reproduce.released_specs(args), list(names) or None)


def test_what_a_script_changed_is_all_that_differs_from_the_text():
    changed = {}
    for spec in _specs():
        assert spec.config.experiment == f"released_{spec.name}"
        text = paper.EXPERIMENTS[spec.name.removesuffix("_cast")]()
        fields = {line.split(":")[0] for line in configs.differences(text, spec.config)}
        changed[spec.name] = fields - {"experiment"}
        assert spec.paper == paper.PAPER[text.experiment]._asdict()
    fast = {"optim.lr", "optim.weight_decay"}
    lost = {"optim.eta_min", "model.arch"}
    assert changed == {
        "cosine": {"optim.eta_min"},
        "augmented": lost,
        "augmented_cast": lost,
        "weighted": lost,
        "weighted_cast": lost,
        "simplified_unet": fast,
        "resnet50": {*fast, "model.arch"},
        "unet": {*fast, "model.arch"},
    }


@pytest.mark.usefixtures("tiny")
def test_one_run_and_then_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
    monkeypatch.setattr(command, "setup_jax", lambda **_: None)
    monkeypatch.setitem(paper.EXPERIMENTS, "weighted", fakes.config)
    script = released.EXPERIMENTS["weighted"]._replace(changes={}, note="labels were lost")
    monkeypatch.setattr(released, "EXPERIMENTS", {"weighted": script})
    argv = ["--released", "--only", "weighted", "--epochs", "2", "--workdir", str(tmp_path)]
    assert reproduce.main(argv) == 0
    written = json.loads((tmp_path / "weighted-seed0" / "config.json").read_text())
    assert written["experiment"] == "released_weighted"
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["metrics"]["paper_iou"][0]["paper"] == 0.0274
    lines = (tmp_path / "weighted-seed0" / "metrics.jsonl").read_text().splitlines()
    for name in ("paper_iou", "paper_pixel_accuracy"):
        values = [json.loads(line)["val"][name] for line in lines]
        assert len(set(values)) == 2
        assert table["best_of_epochs"]["weighted"][name] == [max(values)]
    assert "labels were lost" in (tmp_path / "report.html").read_text()
    assert "weighted" in capsys.readouterr().out
