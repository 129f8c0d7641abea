"""The ResNets: against torchvision, and what dilation must keep."""

import copy

import jax
import numpy as np
import pytest

from fcn_jax.models.resnet import DEPTHS, Depth, ResNet
from fcn_jax.types import InputError
from fcn_jax.weights.torch_weights import load_torch_weights
from tests.models.variables import random_variables


def test_pyramid_sizes():
    image = jax.ShapeDtypeStruct((1, 65, 97, 3), np.float32)
    for stride, last in ((32, (3, 4)), (16, (5, 7)), (8, (9, 13))):
        features, _ = jax.eval_shape(
            ResNet("resnet18", stride, width=4).init_with_output, jax.random.key(0), image
        )
        assert [f.shape[3] for f in features] == [4, 4, 8, 16, 32]
        assert features[0].shape[1:3] == (33, 49)
        assert features[1].shape[1:3] == (17, 25)
        assert features[-1].shape[1:3] == last


def pyramid(module, x):
    """torchvision's results of bn1 (after ReLU) and layer1 to layer4."""
    x = module.relu(module.bn1(module.conv1(x)))
    features, x = [x.detach().numpy()], module.maxpool(x)
    for i in range(1, 5):
        x = getattr(module, f"layer{i}")(x)
        features.append(x.detach().numpy())
    return features


@pytest.mark.slow
@pytest.mark.parametrize("depth", DEPTHS)
def test_features_are_torchvisions(depth):
    torch = pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    module = reference.randomise(getattr(reference.torchvision_models(), depth)())
    images = reference.pictures(1, 64, 97)
    ours = jax.jit(ResNet(depth).apply)(load_torch_weights(depth, module.state_dict()), images)
    rounded, exact = (
        pyramid(m, torch.from_numpy(reference.nchw(images)).to(dtype))
        for m, dtype in ((module, torch.float32), (copy.deepcopy(module).double(), torch.float64))
    )
    for mine, theirs, true in zip(ours, rounded, exact, strict=True):
        assert 1 < np.abs(true).max() < 1000
        # A hundred random layers deep, PyTorch's own rounding is more than 1e-4.
        bound = max(1e-5, 3 * np.linalg.norm(theirs - true) / np.linalg.norm(true))
        assert bound < 1e-3
        assert np.linalg.norm(reference.nchw(mine) - true) < bound * np.linalg.norm(true)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [Depth((1, 1, 2, 2), False), Depth((1, 1, 2, 2), True)])
def test_dilation_adds_pixels_and_changes_none(depth, monkeypatch):
    monkeypatch.setitem(DEPTHS, "tiny", depth)
    images = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))
    variables = random_variables(ResNet("tiny", width=4))
    plain, dilated = (
        jax.jit(ResNet("tiny", stride, width=4).apply)(variables, images)[-2:] for stride in (32, 8)
    )
    for before, after, step in zip(plain, dilated, (2, 4), strict=True):
        assert after.shape[1:3] == (8, 12)
        scale = np.abs(before).max()
        np.testing.assert_allclose(after[:, ::step, ::step] / scale, before / scale, atol=1e-5)


def test_unknown_output_stride():
    with pytest.raises(InputError, match="output stride 4: choose 8, 16 or 32"):
        ResNet("resnet18", 4).init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))


FROZEN = [(0, False), (0, True), (2, False), (5, False)]


@pytest.mark.parametrize(("frozen", "freeze_bn"), FROZEN)
def test_frozen_parts_have_neither_gradient_nor_new_statistics(frozen, freeze_bn, monkeypatch):
    monkeypatch.setitem(DEPTHS, "tiny", Depth((1, 1, 1, 1), False))
    model = ResNet("tiny", width=4, frozen=frozen, freeze_bn=freeze_bn)
    variables = random_variables(model)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)

    def loss(params):
        features, updated = model.apply(
            {**variables, "params": params}, images, True, mutable=["batch_stats"]
        )
        return sum((f**2).sum() for f in features), updated["batch_stats"]

    grads, stats = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    parts = {"conv1": 1, "bn1": 1, **{f"layer{i}_0": i + 1 for i in range(1, 5)}}
    for name, tree in grads.items():
        has_gradient = [bool((np.asarray(g) != 0).any()) for g in jax.tree.leaves(tree)]
        assert has_gradient == [parts[name] > frozen] * len(has_gradient)
        if name in stats:
            pairs = zip(
                jax.tree.leaves(stats[name]),
                jax.tree.leaves(variables["batch_stats"][name]),
                strict=True,
            )
            moved = [not np.array_equal(a, b) for a, b in pairs]
            assert moved == [parts[name] > frozen and not freeze_bn] * len(moved)
