"""Optimizers and schedules, against PyTorch and by hand."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fcn_jax import optim
from fcn_jax.config import OptimConfig


def update(optimizer, gradients, state, params) -> Any:
    """`optimizer.update`, whose own type is a tree of anything."""
    return optimizer.update(gradients, state, params)


def test_cosine_annealing_is_pytorchs_also_past_t_max():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=10, eta_min=1e-3)
    rate = optim.cosine_annealing(1e-4, 1e-3, 10)
    for step in range(45):
        assert float(rate(step)) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-4)
        adam.step()
        scheduler.step()


def test_cosine_annealing_by_hand():
    rate = optim.cosine_annealing(1.0, 0.0, 4)
    half = [1, 0.8535534, 0.5, 0.1464466, 0]
    np.testing.assert_allclose([rate(t) for t in range(9)], half + half[3::-1], atol=1e-6)
    assert float(rate(8 * 10**8)) == pytest.approx(1.0)  # no drift far out


def test_one_cycle_warms_up_and_ends_at_eta_min():
    rate = optim.make_schedule(
        OptimConfig(lr=1.0, schedule="cosine", warmup=4, eta_min=0.1), total_steps=20
    )
    values = [float(rate(t)) for t in range(21)]
    assert values[0] == pytest.approx(0.25)
    assert values[4] == max(values) == pytest.approx(1.0)
    assert values[20] == pytest.approx(0.1)


def test_adam_with_l2_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5,)).astype(np.float32)
    grads = rng.normal(size=(7, 5)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    adam = torch.optim.Adam([theirs], lr=1e-2, weight_decay=0.3)
    ours: Any = {"w": jnp.asarray(start)}
    optimizer = optim.make_optimizer(OptimConfig(lr=1e-2, weight_decay=0.3), 7)
    state = optimizer.init(ours)
    for gradient in grads:
        theirs.grad = torch.tensor(gradient)
        adam.step()
        updates, state = update(optimizer, {"w": jnp.asarray(gradient)}, state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours["w"], theirs.detach(), rtol=2e-5)


def test_adam_and_adamw_differ_where_they_should():
    # A zero gradient: AdamW still shrinks by lr * w, Adam with L2 takes a whole step of lr.
    params = {"w": jnp.array([2.0])}
    moved = {}
    for name in ("adam", "adamw"):
        optimizer = optim.make_optimizer(OptimConfig(name=name, lr=0.1, weight_decay=0.5), 1)
        updates, _ = update(optimizer, {"w": jnp.zeros(1)}, optimizer.init(params), params)
        moved[name] = float(updates["w"][0])
    assert moved["adam"] == pytest.approx(-0.1, rel=1e-4)
    assert moved["adamw"] == pytest.approx(-0.1 * 0.5 * 2.0, rel=1e-4)


def test_backbone_is_frozen_or_slower():
    params = {"backbone": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}}
    grads = jax.tree.map(jnp.ones_like, params)
    for scale in (0.0, 0.1):
        config = OptimConfig(lr=1.0, weight_decay=0.0, backbone_scale=scale)
        optimizer = optim.make_optimizer(config, 10)
        updates, _ = update(optimizer, grads, optimizer.init(params), params)
        np.testing.assert_allclose(updates["head"]["w"], -1.0, rtol=1e-4)
        np.testing.assert_allclose(updates["backbone"]["w"], -scale, rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_pytorchs(momentum):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5,)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.tensor(start))
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, weight_decay=0.3)
    config = OptimConfig(name="sgd", lr=0.1, momentum=momentum, weight_decay=0.3)
    optimizer, ours = optim.make_optimizer(config, 7), cast(Any, jnp.asarray(start))
    state = optimizer.init(ours)
    for gradient in rng.normal(size=(7, 5)).astype(np.float32):
        theirs.grad = torch.tensor(gradient)
        sgd.step()
        updates, state = update(optimizer, jnp.asarray(gradient), state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(np.asarray(ours), theirs.detach(), rtol=2e-5)


def test_sgd_with_momentum_by_hand():
    optimizer = optim.make_optimizer(OptimConfig(name="sgd", lr=1.0, weight_decay=0.0), 2)
    params, gradient = jnp.zeros(()), jnp.ones(())
    state = optimizer.init(params)
    for expected in (-1.0, -1.9, -2.71):  # the sum of 0.9^k
        moved, state = update(optimizer, gradient, state, params)
        assert float(moved) == pytest.approx(expected)


def test_poly_is_pytorchs():
    torch = pytest.importorskip("torch")
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(sgd, total_iters=20, power=0.9)
    rate = optim.make_schedule(OptimConfig(lr=0.5, schedule="poly"), 20)
    for step in range(23):
        assert float(rate(step)) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5, abs=1e-8)
        sgd.step()
        scheduler.step()


def test_poly_warms_up():
    rate = optim.make_schedule(OptimConfig(lr=1.0, schedule="poly", warmup=4), 14)
    rising = [0.25, 0.4375, 0.625, 0.8125, 1.0]
    expected = [*rising, 0.9**0.9, 0.5**0.9, 0.0]
    np.testing.assert_allclose([rate(t) for t in (0, 1, 2, 3, 4, 5, 9, 14)], expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "poly"])
def test_every_schedule_warms_up_alike(schedule):
    rate = optim.make_schedule(OptimConfig(lr=1.0, schedule=schedule, warmup=4), 14)
    rising = [0.25, 0.4375, 0.625, 0.8125, 1.0]
    np.testing.assert_allclose([rate(t) for t in range(5)], rising, rtol=1e-6)


PARAMS = {
    "backbone": {"conv1": jnp.ones(2), "layer1_0": jnp.ones(2), "layer2_0": jnp.ones(2)},
    "head": jnp.ones(2),
}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_frozen_stages_never_move_though_the_weights_decay(name):
    config = OptimConfig(name=name, lr=0.1, weight_decay=0.5, backbone_scale=0.1)
    frozen = ("backbone/conv1", "backbone/layer1_")
    optimizer = optim.make_optimizer(config, 10, frozen=frozen)
    state = optimizer.init(PARAMS)
    updates, _ = update(optimizer, jax.tree.map(jnp.zeros_like, PARAMS), state, PARAMS)
    for stage in ("conv1", "layer1_0"):
        assert (updates["backbone"][stage] == 0).all()
    assert (updates["head"] < 0).all()
    np.testing.assert_allclose(updates["backbone"]["layer2_0"], 0.1 * updates["head"], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_backbone_starts_after_its_delay(name):
    config = OptimConfig(name=name, lr=0.1, backbone_delay=2)
    optimizer, params = optim.make_optimizer(config, 10), PARAMS
    state = optimizer.init(params)
    for step in range(4):
        updates, state = update(optimizer, jax.tree.map(jnp.ones_like, params), state, params)
        moved = [bool((u != 0).all()) for u in jax.tree.leaves(updates["backbone"])]
        assert moved == [step >= 2] * 3
        assert (updates["head"] != 0).all()


def test_the_gradient_is_clipped_by_the_norm_of_all_parameters():
    config = OptimConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, backbone_scale=1.0)
    config = dataclasses.replace(config, clip_norm=1.0)
    params = {"backbone": {"w": jnp.zeros(1)}, "head": jnp.zeros(1)}
    optimizer = optim.make_optimizer(config, 1)
    grads = {"backbone": {"w": jnp.array([3.0])}, "head": jnp.array([4.0])}
    updates, _ = update(optimizer, grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["backbone"]["w"], -0.6, rtol=1e-6)  # the norm is 5
    np.testing.assert_allclose(updates["head"], -0.8, rtol=1e-6)


@pytest.mark.parametrize("field", [{"name": "rmsprop"}, {"schedule": "step"}])
def test_unknown_names_are_refused(field):
    with pytest.raises(ValueError, match="choose"):
        optim.make_optimizer(OptimConfig(**field), 10)
