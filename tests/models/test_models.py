"""What all networks have in common: names, sizes, types, parameter counts."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fcn_jax.models import MODELS, create_model
from fcn_jax.types import InputError
from tests.models.variables import abstract, random_variables

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

OPTIONS: dict[str, Any] = {
    name: {"backbone": "resnet18"}
    for name, entry in MODELS.items()
    if (entry.backbone or "").startswith("resnet")
}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("fcn", {}, 5_493_645),
        ("simplified_unet", {}, 3_015_509),
        # The released U-Net has 31 038 933; here a second normalisation in each of nine stages.
        ("unet", {}, 31_038_933 + 2 * (2 * (64 + 128 + 256 + 512) + 1024)),
        ("resnet50_fcn", {}, 27_718_293),
        ("fcn_resnet50", {}, 32_957_013),
        # The figures of torchvision and of segmentation_models.pytorch.
        ("fcn_resnet50", {"aux": True}, 35_322_218),
        ("fcn_resnet101", {"aux": True}, 54_314_346),
        ("deeplabv3_resnet50", {"aux": True}, 42_004_074),
        ("deeplabv3_resnet101", {"aux": True}, 60_996_202),
        ("deeplabv3_mobilenet_v3_large", {"aux": True}, 11_029_328),
        ("lraspp_mobilenet_v3_large", {}, 3_221_538),
        ("unet_resnet18", {}, 14_331_109),
        ("unet_resnet34", {}, 24_439_269),
        ("unet_resnet50", {}, 32_524_005),
        ("unet_resnet101", {}, 51_516_133),
    ],
)
def test_parameter_counts(name, options, expected):
    assert count(abstract(create_model(name, **options))["params"]) == expected


def test_trainable_parameters_of_the_frozen_network():
    params = abstract(create_model("resnet50_fcn"))["params"]
    assert count({k: v for k, v in params.items() if k != "backbone"}) == 4_210_261


@pytest.mark.parametrize("size", [(65, 97), (500, 375), (224, 224), (33, 32), (1, 1)])
@pytest.mark.parametrize("name", MODELS)
def test_logits_have_the_size_of_the_picture(name, size):
    model = create_model(name, 7, width=4, **OPTIONS.get(name, {}))
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits = jax.eval_shape(model.apply, abstract(model), images)
    assert logits.shape == (2, *size, 7)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_computes_in_it_and_keeps_float32_outside(name):
    model = create_model(name, width=4, dtype=jnp.bfloat16, **OPTIONS.get(name, {}))
    variables = abstract(model)

    def train(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    logits, updated = jax.eval_shape(train, variables, IMAGE)
    types = {leaf.dtype for leaf in jax.tree.leaves((logits, variables, updated))}
    assert types == {jnp.dtype("float32")}
    assert "bf16" in str(jax.make_jaxpr(train)(variables, IMAGE))


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    images = jax.random.normal(jax.random.key(1), (1, 32, 48, 3))
    exact, rough = (create_model("fcn", width=8, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    variables = random_variables(exact)
    logits = jax.jit(exact.apply)(variables, images)
    difference = jnp.abs(jax.jit(rough.apply)(variables, images) - logits).max()
    assert 0 < difference < 0.05 * jnp.abs(logits).max()


@pytest.mark.parametrize(
    ("init", "deviation"), [("xavier", (2 / (27 + 288)) ** 0.5), ("he", (2 / 27) ** 0.5)]
)
def test_init_reaches_the_layers(init, deviation):
    model = create_model("fcn", init=init)

    def kernel(key):
        return model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]["conv1"]["kernel"]

    weights = jax.jit(kernel)(jax.random.key(0))
    assert weights.shape == (3, 3, 3, 32)
    assert weights.std() == pytest.approx(deviation, rel=0.06)


def test_xavier_is_the_default():
    assert create_model("unet") == create_model("unet", init="xavier")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fcnn", {}, ["fcnn", "simplified_unet", "resnet50_fcn"]),
        ("fcn", {"init": "ones"}, ["ones", "xavier"]),
        ("fcn", {"depth": 3}, ["fcn", "depth", "width"]),
        ("unet", {"freeze_backbone": True}, ["freeze_backbone", "remat"]),
        ("resnet50_fcn", {"backbone": "resnet51"}, ["resnet51", "resnet101"]),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name, options, words):
    with pytest.raises(InputError) as error:
        create_model(name, **options)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
