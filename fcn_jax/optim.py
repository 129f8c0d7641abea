"""Adam with L2 as PyTorch has it, learning-rate schedules, and parts with a rate of their own."""

import jax.numpy as jnp
import optax

from fcn_jax.config import OptimConfig

Schedule = optax.Schedule


def cosine_annealing(lr: float, eta_min: float, t_max: int) -> Schedule:
    """PyTorch's `CosineAnnealingLR`, a step at a time, for every t, also past t_max.

    eta_t = eta_min + (lr - eta_min) (1 + cos(pi t / t_max)) / 2: it falls (or, where eta_min is
    above lr as in the paper, rises) to eta_min at t_max and is back at lr at 2 t_max.
    """

    def rate(step):
        # The period is taken in integers: cos of a large float32 angle loses its digits.
        angle = jnp.pi * (jnp.asarray(step) % (2 * t_max)) / t_max
        return eta_min + (lr - eta_min) * (1.0 + jnp.cos(angle)) / 2.0

    return rate


def make_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """The learning rate as a function of the step, 0 <= step < total_steps."""
    if config.schedule == "constant":
        if not config.warmup:
            return optax.constant_schedule(config.lr)
        return optax.linear_schedule(config.lr / config.warmup, config.lr, config.warmup)
    if config.schedule == "cosine_annealing":
        return cosine_annealing(config.lr, config.eta_min, config.t_max)
    if config.schedule == "cosine":
        warmup = min(config.warmup, max(total_steps - 1, 0))
        return optax.warmup_cosine_decay_schedule(
            init_value=config.lr / warmup if warmup else config.lr,
            peak_value=config.lr,
            warmup_steps=warmup,
            decay_steps=max(total_steps, 1),
            end_value=config.eta_min,
        )
    raise ValueError(f"schedule {config.schedule!r}: choose constant, cosine_annealing or cosine")


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Build the optimizer; its updates are added to the parameters.

    `adam` is PyTorch's `Adam(lr, weight_decay=w)`: w * p is added to the gradient, then the moments
    (betas 0.9 and 0.999, eps 1e-8 outside the root). `adamw` subtracts lr * w * p instead.
    """
    if config.backbone_scale is None:
        return _adam(config, make_schedule(config, total_steps))
    schedule = make_schedule(config, total_steps)
    scale = config.backbone_scale
    slow = _adam(config, lambda step: scale * schedule(step)) if scale else optax.set_to_zero()
    return optax.multi_transform(
        {"backbone": slow, "rest": _adam(config, schedule)},
        lambda params: {k: "backbone" if k == "backbone" else "rest" for k in params},
    )


def _adam(config: OptimConfig, schedule: Schedule) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None
    moments = optax.scale_by_adam()
    order = {"adam": (decay, moments), "adamw": (moments, decay)}
    if config.name not in order:
        raise ValueError(f"optimizer {config.name!r}: choose adam or adamw")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else None
    parts = (clip, *order[config.name], optax.scale_by_learning_rate(schedule))
    return optax.chain(*(part for part in parts if part is not None))
