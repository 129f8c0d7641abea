"""The U-Nets on a ResNet against segmentation_models.pytorch."""

from typing import Any

import jax
import numpy as np
import pytest

from fcn_jax.models import create_model, resnet
from fcn_jax.models.unet_resnet import DecoderBlock
from fcn_jax.ops.upsample import double_nearest
from fcn_jax.weights.torch_weights import load_torch_weights, to_torch
from tests.models.variables import abstract, random_variables

TINY = resnet.Depth((1, 1, 1, 1), False)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, "tiny", TINY)


def smp_unet(depth, classes):
    """segmentation_models.pytorch's network; `tiny` has one basic block a stage."""
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    reference.torchvision_models()  # importable also where its operators do not fit this torch
    smp = pytest.importorskip("segmentation_models_pytorch")
    module = smp.Unet(
        "resnet18" if depth == "tiny" else depth, encoder_weights=None, classes=classes
    )
    if depth == "tiny":
        for i in range(1, 5):
            stage = getattr(module.encoder, f"layer{i}")
            setattr(module.encoder, f"layer{i}", stage[:1])
    return AnySize(module) if depth == "tiny" else module


def AnySize(module):
    """The same network without the check that sides are multiples of 32; same state dict."""
    module.check_input_shape = lambda x: None
    return module


def test_doubling_repeats_every_value_four_times():
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(double_nearest(x), x.repeat(2, 1).repeat(2, 2))


def test_a_decoder_block_cuts_the_doubled_features_to_the_skip():
    block = DecoderBlock(4, "he", np.float32)
    x, skip = np.ones((1, 3, 4, 8), np.float32), np.ones((1, 5, 7, 6), np.float32)
    y: Any
    variables: Any
    y, variables = block.init_with_output(jax.random.key(0), x, skip, (5, 7), False)
    assert y.shape == (1, 5, 7, 4)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 14, 4)


@pytest.mark.parametrize(
    ("depth", "size"),
    [
        ("tiny", (64, 32)),
        ("tiny", (65, 97)),
        pytest.param("tiny", (33, 1), marks=pytest.mark.slow),
        pytest.param("resnet18", (224, 224), marks=pytest.mark.slow),
        pytest.param("resnet34", (224, 224), marks=pytest.mark.slow),
        pytest.param("resnet50", (224, 224), marks=pytest.mark.slow),
        pytest.param("resnet101", (224, 224), marks=pytest.mark.slow),
        pytest.param("resnet50", (96, 160), marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_logits(depth, size):
    module = smp_unet(depth, 5)
    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    arch = "unet_resnet18" if depth == "tiny" else f"unet_{depth}"
    options = {"num_classes": 5, "backbone": depth}
    bound = max(1e-4, 2 * reference.rounding_error(module, size))
    assert reference.exact_error(arch, module, size, **options) < bound


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_training():
    module = smp_unet("tiny", 5)
    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    reference.compare_training("unet_resnet18", module, (64, 64), backbone="tiny")


@pytest.mark.parametrize("depth", resnet.DEPTHS)
def test_state_dicts_are_the_same_names_and_shapes(depth):
    module = smp_unet(depth, 21)
    arch = f"unet_{depth}"
    shapes = abstract(create_model(arch))
    ours = to_torch(arch, jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes))
    theirs = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert {name: value.shape for name, value in ours.items()} == theirs
    count = sum(p.numel() for p in module.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_state_dicts_go_both_ways_bit_for_bit():
    module = smp_unet("resnet18", 7)
    import torch

    ours = random_variables(create_model("unet_resnet18", 7))
    state = to_torch("unet_resnet18", ours)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    back = load_torch_weights("unet_resnet18", module.state_dict())
    jax.tree.map(np.testing.assert_array_equal, back, {k: ours[k] for k in back})
