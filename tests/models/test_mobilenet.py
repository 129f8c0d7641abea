"""MobileNetV3-Large, LR-ASPP and DeepLabV3 on it, against torchvision."""

import copy
from typing import Any

import jax
import numpy as np
import pytest

from fcn_jax.models import create_model, mobilenet
from fcn_jax.weights.torch_weights import load_backbone, load_torch_weights, to_torch
from tests.models import test_families
from tests.models.test_deeplab import only_out, torchvision_net
from tests.models.variables import abstract, random_variables

LRASPP, DEEPLAB = "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"
NAMES = (LRASPP, DEEPLAB)


def torchvisions(name, classes):
    """torchvision's network with random weights, DeepLabV3 with its auxiliary head."""
    if name == DEEPLAB:
        return torchvision_net(name, classes)
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    segmentation = reference.torchvision_models().segmentation
    return segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes
    )


def options(name) -> dict[str, Any]:
    return {"aux": True} if name == DEEPLAB else {}


def test_the_reference_computes_depthwise_convolutions_as_pytorch_does():
    torch = pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    convs = [
        torch.nn.Conv2d(4, 4, 5, 2, 2, groups=4),
        torch.nn.Conv2d(4, 8, (3, 5), 1, (2, 1), (2, 3), groups=2, bias=False),
    ]
    x = torch.from_numpy(reference.nchw(reference.pictures(2, 13, 16))).mean(1, True)
    x = (x * torch.arange(1.0, 5.0)[:, None, None]).double()
    for conv in convs:
        expected = conv.double()(x)
        with reference.Depthwise():
            ours = conv(x)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "size",
    [
        (65, 97),
        pytest.param((224, 224), marks=pytest.mark.slow),
        pytest.param((500, 375), marks=pytest.mark.slow),
    ],
)
def test_logits(name, size):
    module = torchvisions(name, 5)
    import torch

    from tests.models import torch_reference as reference

    module = reference.randomise(module, size=64)
    images = reference.pictures(1, *size)
    with torch.no_grad(), reference.Depthwise():
        exact = copy.deepcopy(module).double()(torch.from_numpy(reference.nchw(images)).double())
    model = create_model(name, 5, **options(name))
    variables = load_torch_weights(name, module.state_dict(), **options(name))
    method = "with_aux" if name == DEEPLAB else "__call__"
    ours = jax.jit(lambda v, x: model.apply(v, x, method=method))(variables, images)
    results = zip(ours, ("out", "aux"), strict=True) if name == DEEPLAB else [(ours, "out")]
    for logits, key in results:
        expected = exact[key].numpy()
        assert 0.1 < np.abs(expected).max() < 1000
        error = np.abs(reference.nchw(logits) - expected).max()
        assert error < 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_training(name):
    module = torchvisions(name, 5)
    from tests.models import torch_reference as reference

    module.aux_classifier = None
    module = only_out(reference.randomise(module, size=64))
    dropout: dict[str, Any] = {"dropout": 0.0} if name == DEEPLAB else {}
    # DeepLab normalises the means of three images by their own three values: 8e-6 of rounding.
    reference.compare_training(name, module, (40, 72), logits=3e-5, **dropout)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_the_same_both_ways_bit_for_bit(name):
    module = torchvisions(name, 21)
    import torch

    model = create_model(name, **options(name))
    ours = random_variables(model)
    state = to_torch(name, ours)
    theirs = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert {key: value.shape for key, value in state.items()} == theirs
    count = sum(p.numel() for p in module.parameters())
    assert count == sum(leaf.size for leaf in jax.tree.leaves(ours["params"]))
    module.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    back = load_torch_weights(name, module.state_dict(), **options(name))
    jax.tree.map(np.testing.assert_array_equal, back, {k: ours[k] for k in back})


def test_a_classifiers_backbone_is_loaded():
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    module = reference.torchvision_models().mobilenet_v3_large(weights=None)
    start = random_variables(create_model(LRASPP, 3))
    loaded = load_backbone(start, "mobilenet_v3_large", module.state_dict())
    expected = module.state_dict()["features.16.0.weight"].detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(loaded["params"]["backbone"]["last_conv"]["kernel"], expected)
    before, after = start["params"]["head"], loaded["params"]["head"]
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_frozen_parts_get_no_gradient_and_keep_their_statistics(monkeypatch):
    test_families.shrink(monkeypatch)
    images = jax.random.normal(jax.random.key(1), (2, 33, 40, 3))
    for stages, frozen in (
        (2, {"stem", "stage1", "stage2"}),
        (4, {"stem", *(f"stage{i}" for i in range(1, 5))}),
    ):
        model = create_model(LRASPP, 3, width=8, freeze_stages=stages)
        variables = random_variables(model)

        def loss(params, model=model, variables=variables):
            logits, updated = model.apply(
                {**variables, "params": params}, images, True, mutable=["batch_stats"]
            )
            return (logits**2).sum(), updated["batch_stats"]

        gradients, updated = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        for name, leaves in gradients["backbone"].items():
            still = name.split("_")[0] in frozen
            assert all((np.abs(g).max() == 0) == still for g in jax.tree.leaves(leaves)), name
        before = variables["batch_stats"]["backbone"]
        for name, leaves in updated["backbone"].items():
            same = jax.tree.map(np.array_equal, leaves, before[name])
            assert set(jax.tree.leaves(same)) == {name.split("_")[0] in frozen}, name


def test_blocks_by_hand():
    """Table 1 of the paper: 15 blocks, 8 of them with squeeze-and-excite, 9 of 3x3 taps."""
    blocks = [block for stage in mobilenet.STAGES for block in stage]
    assert len(blocks) == 15
    assert sum(block.reduced > 0 for block in blocks) == 8
    assert sum(block.size == 3 for block in blocks) == 9
    low, high = jax.eval_shape(
        lambda x: mobilenet.MobileNetV3().init_with_output(jax.random.key(0), x)[0],
        jax.ShapeDtypeStruct((1, 65, 97, 3), np.float32),
    )
    assert (low.shape, high.shape) == ((1, 9, 13, 40), (1, 5, 7, 960))
    assert abstract(create_model(LRASPP, 3))["params"]["backbone"]["stage3_0"]["depthwise_conv"][
        "kernel"
    ].shape == (5, 5, 1, 72)
