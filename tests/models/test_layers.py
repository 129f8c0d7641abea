"""The layers against hand computation and against PyTorch's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax.models import layers
from fcn_jax.types import InputError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nchw(x):
    return np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2))


def apply(module, *arguments, **options) -> Any:
    """`module.apply`, whose own type leaves open whether there is a second result."""
    return module.apply(*arguments, **options)


# ---- initial weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
def test_fans_are_pytorchs(transposed):
    torch = pytest.importorskip("torch")
    layer = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    expected = torch.nn.init._calculate_fan_in_and_fan_out(layer(5, 7, 3).weight)
    assert layers.fans((3, 3, 5, 7), transposed) == expected


@pytest.mark.parametrize("transposed", [False, True])
def test_xavier_fills_its_bounds(transposed):
    weights = layers.xavier(transposed)(jax.random.key(0), (3, 3, 40, 60))
    bound = np.sqrt(6 / (9 * 40 + 9 * 60))
    assert 0.999 * bound < np.abs(weights).max() <= bound
    assert weights.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("transposed", "mode", "fan"),
    [(False, "fan_in", 9 * 40), (False, "fan_out", 9 * 60), (True, "fan_in", 9 * 60)],
)
def test_he_has_variance_two_over_fan(transposed, mode, fan):
    weights = layers.he(transposed, mode)(jax.random.key(0), (3, 3, 40, 60))
    assert weights.var() == pytest.approx(2 / fan, rel=0.03)
    assert abs(float(weights.mean())) < 3 * np.sqrt(2 / fan / weights.size)


def test_unknown_initialisation_is_named():
    with pytest.raises(InputError, match=r"'zeros'.*xavier"):
        layers.initializer("zeros")


# ---- convolutions --------------------------------------------------------------------------------


def test_conv_adds_up_its_window():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    variables = {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.array([10.0])}}
    y = apply(layers.Conv(1, stride=2), variables, x)
    # corners of the image padded by one zero: 0+1+3+4, 1+2+4+5, 3+4+6+7, 4+5+7+8
    np.testing.assert_array_equal(y[0, :, :, 0], [[18, 22], [30, 34]])


def test_transposed_conv_of_one_pixel_is_its_kernel():
    kernel = jnp.arange(4.0).reshape(2, 2, 1, 1)
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(1)}}
    y = apply(layers.ConvTranspose(1, size=2), variables, jnp.full((1, 1, 1, 1), 2.0))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [4, 6]])


@pytest.mark.parametrize("layer", [layers.Conv, layers.ConvTranspose])
def test_bfloat16_layer_keeps_float32_parameters_and_bias_gradient(layer):
    x = jnp.ones((1, 20, 20, 1))
    module = layer(1, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), x)["params"]
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    y = module.apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    grads = jax.jit(jax.grad(lambda p: module.apply({"params": p}, x).sum()))(params)
    assert grads["bias"] == y.size  # bfloat16 cannot count beyond 256


# ---- batch normalisation -------------------------------------------------------------------------


def batch_norm(scale=2.0, bias=1.0):
    stats = {"mean": jnp.array([3.0]), "var": jnp.array([4.0])}
    return {
        "params": {"scale": jnp.array([scale]), "bias": jnp.array([bias])},
        "batch_stats": stats,
    }


def test_evaluation_uses_the_running_statistics():
    x = jnp.array([5.0]).reshape(1, 1, 1, 1)
    y = apply(layers.BatchNorm(epsilon=0.0), batch_norm(), x, False)
    assert float(y[0, 0, 0, 0]) == 2.0 * (5.0 - 3.0) / 2.0 + 1.0


def test_training_normalises_with_biased_and_records_unbiased_variance():
    x = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)  # mean 2, variance 1 biased, 2 unbiased
    norm = layers.BatchNorm(epsilon=0.0)
    y, updated = apply(norm, batch_norm(), x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [2 * -1 + 1, 2 * 1 + 1])
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.9 * 3 + 0.1 * 2], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 * 4 + 0.1 * 2], rtol=1e-6)


def test_a_single_value_does_not_spoil_the_statistics():
    x = jnp.ones((1, 1, 1, 1))
    _, updated = apply(layers.BatchNorm(), batch_norm(), x, True, mutable=["batch_stats"])
    assert np.isfinite(updated["batch_stats"]["var"]).all()


def test_batch_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    x, dy = normal(4, 9, 7, 8) * 2 + 1, normal(4, 9, 7, 8, seed=1)
    bn = torch.nn.BatchNorm2d(8)
    torch.nn.init.normal_(bn.weight)
    torch.nn.init.normal_(bn.bias)
    theirs_x = torch.from_numpy(nchw(x)).requires_grad_()
    theirs = bn(theirs_x)
    theirs.backward(torch.from_numpy(nchw(dy)))

    params = {"scale": bn.weight.detach().numpy(), "bias": bn.bias.detach().numpy()}
    stats = {"mean": jnp.zeros(8), "var": jnp.ones(8)}

    def normalised(params, x):
        variables = {"params": params, "batch_stats": stats}
        return apply(layers.BatchNorm(), variables, x, True, mutable=["batch_stats"])

    ours, pullback, updated = jax.vjp(normalised, params, jnp.asarray(x), has_aux=True)
    grads, dx = pullback(jnp.asarray(dy))
    np.testing.assert_allclose(nchw(ours), theirs.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(nchw(dx), theirs_x.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(grads["scale"], bn.weight.grad.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grads["bias"], bn.bias.grad.numpy(), rtol=1e-4, atol=1e-4)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], bn.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], bn.running_var.numpy(), rtol=1e-5)


def test_variance_survives_a_mean_far_from_zero():
    x = normal(4, 9, 7, 1) + 1000.0  # squares of a million leave no digit for a variance of 1
    norm = layers.BatchNorm(momentum=1.0)
    _, updated = apply(norm, batch_norm(), x, True, mutable=["batch_stats"])
    expected = x.astype(np.float64).var(ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [expected], rtol=1e-4)


def test_bfloat16_batch_norm_counts_in_float32():
    x = jnp.concatenate([jnp.ones((1, 64, 64, 1)), 3 * jnp.ones((1, 64, 64, 1))]).astype("bfloat16")
    y, updated = apply(layers.BatchNorm(), batch_norm(), x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.9 * 3 + 0.1 * 2], rtol=1e-6)


# ---- cropping, resizing --------------------------------------------------------------------------


def test_crops():
    x = jnp.arange(20).reshape(1, 4, 5, 1)
    np.testing.assert_array_equal(layers.crop(x, (2, 3))[0, :, :, 0], [[0, 1, 2], [5, 6, 7]])
    # rows 1 and 2 of 4; columns 1, 2, 3 of 5
    np.testing.assert_array_equal(
        layers.centre_crop(x, (2, 3))[0, :, :, 0], [[6, 7, 8], [11, 12, 13]]
    )
    # one too many: the first stays
    np.testing.assert_array_equal(layers.centre_crop(x, (3, 4))[0, :, 0, 0], [0, 5, 10])


def test_resize_doubles_with_half_pixel_centres():
    y = layers.resize_bilinear(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 4))
    np.testing.assert_allclose(y[0, 0, :, 0], [0, 1, 3, 4])


@pytest.mark.parametrize(
    ("source", "target"),
    [((7, 7), (224, 224)), ((5, 9), (33, 13)), ((2, 1), (3, 4)), ((16, 16), (1, 1))],
)
def test_resize_is_pytorchs(source, target):
    torch = pytest.importorskip("torch")
    x = normal(2, *source, 3)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(nchw(x)), size=target, mode="bilinear", align_corners=False
    )
    ours = layers.resize_bilinear(jnp.asarray(x), target)
    np.testing.assert_allclose(nchw(ours), theirs.numpy(), atol=3e-6)


def test_resize_of_a_constant_is_the_constant():
    y = layers.resize_bilinear(jnp.full((1, 5, 3, 2), 2.5, jnp.bfloat16), (17, 31))
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, np.full((1, 17, 31, 2), 2.5), rtol=1e-6)
