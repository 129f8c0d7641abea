"""The folder of model.safetensors and config.json: written, read again, and loaded by PyTorch."""

import json

import chex
import jax
import numpy as np
import pytest
from safetensors import safe_open

from experiments import export as command
from fcn_jax.inference import predict
from fcn_jax.models import create_model
from fcn_jax.types import InputError
from fcn_jax.weights import initialize, model_folder
from tests import fakes
from tests.models.variables import random_variables

SPEC = {"name": "simplified_unet", "num_classes": 3, "precision": "f32", "init": "xavier"}
META = {
    "model": {**SPEC, "width": 4},
    "image_size": [32, 48],
    "class_names": list(fakes.CLASSES),
    "palette": [[0, 0, 0], [255, 0, 0], [0, 0, 255]],
    "config": {"data": {"dataset": "/home/someone/photos"}},
}


@pytest.fixture
def saved(tmp_path):
    variables = random_variables(create_model("simplified_unet", 3, width=4))
    variables = {"batch_stats": {}, **variables}
    model_folder.save(tmp_path / "net", variables, META)
    return tmp_path / "net", variables


def test_it_is_read_as_it_was_written(saved):
    folder, variables = saved
    loaded = predict.load_checkpoint(folder)
    chex.assert_trees_all_equal(loaded.variables, variables)
    assert loaded.class_names == fakes.CLASSES
    assert loaded.image_size == (32, 48)
    assert loaded.palette.tolist() == META["palette"]
    image = np.zeros((40, 50, 3), np.uint8)
    assert predict.predict(loaded, image).shape == (40, 50)


def test_loading_compiles_nothing(saved, caplog):
    """A program for each shape of the parameters would cost a second for a ResNet."""
    folder, variables = saved

    def compiled() -> int:
        return sum("XLA compilation" in record.getMessage() for record in caplog.records)

    with jax.log_compiles():
        loaded = predict.load_checkpoint(folder)
        assert not compiled()
        start = "simplified_unet", loaded.model, jax.random.key(0), (32, 48)
        initialize.variables(*start, None)
        random = compiled()
        assert random
        started = initialize.variables(*start, str(folder))
        assert compiled() <= 2 * random  # a random start again, and nothing for a parameter
    chex.assert_trees_all_equal(loaded.variables, started, variables)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves((loaded.variables, started)))


@pytest.mark.usefixtures("tiny")
def test_a_network_without_names_in_pytorch_keeps_its_own(tmp_path):
    variables = random_variables(fakes.TinyNet(3))
    spec = {**SPEC, "name": "tiny"}
    model_folder.save(tmp_path / "net", variables, {**META, "model": spec})
    names = safe_open(tmp_path / "net" / "model.safetensors", "numpy").keys()
    assert {"params/conv1/kernel", "batch_stats/bn1/var"} < set(names)
    loaded = predict.load_checkpoint(tmp_path / "net")
    chex.assert_trees_all_equal(loaded.variables, variables)


def test_it_holds_nothing_of_the_machine(saved):
    folder, _ = saved
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert b"someone" not in b"".join(p.read_bytes() for p in folder.iterdir())


def test_a_network_starts_from_it(saved, monkeypatch):
    folder, variables = saved
    model = create_model("simplified_unet", 3, width=4)
    monkeypatch.setattr(initialize, "random_init", lambda model, *_: random_variables(model, 7))
    start = initialize.variables("simplified_unet", model, jax.random.key(0), (32, 32), str(folder))
    chex.assert_trees_all_equal(start["params"], variables["params"])


def test_options_of_the_network_travel_with_it(tmp_path, monkeypatch):
    from fcn_jax.models import resnet

    monkeypatch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), True))
    options = {"backbone": "tiny", "width": 4, "aux": True, "freeze_bn": True}
    model = create_model("deeplabv3_resnet50", 3, **options)
    variables = random_variables(model)
    spec = {**SPEC, "name": "deeplabv3_resnet50", **options}
    model_folder.save(tmp_path / "net", variables, {**META, "model": spec})
    loaded = predict.load_checkpoint(tmp_path / "net")
    assert loaded.model == model
    chex.assert_trees_all_equal(loaded.variables, variables)


def test_pytorch_loads_it_strictly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from tests.models import torch_reference as reference

    variables = random_variables(create_model("fcn", 3, width=4))
    model_folder.save(tmp_path, variables, {**META, "model": {**SPEC, "name": "fcn", "width": 4}})
    module = reference.FCN(3, 4)
    module.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    kernel = variables["params"]["conv1"]["kernel"].transpose(3, 2, 0, 1)
    assert torch.equal(module.state_dict()["conv1.weight"], torch.from_numpy(kernel.copy()))


def test_the_folder_of_a_run_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"schema": 2}))
    with pytest.raises(InputError, match=r"holds another config\.json: choose another folder"):
        model_folder.save(tmp_path, {}, META)


def test_weights_of_another_origin_are_left_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds another model\.safetensors"):
        model_folder.save(tmp_path, {}, META)
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


ABOUT = {"format": model_folder.FORMAT, "format_version": model_folder.VERSION, **META}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"schema": 2}, "not of fcn_jax.network 1"),
        ({"format": model_folder.FORMAT, "format_version": 2}, "not of fcn_jax.network 1"),
        ({"format": model_folder.FORMAT, "format_version": 1}, "model is missing"),
        ([1], "not of fcn_jax.network 1"),
        ({**ABOUT, "class_names": ["a"]}, "do not fit each other"),
        ({**ABOUT, "model": {}}, "do not fit each other"),
    ],
)
def test_other_folders_are_refused_in_one_line(saved, content, words):
    folder, _ = saved
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words) as error:
        model_folder.load(folder)
    assert "\n" not in str(error.value)


def test_the_command_writes_it_and_compares(tmp_path, monkeypatch, capsys):
    variables = random_variables(create_model("simplified_unet", 3, width=4))
    restored = predict.Checkpoint(
        create_model("simplified_unet", 3, width=4), variables, fakes.CLASSES,
        fakes.voc_palette(3), (32, 48), META,
    )  # fmt: skip
    monkeypatch.setattr(predict, "load_checkpoint", lambda folder: restored)
    monkeypatch.setattr(command.command, "setup_jax", lambda **_: None)
    out = tmp_path / "net"
    (tmp_path / "net.json").write_text("{}")  # a folder has no description beside it
    assert command.main(["run", "--format", "safetensors", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: model.safetensors and config.json written\n"
    chex.assert_trees_all_equal(model_folder.load(out)[0]["params"], variables["params"])
    assert model_folder.is_model_folder(out)
