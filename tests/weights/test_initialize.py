"""What a network starts from."""

import chex
import jax
import numpy as np
import pytest

from experiments import run
from experiments.cli import flags as options
from fcn_jax import create_model, to_torch
from fcn_jax.models import MODELS, resnet
from fcn_jax.training import loop
from fcn_jax.types import InputError
from fcn_jax.weights import initialize
from tests import fakes
from tests.models.variables import random_variables

KEY, SIZE = jax.random.key(0), (32, 32)


def test_fresh_weights_depend_on_the_key_only():
    first, again = (initialize.random_init(fakes.TinyNet(), KEY, SIZE) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    other = initialize.random_init(fakes.TinyNet(), jax.random.key(1), SIZE)
    assert not np.array_equal(
        first["params"]["conv1"]["kernel"], other["params"]["conv1"]["kernel"]
    )


def test_torchvisions_whole_network(tmp_path, monkeypatch, caplog):
    from safetensors.numpy import save_file

    arch = "lraspp_mobilenet_v3_large"
    monkeypatch.setattr(initialize, "random_init", lambda model, *_: random_variables(model, 7))
    theirs = random_variables(create_model(arch, 21))
    path = tmp_path / "published.safetensors"
    save_file(to_torch(arch, theirs), path)
    monkeypatch.setattr(initialize, "pretrained", lambda name: {arch: path}[name])
    loaded = initialize.variables(arch, create_model(arch, 21), KEY, SIZE, "torchvision")
    chex.assert_trees_all_equal(loaded, theirs)
    initialize.variables(arch, create_model(arch, 3), KEY, SIZE, "torchvision")
    assert "has other classes" in caplog.text
    with pytest.raises(InputError, match="fcn: no published weights of the whole network"):
        initialize.variables("fcn", create_model("fcn", 3), KEY, SIZE, "torchvision")


@pytest.mark.slow
def test_a_checkpoint_file_of_the_whole_network_and_one_with_other_classes(tmp_path, caplog):
    from safetensors.numpy import save_file

    model = create_model("simplified_unet", 21)
    theirs = initialize.random_init(model, jax.random.key(5), SIZE)
    path = tmp_path / "weights.safetensors"
    save_file(to_torch("simplified_unet", theirs), path)
    loaded = initialize.variables("simplified_unet", model, KEY, SIZE, str(path))
    chex.assert_trees_all_equal(loaded["params"], theirs["params"])

    fewer = create_model("simplified_unet", 5)
    start = initialize.random_init(fewer, KEY, SIZE)
    mixed = initialize.variables("simplified_unet", fewer, KEY, SIZE, str(path))
    chex.assert_trees_all_equal(mixed["params"]["final_conv"], start["params"]["final_conv"])
    chex.assert_trees_all_equal(mixed["params"]["enc_conv1"], theirs["params"]["enc_conv1"])
    assert "params/final_conv/kernel" in caplog.text


@pytest.mark.usefixtures("tiny")
def test_another_run_goes_on_from_its_best_weights(tmp_path):
    loop.train(fakes.config(epochs=1), fakes.dataset(), tmp_path / "a", loop.Runtime(show=False))
    loaded = initialize.variables("tiny", fakes.TinyNet(), KEY, SIZE, str(tmp_path / "a"))
    fresh = initialize.random_init(fakes.TinyNet(), KEY, SIZE)
    assert not np.array_equal(
        loaded["params"]["conv1"]["kernel"], fresh["params"]["conv1"]["kernel"]
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("imagenet", "tiny has no backbone to load"),
        ("nothing.pth", "no such file: give imagenet"),
        (".", "no checkpoint there"),
    ],
)
def test_sources_that_do_not_fit_are_refused(source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        initialize.variables("tiny", fakes.TinyNet(), KEY, SIZE, source)


@pytest.mark.parametrize(
    ("flags", "scale"),
    [
        ("--arch fcn", None),
        ("--arch resnet50_fcn", 1.0),
        ("--arch resnet50_fcn --pretrained imagenet", 0.0),
        ("--arch resnet50_fcn --pretrained imagenet --backbone-scale 0.1", 0.1),
        ("--arch fcn_resnet50 --pretrained imagenet", 1.0),
        ("--arch fcn_resnet50 --pretrained imagenet --backbone-scale 0", 0.0),
    ],
)
def test_a_pretrained_backbone_is_frozen_unless_told_otherwise(flags, scale):
    config = options.to_config(run.parser().parse_args(flags.split()))
    assert config.optim.backbone_scale == scale


def test_a_backbone_scale_without_a_backbone_is_refused():
    with pytest.raises(InputError, match=r"optim.backbone_scale=0.0: fcn has no backbone: use res"):
        options.to_config(run.parser().parse_args(["--arch", "fcn", "--backbone-scale", "0"]))


@pytest.fixture
def small_resnet(tmp_path, monkeypatch):
    """The path of a state dict as torchvision publishes ResNet-50, much smaller; and its arrays."""
    from safetensors.numpy import save_file

    monkeypatch.setitem(resnet.DEPTHS, "resnet50", resnet.Depth((1, 1, 1, 1), True))
    state = to_torch("resnet50", random_variables(resnet.ResNet("resnet50")))
    state |= {"fc.weight": np.zeros((10, 2048), np.float32), "fc.bias": np.zeros(10, np.float32)}
    save_file(state, tmp_path / "resnet50.safetensors")
    return tmp_path / "resnet50.safetensors", state


ON_RESNET50 = [name for name, entry in MODELS.items() if entry.backbone == "resnet50"]


@pytest.mark.parametrize("arch", ON_RESNET50)
def test_every_network_on_a_resnet50_starts_from_a_file_of_it(arch, small_resnet, monkeypatch):
    path, state = small_resnet
    model = create_model(arch, 3)
    monkeypatch.setattr(initialize, "random_init", lambda model, *_: random_variables(model, 7))
    loaded = initialize.variables(arch, model, KEY, SIZE, str(path))
    backbone = {kind: tree["backbone"] for kind, tree in loaded.items()}
    back = to_torch("resnet50", backbone)
    for name, value in back.items():
        np.testing.assert_array_equal(value, state[name])
    head = {k: v for k, v in loaded["params"].items() if k != "backbone"}
    expected = random_variables(model, 7)["params"]
    chex.assert_trees_all_equal(head, {k: expected[k] for k in head})


def test_a_backbone_of_another_depth_is_refused_by_name(small_resnet):
    model = create_model("unet_resnet18", 3)
    with pytest.raises(InputError, match=r"does not fit resnet18: "):
        initialize.variables("unet_resnet18", model, KEY, SIZE, str(small_resnet[0]))


@pytest.mark.parametrize("aux", [True, False])
def test_an_auxiliary_head_may_be_missing_on_either_side(aux, tmp_path, monkeypatch, caplog):
    from safetensors.numpy import save_file

    monkeypatch.setitem(resnet.DEPTHS, "resnet50", resnet.Depth((1, 1, 1, 1), True))
    theirs = random_variables(create_model("fcn_resnet50", 3, aux=not aux))
    save_file(to_torch("fcn_resnet50", theirs), tmp_path / "net.safetensors")
    monkeypatch.setattr(initialize, "random_init", lambda model, *_: random_variables(model, 7))
    model = create_model("fcn_resnet50", 3, aux=aux)
    path = str(tmp_path / "net.safetensors")
    loaded = initialize.variables("fcn_resnet50", model, KEY, SIZE, path)
    chex.assert_trees_all_equal(loaded["params"]["head"], theirs["params"]["head"])
    assert ("aux_head" in loaded["params"]) == aux
    assert ("has no auxiliary head" in caplog.text) == aux
