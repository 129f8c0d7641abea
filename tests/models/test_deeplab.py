"""DeepLabV3 and the dilated FCN against torchvision's, with the auxiliary head."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax.models import create_model, resnet
from fcn_jax.models.deeplab import ASPP
from fcn_jax.types import InputError
from fcn_jax.weights.torch_weights import load_torch_weights, to_torch
from tests.models.variables import abstract, random_variables

NAMES = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """One bottleneck a stage."""
    monkeypatch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), True))


def torchvision_net(name, classes, depth=None, aux=True):
    """torchvision's network without dropout; `tiny` has one bottleneck a stage."""
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    segmentation = reference.torchvision_models().segmentation
    module = getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux
    )
    if depth == "tiny":
        for i in range(1, 5):
            module.backbone[f"layer{i}"] = module.backbone[f"layer{i}"][:1]
    for layer in module.modules():
        if type(layer).__name__ == "Dropout":
            layer.p = 0.0
    return module


def only_out(module):
    """The network with the head's logits for a result; the same state dict."""
    module.register_forward_hook(lambda module, inputs, result: result["out"])  # survives a copy
    return module


def test_aspp_puts_the_mean_of_the_image_everywhere():
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    module = ASPP(2, (1, 2, 3), 0.0, "he", jnp.float32)
    variables: Any = module.init(jax.random.key(1), x, False)
    state: Any = module.apply(variables, x, False, capture_intermediates=True)[1]
    pooled = state["intermediates"]["pooling_conv"]["__call__"][0]
    kernel = variables["params"]["pooling_conv"]["kernel"][0, 0]
    np.testing.assert_allclose(pooled[:, 0, 0], x.mean((1, 2)) @ kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stride", "features", "rates"),
    [(8, (8, 12), (12, 24, 36)), (16, (4, 6), (6, 12, 18)), (32, (2, 3), (3, 6, 9))],
)
def test_the_output_stride_sets_the_features_size_and_the_rates(stride, features, rates):
    options: Any = {"backbone": "tiny", "width": 2}
    usual = create_model("deeplabv3_resnet50", 5, **options)
    model: Any = create_model("deeplabv3_resnet50", 5, **options, output_stride=stride)
    images = jnp.zeros((1, 64, 96, 3))
    variables = abstract(model)
    chex.assert_trees_all_equal_shapes(variables, abstract(usual))

    def parts(model, images):
        *_, last = model.trunk(images, False)
        return last, model.head(last, False), model(images)

    last, head, logits = jax.eval_shape(lambda v: nn.apply(parts, model)(v, images), variables)
    assert last.shape[1:3] == head.shape[1:3] == features
    assert logits.shape == (1, 64, 96, 5)
    assert nn.apply(lambda model: model.head.rates, model)({}) == rates


def test_mobilenet_keeps_its_output_stride_and_the_rates():
    model: Any = create_model("deeplabv3_mobilenet_v3_large", 5)
    assert nn.apply(lambda model: model.head.rates, model)({}) == (12, 24, 36)
    with pytest.raises(InputError, match="output stride 16: mobilenet_v3_large has its own"):
        abstract(create_model("deeplabv3_mobilenet_v3_large", 5, output_stride=16))


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
@pytest.mark.parametrize("size", [(64, 64), pytest.param((65, 97), marks=pytest.mark.slow)])
def test_small_logits_of_both_heads(name, size):
    module = torchvision_net(name, 5, "tiny")
    import torch

    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    images = reference.pictures(1, *size)
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(reference.nchw(images)))
    model = create_model(name, 5, backbone="tiny", aux=True)
    variables = load_torch_weights(name, module.state_dict(), backbone="tiny", aux=True)
    ours = jax.jit(lambda v, x: model.apply(v, x, method="with_aux"))(variables, images)
    for logits, key in zip(ours, ("out", "aux"), strict=True):
        expected = theirs[key].numpy()
        assert 0.1 < np.abs(expected).max() < 100
        error = np.abs(reference.nchw(logits) - expected).max()
        assert error < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
@pytest.mark.parametrize("name", NAMES)
def test_logits(name, size):
    module = only_out(torchvision_net(name, 21))
    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    bound = max(1e-4, 2 * reference.rounding_error(module, size))
    assert reference.exact_error(name, module, size) < bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_training(name):
    module = only_out(torchvision_net(name, 5, "tiny", aux=False))
    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    reference.compare_training(name, module, (40, 72), backbone="tiny", dropout=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_the_same_names_and_shapes(name):
    module = torchvision_net(name, 21)
    shapes = abstract(create_model(name, aux=True))
    ours = to_torch(name, jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes))
    theirs = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert {key: value.shape for key, value in ours.items()} == theirs
    count = sum(p.numel() for p in module.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_state_dicts_go_both_ways_bit_for_bit():
    module = torchvision_net("deeplabv3_resnet50", 7, "tiny")
    import torch

    ours = random_variables(create_model("deeplabv3_resnet50", 7, backbone="tiny", aux=True))
    state = to_torch("deeplabv3_resnet50", ours)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    options = {"backbone": "tiny", "aux": True}
    back = load_torch_weights("deeplabv3_resnet50", module.state_dict(), **options)
    jax.tree.map(np.testing.assert_array_equal, back, {k: ours[k] for k in back})
