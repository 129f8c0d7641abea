"""Batch norm's statistics, re-estimated for the parameters that are about to be evaluated.

The running statistics belong to parameters that have moved on since, and after a few steps they
still hold some of their start; a moving average of the parameters never had statistics at all.
Here they become the plain average of what some training batches give under the very parameters
that are evaluated, without augmentation, as validation sees its images: "precise" batch norm (Wu
and Johnson 2021, arXiv:2105.07576, section 3), PyTorch's `swa_utils.update_bn`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding

from fcn_jax.data import augment, batches
from fcn_jax.models.layers import BatchNorm
from fcn_jax.training import steps
from fcn_jax.types import Batch, InputError

Program = Callable[[tuple[dict, int], Batch, np.ndarray], Any]
"""((variables, batches seen), images, indices [B]) -> statistics that also know this batch."""


def make_program(
    model, image_size: tuple[int, int], sharding: NamedSharding | None = None
) -> Program:
    """Build the jitted program of one batch.

    Args:
      model: its batch norms are `layers.BatchNorm` or Flax's; frozen ones keep their statistics,
        bit for bit.
      image_size: height and width that images are resized to, whatever the padded batch's.
      sharding: of the batch over the devices; the statistics are those of the whole batch.

    The program raises `InputError` when it is traced if the network has other batch statistics.
    """

    def step(carried: tuple[dict, int], batch: Batch):
        variables, seen = carried
        plain = augment.AugmentConfig()  # draws nothing, so the key does not matter
        image, _ = augment.augment(jax.random.key(0), batch, image_size, plain)
        rates: dict[tuple[str, ...], float] = {}
        apply = partial(model.apply, variables, batches.normalize(image), train=True)
        with nn.intercept_methods(_note_rates(rates)):
            try:
                _, moved = apply(mutable=["batch_stats"])
            except flax.errors.InvalidRngError:  # Flax's dropout; ours is off without a key
                rates.clear()
                _, moved = apply(mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})

        def average(path, old, new):
            # The layer went `rate` of the way to the batch's statistics, the average of n batches
            # has to go 1 / n of it; the first goes the whole way, so that nothing old is left.
            rate = _rate(rates, path)
            return old + (new - old) / (rate * (seen + 1)) if rate else old

        old = variables["batch_stats"]
        return jax.tree_util.tree_map_with_path(average, old, moved["batch_stats"])

    return steps.jit_eval_step(step, sharding)


def estimate(program: Program, params, stats, loaded: Iterable[tuple[Batch, np.ndarray]]):
    """The statistics of `params` over the batches that are loaded, averaged.

    Args:
      program: `make_program`'s.
      params: to take them for.
      stats: of the same network, as they were.
      loaded: (images, indices) of at least one batch, as a `loader.Loader` gives them.

    A network without batch norm has none, and gets none.
    """
    if not stats:
        return stats
    for seen, (images, indices) in enumerate(loaded):
        stats = program(({"params": params, "batch_stats": stats}, seen), images, indices)
    return stats


def _note_rates(rates: dict[tuple[str, ...], float]):
    """An interceptor that notes how far each batch norm moves to the statistics of a batch."""

    def note(call, args, kwargs, context):
        layer = context.module
        if isinstance(layer, BatchNorm | nn.BatchNorm):
            kept = layer.momentum if isinstance(layer, nn.BatchNorm) else 1.0 - layer.momentum
            # A layer that is called several times moves as often.
            rates[layer.path] = 1.0 - (1.0 - rates.get(layer.path, 0.0)) * kept
        return call(*args, **kwargs)

    return note


def _rate(rates: dict[tuple[str, ...], float], path) -> float:
    """The rate of the layer that the statistics at `path` belong to."""
    layer = tuple(entry.key for entry in path[:-1])
    if layer not in rates:
        raise InputError(
            f"{'/'.join(layer) or 'the network'} is no batch norm of fcn_jax or Flax: its "
            "statistics cannot be re-estimated, do not ask for it"
        )
    return rates[layer]
