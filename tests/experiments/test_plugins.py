"""A network, loss, optimizer and augmentation from outside, through the commands only."""

import json
import re
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

from experiments import compare, evaluate, export, predict, run, study, tuned
from experiments.cli import command
from fcn_jax import config as configs
from fcn_jax import optim
from fcn_jax.analysis import run_report
from fcn_jax.config import OptimConfig, plugins
from fcn_jax.data import prepare
from fcn_jax.models import registry
from fcn_jax.training import loop, trainer
from fcn_jax.types import InputError
from tests import fakes, plugin_example

MODULE = "tests.plugin_example"
FLAGS = [
    "--arch", f"{MODULE}:Net", "--loss", f"{MODULE}:squared_error",
    "--optimizer", f"{MODULE}:slow_sgd", "--augment", f"{MODULE}:darken",
    "--dataset", "fake", "--image-size", "32", "--batch-size", "4", "--lr", "0.1", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _data_and_no_plugins(monkeypatch):
    monkeypatch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
    monkeypatch.setattr(command, "setup_jax", lambda **_: None)
    monkeypatch.setattr(plugins, "_allowed", set())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was stopped after its first epoch and resumed."""
    folder = tmp_path_factory.mktemp("plugins") / "run"
    flags = [*FLAGS, "--epochs", "2", "--workdir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
        patch.setattr(command, "setup_jax", lambda **_: None)
        patch.setattr(plugins, "_allowed", set())
        train_epoch = stop_in_the_second_epoch(trainer.Trainer.train_epoch)
        patch.setattr(trainer.Trainer, "train_epoch", train_epoch)
        assert run.main(flags) == 0
        assert not (folder / "result.json").exists()
        patch.undo()
        patch.setattr(prepare, "load", lambda *_, **__: fakes.dataset())
        patch.setattr(command, "setup_jax", lambda **_: None)
        patch.setattr(plugins, "_allowed", set())
        assert run.main(flags) == 0
    return folder


def stop_in_the_second_epoch(train_epoch):
    def stopping(self):
        if self.progress.epoch == 1:
            self.saver.wait()
            raise loop.Interrupted("stopped after epoch 1")
        train_epoch(self)

    return stopping


def test_the_configuration_remembers_the_names(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["model"]["arch"] == f"{MODULE}:Net"
    assert config["loss"]["function"] == f"{MODULE}:squared_error"
    assert config["optim"]["name"] == f"{MODULE}:slow_sgd"
    assert config["augment"]["function"] == f"{MODULE}:darken"
    assert json.loads((trained / "result.json").read_text())["epochs_run"] == 2


def test_evaluate_and_predict_with_the_module_named_again(trained, tmp_path, capsys):
    assert evaluate.main([str(trained), "--plugin", MODULE]) == 0
    Image.fromarray(fakes.example(0).image).save(tmp_path / "photo.png")
    image, out = str(tmp_path / "photo.png"), str(tmp_path / "out")
    assert predict.main([str(trained), image, "--out", out, "--plugin", MODULE]) == 0
    assert np.asarray(Image.open(tmp_path / "out/photo.png")).shape == (40, 48)
    page = str(tmp_path / "page")
    assert compare.main([str(trained), "--out", page, "--plugin", MODULE]) == 0


@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "safetensors"])
def test_export_with_the_module_named_again(kind, trained, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    out = str(tmp_path / "net")
    assert export.main([str(trained), "--format", kind, "--out", out, "--plugin", MODULE]) == 0


def test_a_study_of_a_network_from_outside(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuned, "base", lambda arch: fakes.config(**{"model.arch": arch}))
    flags = ["--only", "base", "--epochs", "1", "--workdir", str(tmp_path)]
    assert study.main(["ablation", "--arch", f"{MODULE}:Net", *flags]) == 0
    config = json.loads((tmp_path / "base-seed0" / "config.json").read_text())
    assert config["model"]["arch"] == f"{MODULE}:Net"
    with pytest.raises(InputError, match="fnc: unknown network: choose one of fcn"):
        study.main(["ablation", "--arch", "fnc", *flags])


@pytest.mark.parametrize("main", [evaluate.main, predict.main, export.main, compare.main])
def test_a_run_folder_imports_nothing_by_itself(main, trained, tmp_path, capsys):
    Image.fromarray(fakes.example(0).image).save(tmp_path / "photo.png")
    more = {
        predict.main: [str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")],
        export.main: ["--format", "onnx", "--out", str(tmp_path / "out")],
        compare.main: ["--out", str(tmp_path / "out")],
    }
    with pytest.raises(SystemExit) as left:
        command.run(lambda _: main([str(trained), *more.get(main, [])]))
    assert left.value.code == 2
    assert re.fullmatch(
        rf"error: --plugin {MODULE}: .* is code from outside .*: name its module here, .*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", f"{MODULE}:Half"], r"--arch .*:Half: cannot be used: it returns "
         r"float32\[2, 16, 16, 3\] for images of float32\[2, 32, 32, 3\], not float32\[2, 32, 32"),
        (["--arch", f"{MODULE}:Untrainable"], "it raises TypeError"),
        (["--arch", f"{MODULE}:number"], "it makes int, not a Flax Linen module"),
        (["--arch", f"{MODULE}:squared_error"], "--arch .*: cannot be made .*missing"),
        (["--arch", f"{MODULE}:Nothing"], f"--plugin {MODULE}: the module has no Nothing"),
        (["--loss", f"{MODULE}:a_constant"], "a_constant cannot be called"),
        (["--arch", "no_such_module:Net"], "--plugin no_such_module: cannot be imported"),
        (["--optimizer", "lion"], "--optimizer lion: choose one of adam.* or give module:name"),
        (["--optimizer", f"{MODULE}:number"], "--optimizer .*: returns .*not an optax"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(flags, message, tmp_path, capsys):
    small = ["--dataset", "fake", "--image-size", "32", "--batch-size", "4", "--quiet"]
    with pytest.raises(SystemExit) as left:
        command.run(lambda _: run.main([*small, "--workdir", str(tmp_path / "run"), *flags]))
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0])


class Widths(nn.Module):
    """Logits of two classes too many."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Conv(self.num_classes + 2, (1, 1))(images)


class Nothing(nn.Module):
    """No parameters."""

    num_classes: int

    def __call__(self, images, train=False):
        return images


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Widths, r"it returns float32\[2, 32, 32, 5\] .*, not float32\[2, 32, 32, 3\]"),
        (Nothing, "its parameters must be floating-point arrays, at least one"),
    ],
)
def test_a_registered_network_is_checked_as_well(net, message, monkeypatch, tmp_path):
    monkeypatch.setitem(registry.MODELS, "mine", registry.Network(net))
    config = fakes.config(**{"model.arch": "mine"})
    with pytest.raises(InputError, match=message):
        loop.train(config, fakes.dataset(), tmp_path / "run", loop.Runtime(show=False))


def test_the_page_shows_what_ones_own_augmentation_makes():
    plugins.allow(MODULE)
    augment = configs.AugmentConfig(function=f"{MODULE}:darken")
    config = configs.replace(fakes.config(), augment=augment)
    train = fakes.dataset().splits["train"]
    plain = run_report.training_images(fakes.config(), train)
    darker = run_report.training_images(config, train)
    for (image, _), (before, _) in zip(darker, plain, strict=True):
        assert image.mean() < before.mean()


def test_optax_is_at_hand():
    plugins.allow("optax")
    rule = optim.make_optimizer(OptimConfig(name="optax:lion", lr=0.5, weight_decay=0.0), 10)
    params = {"w": np.float32(1.0)}
    updates: Any = rule.update({"w": np.float32(3.0)}, rule.init(params), params)[0]
    assert float(updates["w"]) == -0.5  # lion moves by the sign of the gradient


def test_only_what_was_allowed_is_found():
    with pytest.raises(InputError, match=r"plugin=os: os:abort is code from outside"):
        plugins.find("os:abort")
    plugins.allow(MODULE)
    assert plugins.find(f"{MODULE}:darken") is plugin_example.darken
