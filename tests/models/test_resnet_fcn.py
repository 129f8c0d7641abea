"""The networks on a ResNet: against PyTorch and torchvision, and what frozen means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax.models import create_model, resnet
from fcn_jax.models.resnet_fcn import FCNHead
from fcn_jax.weights.torch_weights import load_torch_weights
from tests.models.variables import random_variables

IMAGES = jax.random.normal(jax.random.key(1), (2, 33, 40, 3))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), False))


def gradient_program(freeze):
    model = create_model("resnet50_fcn", 3, backbone="tiny", width=4, freeze_backbone=freeze)
    variables = random_variables(model)

    def loss(params):
        logits, updated = model.apply(
            {**variables, "params": params}, IMAGES, True, mutable=["batch_stats"]
        )
        return jnp.square(logits).sum(), updated

    return variables, jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"])


@pytest.mark.slow
def test_frozen_backbone_has_neither_gradient_nor_new_statistics():
    variables, program = gradient_program(freeze=True)
    grads, updated = program.compile()(variables["params"])
    assert all((g == 0).all() for g in jax.tree.leaves(grads["backbone"]))
    assert all(np.abs(grads[f"deconv{i}"]["kernel"]).max() > 0 for i in range(1, 5))
    before, after = variables["batch_stats"], updated["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, before["backbone"], after["backbone"])
    assert (before["deconv3_bn"]["mean"] != after["deconv3_bn"]["mean"]).any()


def test_frozen_backbone_costs_no_backward_pass():
    model = create_model("resnet50_fcn", 3, backbone="tiny", width=4)
    variables = random_variables(model)
    trunk = {kind: tree["backbone"] for kind, tree in variables.items()}
    features = jax.jit(resnet.ResNet("tiny", width=4).apply).lower(trunk, IMAGES)
    forward = jax.jit(model.apply).lower(variables, IMAGES)
    frozen, tuned = (gradient_program(freeze)[1] for freeze in (True, False))
    trunk, forward, frozen, tuned = (
        program.cost_analysis()["flops"] for program in (features, forward, frozen, tuned)
    )
    assert frozen - forward < 3 * (forward - trunk)  # the decoder's alone
    assert tuned - frozen > 1.5 * trunk


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
def test_logits(size):
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    backbone = reference.torchvision_models().resnet50()
    module = reference.randomise(reference.ResNet50FCN(backbone))
    assert reference.eval_error("resnet50_fcn", module, size) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_training(frozen):
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    backbone = reference.torchvision_models().resnet
    backbone = backbone.ResNet(backbone.BasicBlock, [1, 1, 1, 1])
    module = reference.randomise(reference.ResNet50FCN(backbone, 5, 512, frozen=frozen))
    reference.compare_training(
        "resnet50_fcn", module, (49, 56), backbone="tiny", freeze_backbone=frozen
    )


@pytest.mark.slow
def test_fcn_resnet50_is_torchvisions_with_both_heads():
    torch = pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    segmentation = reference.torchvision_models().segmentation
    module = segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    module = reference.randomise(module, size=64)
    images = reference.pictures(1, 65, 97)
    with torch.no_grad():
        theirs = module(torch.from_numpy(reference.nchw(images)))
    state = module.state_dict()
    for aux in (False, True):  # without it the second head's weights are left aside
        model = create_model("fcn_resnet50", aux=aux)
        variables = load_torch_weights("fcn_resnet50", state, aux=aux)
        if aux:
            ours = jax.jit(lambda v, x: model.apply(v, x, method="with_aux"))(variables, images)  # noqa: B023
        else:
            ours = (jax.jit(model.apply)(variables, images),)
        for logits, key in zip(ours, ("out", "aux"), strict=False):
            expected = theirs[key].numpy()
            assert 0.1 < np.abs(expected).max() < 100
            error = np.abs(reference.nchw(logits) - expected).max()
            assert error < 1e-4 * max(1.0, np.abs(expected).max())


def test_dropout_needs_a_key_and_a_training_step():
    head = FCNHead(3, 0.5, "he", jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, 8))
    variables = head.init(jax.random.key(1), x, False)

    def logits(train, key=None):
        rngs = None if key is None else {"dropout": jax.random.key(key)}
        return head.apply(variables, x, train, mutable=["batch_stats"], rngs=rngs)[0]

    assert (logits(True, 0) != logits(True, 1)).any()
    np.testing.assert_array_equal(logits(True), logits(True))
    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))
