"""The registry: what is known of each network, plug-ins, and what a configuration may ask of it."""

import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fcn_jax import models
from fcn_jax.config import Config, replace
from fcn_jax.models import MODELS, create_model, register_model, registry
from fcn_jax.training import setup
from fcn_jax.types import InputError
from tests import fakes
from tests.models.variables import abstract


def test_naming_the_networks_loads_neither_jax_nor_flax():
    code = (
        "import sys; from fcn_jax.models import MODELS; assert len(MODELS) > 8; "
        "print([m for m in ('jax', 'flax', 'optax') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("name", MODELS)
def test_entries_say_what_the_modules_are(name):
    entry = MODELS[name]
    on_resnet = (entry.backbone or "").startswith("resnet")
    small: dict[str, Any] = {"backbone": "resnet18"} if on_resnet else {}
    params = abstract(create_model(name, width=4, **small))["params"]
    assert (entry.backbone is not None) == ("backbone" in params)
    if entry.has_aux:
        with_aux = abstract(create_model(name, width=4, aux=True, **small))["params"]
        assert with_aux.keys() - params.keys() == {"aux_head"}
    if entry.can_freeze:
        create_model(name, freeze_backbone=True)
        create_model(name, freeze_bn=True, freeze_stages=2)
    if entry.published:
        from fcn_jax.weights.torchvision import FILES

        assert entry.published in FILES


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "MODELS", dict(MODELS))
    return registry.MODELS


def test_a_registered_network_works_by_its_name(registered):
    register_model("mine", fakes.TinyNet)
    model = create_model("mine", 5, dtype=jnp.bfloat16, init="he")
    assert model == fakes.TinyNet(5, "he", jnp.bfloat16)
    register_model("also-mine", "tests.fakes:TinyNet", options={"num_filters": 4})
    assert registered["also-mine"].load() is fakes.TinyNet


def test_a_cell_that_registers_a_network_may_run_again(registered):
    def cell():
        class Net(fakes.TinyNet):
            pass

        register_model("mine", Net)
        return Net

    cell()
    again = cell()
    assert registered["mine"].load() is again
    with pytest.raises(InputError, match="'mine' exists already"):
        register_model("mine", fakes.TinyNet)


def test_a_factory_takes_the_keywords_it_wants(registered):
    register_model("mine", lambda num_classes: fakes.TinyNet(num_classes + 1))
    assert create_model("mine", 2) == fakes.TinyNet(3)
    with pytest.raises(InputError, match=r"cannot be made with .*width"):
        create_model("mine", 2, width=3)


@pytest.mark.parametrize("name", ["fcn", "", "a b", "../x"])
def test_names_that_are_taken_or_unusable_are_refused(name, registered):
    with pytest.raises(InputError, match=f"{name!r}.* name"):
        register_model(name, fakes.TinyNet)
    assert models.MODELS.keys() == registered.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.arch": "fcnn"}, "model.arch=fcnn: unknown network: choose one of fcn, "),
        ({"model.freeze_bn": True}, "model.freeze_bn=True: fcn has no backbone: use resnet50_fcn"),
        ({"model.freeze_stages": 2}, "model.freeze_stages=2: fcn has no backbone"),
        ({"optim.backbone_scale": 1.0}, "optim.backbone_scale=1.0: fcn has no backbone"),
        ({"optim.backbone_delay": 5}, "optim.backbone_delay=5: fcn has no backbone"),
        ({"model.remat": True}, "model.remat=True: fcn cannot recompute its activations: use unet"),
        (
            {"model.arch": "deeplabv3_mobilenet_v3_large", "model.output_stride": 8},
            "model.output_stride=8: deeplabv3_mobilenet_v3_large has an output stride of its own: "
            "use fcn_resnet50, fcn_resnet101, deeplabv3_resnet50, deeplabv3_resnet101",
        ),
    ],
)
def test_settings_that_a_network_has_no_use_for_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        registry.resolve(replace(Config(), **changes))
    assert str(error.value).startswith(message)


def test_a_run_builds_its_network_with_the_output_stride_that_was_asked_for():
    changes = {"model.arch": "fcn_resnet50", "model.output_stride": 16}
    for config, stride in ((replace(Config(), **changes), 16), (Config(), None)):
        spec = json.loads(json.dumps(setup._model_spec(registry.resolve(config), 3)))
        assert getattr(setup.model_of(spec), "output_stride", None) == stride


@pytest.mark.parametrize("stride", [0, 4, 12, 64, 16.0, True])
def test_an_output_stride_that_there_is_not_is_refused(stride):
    with pytest.raises(InputError, match=r"^model\.output_stride="):
        replace(Config(), **{"model.arch": "fcn_resnet50", "model.output_stride": stride})


@pytest.mark.parametrize(
    ("arch", "pretrained", "given", "scale"),
    [
        ("fcn", None, None, None),
        ("resnet50_fcn", None, None, 1.0),
        ("resnet50_fcn", "imagenet", None, 0.0),
        ("resnet50_fcn", "imagenet", 0.1, 0.1),
        ("unet_resnet50", "imagenet", None, 1.0),
        ("unet_resnet50", "imagenet", 0.0, 0.0),
    ],
)
def test_the_backbones_rate_unless_told_otherwise(arch, pretrained, given, scale):
    changes = {
        "model.arch": arch, "model.pretrained": pretrained, "optim.backbone_scale": given,
    }  # fmt: skip
    assert registry.resolve(replace(Config(), **changes)).optim.backbone_scale == scale


def test_a_backbone_that_cannot_be_frozen_says_so(registered):
    register_model("mine", fakes.TinyNet, backbone="resnet18")
    config = replace(Config(), **{"model.arch": "mine", "model.freeze_bn": True})
    with pytest.raises(InputError, match=r"model\.freeze_bn=True: the backbone of mine cannot"):
        registry.resolve(config)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("unet_resnet18", [{"conv1", "bn1"}, {"layer1"}]),
        ("lraspp_mobilenet_v3_large", [{"stem", "stage1"}, {"stage2"}]),
    ],
)
def test_frozen_parameters_are_the_first_parts_of_the_backbone(name, parts):
    params = abstract(create_model(name, width=4))["params"]
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    entry = MODELS[name]
    for stages in range(3):
        expected = set().union(*parts[:stages])
        prefixes = registry.frozen_parameters(entry, stages)
        found = {p.split("/")[1].split("_")[0] for p in paths if p.startswith(prefixes)}
        assert found == expected
    everything = registry.frozen_parameters(entry, 5)
    assert all(p.startswith(everything) == p.startswith("backbone/") for p in paths)
