"""Adam and SGD with PyTorch's semantics, learning-rate schedules, and a rate for the backbone."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fcn_jax.config import OptimConfig, plugins
from fcn_jax.types import InputError

Schedule = Callable[[Any], Any]
"""Step -> learning rate, a scalar."""


def cosine_annealing(lr: float, eta_min: float, t_max: int) -> Schedule:
    """PyTorch's `CosineAnnealingLR`, a step at a time, for every t, also past t_max.

    eta_t = eta_min + (lr - eta_min) (1 + cos(pi t / t_max)) / 2: it falls (or, where eta_min is
    above lr as in the paper, rises) to eta_min at t_max and is back at lr at 2 t_max.

    Examples:
        >>> rate = cosine_annealing(lr=1.0, eta_min=0.5, t_max=10)
        >>> [float(rate(step)) for step in (0, 5, 10, 20)]
        [1.0, 0.75, 0.5, 1.0]
    """

    def rate(step):
        # The period is taken in integers: cos of a large float32 angle loses its digits.
        angle = jnp.pi * (jnp.asarray(step) % (2 * t_max)) / t_max
        return eta_min + (lr - eta_min) * (1.0 + jnp.cos(angle)) / 2.0

    return rate


def poly(lr: float, total_steps: int, warmup: int = 0, power: float = 0.9) -> Schedule:
    """Linear from lr / warmup to lr in `warmup` steps, then lr (1 - t / total)^power down to 0.

    t counts from the end of the warm-up, total likewise: PyTorch's `PolynomialLR` after it. The
    rate of DeepLab (Chen et al. 2016, arXiv:1606.00915).

    Args:
        lr: the highest rate.
        total_steps: of the run, the warm-up's among them; the rate is 0 from there on.
        warmup: steps of the warm-up.
        power: of the decay.
    """
    rising = _warmup(lr, warmup)

    def rate(step):
        step = jnp.asarray(step)
        left = (total_steps - step) / max(total_steps - warmup, 1)
        falling = lr * jnp.clip(left, 0.0, 1.0) ** power
        return jnp.where(step < warmup, rising(step), falling)

    return rate


def _warmup(lr: float, steps: int) -> Schedule:
    """Linear from lr / steps to lr, which it reaches after `steps` steps; constant for 0 steps."""
    return optax.linear_schedule(lr / steps, lr, steps) if steps else optax.constant_schedule(lr)


def make_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, 0 <= step < total_steps."""
    if config.schedule == "constant":
        return _warmup(config.lr, config.warmup)
    if config.schedule == "cosine_annealing":
        return cosine_annealing(config.lr, config.eta_min, config.t_max)
    warmup = min(config.warmup, max(total_steps - 1, 0))
    if config.schedule == "poly":
        return poly(config.lr, max(total_steps, 1), warmup)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.lr / warmup if warmup else config.lr,
        peak_value=config.lr,
        warmup_steps=warmup,
        decay_steps=max(total_steps, 1),
        end_value=config.eta_min,
    )


def make_optimizer(
    config: OptimConfig,
    total_steps: int,
    *,
    backbone: str = "backbone",
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Build the optimizer; its updates are added to the parameters.

    `adam` is PyTorch's `Adam(lr, weight_decay=w)`: w * p is added to the gradient, then the moments
    (betas 0.9 and 0.999, eps 1e-8 outside the root). `adamw` subtracts lr * w * p instead. `sgd` is
    PyTorch's `SGD(lr, momentum, weight_decay=w)`, without dampening.

    The backbone's rate is `backbone_scale` times the rest's. With `backbone_delay` it is 0 for
    that many steps; the moments of the backbone's gradients are accumulated from the start.

    Args:
        config: the optimizer.
        total_steps: of the run, for the schedules that end.
        backbone: where in the parameters the backbone is.
        frozen: prefixes of the paths of parameters that never move, such as `backbone/layer1_`:
            neither a gradient nor the weight decay reaches them.

    Examples:
        >>> optimizer = make_optimizer(OptimConfig(lr=0.5, weight_decay=0.0), total_steps=10)
        >>> params, gradients = {"w": jnp.array([2.0])}, {"w": jnp.array([3.0])}
        >>> updates, state = optimizer.update(gradients, optimizer.init(params), params)
        >>> round(float(updates["w"][0]), 4)  # Adam's first step has the size of the rate
        -0.5
    """
    schedule = make_schedule(config, total_steps)
    if config.backbone_scale is None and not frozen and not config.backbone_delay:
        optimizer = _rule(config, schedule)
    else:
        optimizer = _rules_by_part(config, schedule, backbone, tuple(frozen))
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _rules_by_part(
    config: OptimConfig, schedule: Schedule, backbone: str, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
    """The rule of `config`, with a rate for the backbone, another for the rest, 0 for `frozen`."""
    scale = 1.0 if config.backbone_scale is None else config.backbone_scale

    def slow(step):
        rate = scale * schedule(step)
        if not config.backbone_delay:
            return rate
        return jnp.where(step < config.backbone_delay, 0.0, rate)

    def part(path: Any, _) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith(frozen):
            return "frozen"
        return "backbone" if name.startswith(f"{backbone}/") else "rest"

    rules: dict[Hashable, Any] = {
        "backbone": _rule(config, slow) if scale else optax.set_to_zero(),
        **({"frozen": optax.set_to_zero()} if frozen else {}),
        "rest": _rule(config, schedule),
    }
    parts = lambda params: jax.tree_util.tree_map_with_path(part, params)
    return optax.multi_transform(rules, parts)


def _rule(config: OptimConfig, schedule: Schedule) -> optax.GradientTransformation:
    if plugins.is_plugin(config.name):
        return _plugin_rule(config, schedule)
    decay = optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None
    order = {
        "adam": (decay, optax.scale_by_adam()),
        "adamw": (optax.scale_by_adam(), decay),
        "sgd": (decay, optax.trace(config.momentum) if config.momentum else None),
    }
    parts = (*order[config.name], optax.scale_by_learning_rate(schedule))
    return optax.chain(*(part for part in parts if part is not None))


def _plugin_rule(config: OptimConfig, schedule: Schedule) -> optax.GradientTransformation:
    """An optimizer from outside: called with the schedule, and with the settings that it takes."""
    make = plugins.find(config.name)
    taken = inspect.signature(make).parameters
    settings = {"weight_decay": config.weight_decay, "momentum": config.momentum}
    rule = make(schedule, **{name: value for name, value in settings.items() if name in taken})
    if not isinstance(rule, optax.GradientTransformation):
        raise InputError(
            f"returns {type(rule).__name__}, not an optax.GradientTransformation",
            field="optim.name",
            value=config.name,
        )
    return rule
