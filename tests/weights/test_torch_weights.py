"""Names and shapes between PyTorch's state dicts and ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax.models import create_model
from fcn_jax.models.resnet import ResNet
from fcn_jax.types import InputError
from fcn_jax.weights.torch_weights import load_backbone, load_torch_weights, to_torch
from tests.models.variables import abstract, random_variables

SMALL = {
    "fcn": {"width": 2},
    "simplified_unet": {"width": 2},
    "unet": {"width": 2},
    "resnet50_fcn": {"width": 2},
    "fcn_resnet50": {"width": 2, "aux": True},
}


def small(arch, classes=5):
    return create_model(arch, classes, **SMALL[arch])


def state(arch, classes=5):
    """A random state dict of the small network, in PyTorch's names."""
    return to_torch(arch, random_variables(small(arch, classes)))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("arch", SMALL)
def test_there_and_back_is_bit_identical_and_fits_the_network(arch):
    first = state(arch)
    variables = load_torch_weights(arch, first, **SMALL[arch])
    shapes = jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), abstract(small(arch)))
    found = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables)
    assert found == {"batch_stats": {}, **shapes}
    again = to_torch(arch, variables)
    assert again.keys() == first.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype


@pytest.mark.parametrize("classes", [2, 21])
def test_the_number_of_classes_is_the_checkpoints(classes):
    variables = load_torch_weights("simplified_unet", state("simplified_unet", classes), width=2)
    assert variables["params"]["final_conv"]["bias"].shape == (classes,)


def test_kernels_are_transposed_by_their_kind():
    first = state("fcn")
    params = load_torch_weights("fcn", first, width=2)["params"]
    weight = first["conv2.weight"]  # [out, in, kh, kw]
    assert params["conv2"]["kernel"][0, 2, 1, 3] == weight[3, 1, 0, 2]
    weight = first["deconv4.weight"]  # [in, out, kh, kw]
    assert params["deconv4"]["kernel"][0, 2, 5, 3] == weight[5, 3, 0, 2]


def test_half_precision_becomes_float32():
    first = {k: v.astype(np.float16) for k, v in state("simplified_unet").items()}
    first["final_conv.bias"] = np.asarray(jnp.array([1.0, 2.0, 3.0, 4.0, 5.0], jnp.bfloat16))
    params = load_torch_weights("simplified_unet", first, width=2)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(params["final_conv"]["bias"], [1, 2, 3, 4, 5])


# ---- the released networks -----------------------------------------------------------------------


def released(arch):
    """The released network in PyTorch."""
    from tests.models import torch_reference as reference

    models = reference.torchvision_models()
    return {
        "fcn": reference.FCN,
        "simplified_unet": reference.SimplifiedUNet,
        "unet": lambda: reference.UNet(shared=True),
        "resnet50_fcn": lambda: reference.ResNet50FCN(models.resnet50()),
        "fcn_resnet50": lambda: models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None
        ),
        "resnet18": models.resnet18,
    }[arch]()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["fcn", "simplified_unet", "unet", "resnet50_fcn", "fcn_resnet50", "resnet18"]
)
def test_released_state_dicts_come_back_bit_for_bit_and_load_strictly(arch):
    torch = pytest.importorskip("torch")
    module = released(arch)
    first = module.state_dict()
    back = to_torch(arch, load_torch_weights(arch, first))
    left_aside = {name for name in first if name.startswith("fc.")}
    assert back.keys() == first.keys() - left_aside
    for name in back:
        np.testing.assert_array_equal(back[name], first[name].numpy())
    tensors = {name: torch.from_numpy(value) for name, value in back.items()}
    module.load_state_dict({**tensors, **{name: first[name] for name in left_aside}}, strict=True)


def test_a_shared_normalisation_is_copied_to_both_places():
    variables = random_variables(small("unet"))
    for tree in variables.values():
        for stage, layers in tree.items():
            if "bn1" in layers:
                tree[stage] = {**layers, "bn2": layers["bn1"]}
    released = to_torch("unet", variables)
    assert "bn1.weight" in released
    assert "bn11.weight" not in released
    same(load_torch_weights("unet", released, width=2), variables)
    assert "bn11.weight" in to_torch("unet", variables, shared_bn=False)


def test_normalisations_that_differ_keep_names_of_their_own():
    variables = random_variables(small("unet"))
    first = to_torch("unet", variables)
    own = {"bn11", "bn41", "bn_bottleneck2", "bn_up_conv11", "bn_up_conv41"}
    assert own <= {name.partition(".")[0] for name in first}
    same(load_torch_weights("unet", first, width=2), variables)
    with pytest.raises(InputError, match="shared_bn=False"):
        to_torch("unet", variables, shared_bn=True)


def test_the_auxiliary_head_is_left_aside_unless_asked_for():
    first = state("fcn_resnet50")
    assert "aux_classifier.4.bias" in first
    assert "aux_head" not in load_torch_weights("fcn_resnet50", first, width=2)["params"]
    with_it = load_torch_weights("fcn_resnet50", first, width=2, aux=True)
    np.testing.assert_array_equal(
        with_it["params"]["aux_head"]["conv2"]["bias"], first["aux_classifier.4.bias"]
    )


# ---- backbones -----------------------------------------------------------------------------------


def test_a_backbone_alone_goes_into_a_network():
    backbone = to_torch("resnet18", random_variables(ResNet("resnet18", width=2), seed=1))
    backbone |= {"fc.weight": np.ones((1000, 16)), "fc.bias": np.ones(1000)}
    model = create_model("resnet50_fcn", backbone="resnet18", width=2)
    variables = random_variables(model)
    merged = load_backbone(variables, "resnet18", backbone, width=2)
    kernel = merged["params"]["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), backbone["conv1.weight"])
    same(merged["params"]["conv1"], variables["params"]["conv1"])
    assert jax.tree.structure(merged) == jax.tree.structure(variables)
    assert variables["params"]["backbone"]["conv1"]["kernel"] is not kernel


def test_a_backbone_that_does_not_fit_is_refused():
    backbone = to_torch("resnet34", random_variables(ResNet("resnet34", width=2)))
    variables = random_variables(create_model("resnet50_fcn", backbone="resnet18", width=2))
    with pytest.raises(InputError, match="is no resnet34"):
        load_backbone(variables, "resnet34", backbone, width=2)
    with pytest.raises(InputError, match="no backbone"):
        load_backbone(random_variables(small("fcn")), "resnet34", backbone, width=2)


# ---- bad checkpoints -----------------------------------------------------------------------------


def refusal(arch, first, **options):
    with pytest.raises(InputError) as error:
        load_torch_weights(arch, first, **(options or SMALL[arch]))
    line = str(error.value)
    assert "\n" not in line
    return line


def test_renamed_key():
    first = state("fcn")
    first["conv_3.weight"] = first.pop("conv3.weight")
    line = refusal("fcn", first)
    assert "does not fit fcn: conv3.weight is missing; conv_3.weight is unknown." in line


def test_wrong_shape():
    first = state("fcn")
    first["conv3.weight"] = first["conv3.weight"].transpose(1, 0, 2, 3)
    assert "conv3.weight has the shape (4, 8, 3, 3) instead of (8, 4, 3, 3)." in refusal(
        "fcn", first
    )


def test_missing_normalisation_of_a_shared_stage():
    first = {k: v for k, v in state("unet").items() if not k.startswith(("bn2.", "bn21."))}
    line = refusal("unet", first)
    assert "bn2.running_mean is missing" in line
    assert "bn21.weight is missing" in line


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers(value):
    first = state("fcn")
    first["conv1.weight"] = first["conv1.weight"].copy()
    first["conv1.weight"].flat[3] = value
    assert "conv1.weight holds NaN or infinity." in refusal("fcn", first)


def test_integers_in_place_of_weights():
    first = state("fcn")
    first["conv1.bias"] = np.zeros(2, np.int64)
    assert "conv1.bias holds int64" in refusal("fcn", first)


def test_long_lists_are_cut():
    line = refusal("unet", state("fcn"))
    assert len(line) < 700
    assert "bnd1.weight is unknown" in line
    assert " more. Give weights of this network" in line


def test_a_file_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    first = {k: torch.from_numpy(v.copy()) for k, v in state("fcn").items()}
    torch.save(first, tmp_path / "net.pth")
    assert load_torch_weights("fcn", tmp_path / "net.pth", width=2)
    del first["classifier.bias"]
    torch.save(first, tmp_path / "net.pth")
    line = refusal("fcn", tmp_path / "net.pth")
    assert line.startswith(f"{tmp_path / 'net.pth'} does not fit fcn: ")
    assert "classifier.bias is missing" in line


@pytest.mark.parametrize("call", [load_torch_weights, to_torch])
def test_unknown_network(call):
    with pytest.raises(InputError, match="'vgg': choose one of fcn, "):
        call("vgg", {})
