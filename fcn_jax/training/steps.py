"""The pure, jitted training and evaluation steps.

A train step is `(state, batch, key) -> (state, metrics)`, an eval step
`(variables, batch) -> EvalSums`; `jit_train_steps` and `jit_eval_step` run them on indices of
padded batches, several training steps as one program. `make_train_step` and `make_eval_step` build
the steps from a model and an optimizer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from fcn_jax import losses, metrics
from fcn_jax.config import LossConfig, plugins
from fcn_jax.data import augment, batches
from fcn_jax.models import convention
from fcn_jax.runtime import distributed, xla_options
from fcn_jax.types import VOID, Batch, TrainState

TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]

TrainProgram = Callable[
    [TrainState, Batch, np.ndarray, int, jax.Array], tuple[TrainState, dict[str, jax.Array]]
]
"""`jit_train_steps`' program: (state, images, indices [S, B], count, key)."""


class EvalSums(NamedTuple):
    """What one evaluation step measures, per image."""

    counts: Any
    """int32 [B, K+1, K]: see `metrics.confusion_counts`."""
    loss: Any
    """float32 [B]: summed over the image's pixels."""
    weight: Any
    """float32 [B]: what the loss is to be divided by."""


def init_state(
    optimizer: optax.GradientTransformation, variables: dict, ema: bool = False
) -> TrainState:
    """State before the first step.

    Args:
      optimizer: its state is made for the parameters.
      variables: {"params", "batch_stats"} to start from.
      ema: whether a moving average of the variables is kept.
    """
    params, stats = variables["params"], variables.get("batch_stats", {})
    average = jax.tree.map(jnp.copy, (params, stats)) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params), average)


def _read_void(batch: Batch, void_class: int | None) -> Batch:
    """Relabel the void pixels inside each image as `void_class`; None: leave them.

    The paper counts void as background. What lies outside of the image stays void, so this comes
    before any augmentation, whose padding is void too.
    """
    if void_class is None:
        return batch
    rows, cols = (jnp.arange(n, dtype=jnp.int32)[None] for n in batch.mask.shape[1:])
    inside = (rows < batch.size[:, :1])[:, :, None] & (cols < batch.size[:, 1:])[:, None, :]
    return batch._replace(
        mask=jnp.where(inside & (batch.mask == VOID), jnp.uint8(void_class), batch.mask)
    )


def make_train_step(
    model,
    optimizer: optax.GradientTransformation,
    *,
    image_size: tuple[int, int],
    loss: LossConfig | None = None,
    class_weights: jax.Array | None = None,
    augmentation: augment.AugmentConfig | None = None,
    void_class: int | None = None,
    ema: float = 0.0,
    accumulate: int = 1,
    sharding: NamedSharding | None = None,
) -> TrainStep:
    """Build `(state, batch, key) -> (state, metrics)`, a pure function to be jitted.

    The randomness of a step is `fold_in(key, state.step)` and nothing else. Without augmentation
    the batch must already be of `image_size`; with it, padded batches of any size. `void_class` is
    the class that void pixels count as; None: the loss ignores them. `sharding` is that of
    the batch; losses, statistics and gradients are those of the whole of it.

    The gradient is computed in `accumulate` parts of the batch, one after another, in the memory of
    one part. It is the gradient of the whole batch's loss up to rounding, whatever the loss, at the
    cost of a second forward pass. Two things depend on the number of parts: batch norm in training
    mode normalises each part by its own mean and variance, as if the batch were that small, and
    updates the running ones once a part; and dropout draws other values.

    Returns metrics as float32 scalars: `loss` (the value that was differentiated), `grad_norm`.
    """
    gradients = _gradients(model, loss or LossConfig(), class_weights, accumulate, sharding)
    augmented = None if augmentation is None else augment.make(augmentation, image_size)

    def train_step(state: TrainState, batch: Batch, key: jax.Array):
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = _read_void(batch, void_class)
        image, labels = batch.image, batch.mask
        if augmented is not None:
            image, labels = augmented(augment_key, batch)
        value, stats, grads = gradients(state.params, state.batch_stats, image, labels, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if ema:
            towards = lambda a, b: a + (1.0 - ema) * (b - a) if _is_float(b) else b
            average = jax.tree.map(towards, average, (params, stats))
        state = TrainState(state.step + 1, params, stats, opt_state, average)
        if sharding is not None:
            places = distributed.shardings(state, sharding.mesh)
            state = jax.lax.with_sharding_constraint(state, places)
        return state, {"loss": value, "grad_norm": optax.tree.norm(grads)}

    return train_step


def _is_float(array: Any) -> bool:
    """Whether an average of it is of its type; a network may count something in integers."""
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _gradients(
    model, loss: LossConfig, class_weights, accumulate: int, sharding: NamedSharding | None
):
    """Build `(params, stats, image, labels, key) -> (loss, new stats, gradients)`.

    With several devices each runs the program of its part of the batch: the loops of a CPU's
    convolutions go over images, which the compiler could only shard by repeating all on each.
    """
    axes = () if sharding is None else sharding.mesh.axis_names
    devices = 1 if sharding is None else sharding.mesh.size
    apply = _training_forward(model, loss)
    whole_loss = _loss_of_logits(loss, class_weights, axes)
    part_of_loss = lambda logits, labels: whole_loss(logits, labels) / devices
    local = _at_once(apply, part_of_loss)
    if accumulate > 1:
        local = _in_parts(apply, part_of_loss, accumulate)

    def gradients(*arguments):
        value, stats, grads = local(*arguments)
        value, grads = jax.lax.psum((value, grads), axes)
        # Already the same on every device, unless a plug-in's layers know nothing of the others.
        mean = lambda x: jax.lax.pmean(x, axes) if _is_float(x) else x
        return value, jax.tree.map(mean, stats), grads

    if sharding is None:
        return gradients
    replicated, split = PartitionSpec(), sharding.spec
    return jax.shard_map(
        gradients,
        mesh=sharding.mesh,
        in_specs=(replicated, replicated, split, split, replicated),
        out_specs=replicated,
        check_vma=False,  # so that psum is transposed to psum, which the gradient of the loss needs
    )


def _at_once(apply, loss):
    """Build `(params, stats, image, labels, key) -> (loss, new stats, gradients)`."""

    def forward(params, stats, image, labels, key):
        logits, stats = apply(params, stats, image, key)
        return loss(logits, labels), stats

    def gradients(*arguments):
        (value, stats), grads = jax.value_and_grad(forward, has_aux=True)(*arguments)
        return value, stats, grads

    return gradients


def _in_parts(apply, loss, accumulate: int):
    """As `_at_once`, in `accumulate` parts of the batch, one after another."""

    def gradients(params, stats, image, labels, key):
        # Every accumulate-th image, so that a part does not depend on the number of devices.
        images = image.reshape(-1, accumulate, *image.shape[1:]).swapaxes(0, 1)
        keys = jax.random.split(key, accumulate)

        def forward(stats, part):
            logits, stats = apply(params, stats, *part)
            return stats, logits

        def backward(grads, part):
            *inputs, cotangent = part
            pullback = jax.vjp(lambda params: apply(params, stats, *inputs)[0], params)[1]
            return jax.tree.map(jnp.add, grads, *pullback(cotangent)), None

        # All logits first: a loss of the batch as a whole is no sum over its parts.
        new_stats, logits = jax.lax.scan(forward, stats, (images, keys))
        value, cotangents = jax.value_and_grad(lambda logits: loss(_joined(logits), labels))(logits)
        zeros = jax.tree.map(jnp.zeros_like, params)
        grads, _ = jax.lax.scan(backward, zeros, (images, keys, cotangents))
        return value, new_stats, grads

    return gradients


def _joined(logits):
    """Logits [parts, N / parts, ...] of every head -> [N, ...], in the images' order."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), logits)


def _training_forward(model, loss: LossConfig):
    """Build `(params, stats, image, key) -> (logits, new stats)`.

    The logits are a tuple: the network's, and its auxiliary head's where that is trained.
    """
    # An auxiliary head is there for training only: nothing else calls it.
    method = "with_aux" if getattr(model, "aux", False) and loss.aux_weight else None

    def apply(params, stats, image, key):
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats},
            batches.normalize(image),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
            method=method,
        )
        return logits if method else (logits,), updated.get("batch_stats", {})

    return apply


def _loss_of_logits(loss: LossConfig, class_weights, axes: tuple[str, ...]):
    """Build `(logits, labels) -> loss` of the whole batch, of which a device holds a part."""
    across = partial(jax.lax.psum, axis_name=axes)
    criterion = partial(
        losses.softmax_cross_entropy,
        label_smoothing=loss.label_smoothing,
        focal_gamma=loss.focal_gamma,
    )
    if loss.function is not None:
        criterion = plugins.find(loss.function)

    def gather(tree):
        return jax.lax.all_gather(tree, axes, tiled=True) if axes else tree

    def one_head(logits, labels):
        total, weight = criterion(logits, labels, class_weights)
        value = losses.ratio(*across((total, weight)))
        if loss.dice:
            value = value + loss.dice * losses.soft_dice(logits, labels, across)
        if loss.lovasz:
            value = value + loss.lovasz * losses.lovasz_softmax(logits, labels, gather)
        return value

    def whole(logits, labels):
        value = one_head(logits[0], labels)
        for aux in logits[1:]:
            value = value + loss.aux_weight * one_head(aux, labels)
        return value

    return whole


def make_eval_step(
    model,
    num_classes: int,
    *,
    class_weights: jax.Array | None = None,
    void_class: int | None = None,
    sharding: NamedSharding | None = None,
) -> Callable[[dict, Batch], EvalSums]:
    """Build `(variables, batch) -> EvalSums`, a pure function to be jitted.

    The confusion counts keep void apart whatever `void_class` says: that only chooses what the loss
    is taken over. `sharding` is that of the batch.
    """

    def eval_step(variables: dict, batch: Batch) -> EvalSums:
        images = batches.normalize(batch.image)
        logits = convention.infer(model, variables, images, forward_only=False)
        predictions = jnp.argmax(logits, -1).astype(jnp.uint8)
        labels = _read_void(batch, void_class).mask
        loss, weight = losses.softmax_cross_entropy(logits, labels, class_weights, axis=(1, 2))
        counts = metrics.confusion_counts(batch.mask, predictions, num_classes)
        return EvalSums(counts, loss, weight)

    if sharding is None:
        return eval_step
    # Each device runs the program of its shard, as in training.
    specs = (PartitionSpec(), sharding.spec)
    return jax.shard_map(
        eval_step, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec, check_vma=False
    )


def jit_train_steps(train_step: TrainStep, sharding: NamedSharding | None = None) -> TrainProgram:
    """Several steps as one jitted program: `(state, images, indices [S, B], count, key)`.

    The first `count` of the S steps are made; as count is an argument, chunks of any length share
    one compiled program. The state is donated: its buffers are reused, so the caller must not touch
    the old one. `sharding` is that of the batch axis; losses and gradients are summed over the
    devices, so that they are those of the global batch.

    Returns the state after `count` steps and the metrics of each step, [S], zero past `count`.
    """

    def one(state, images, indices, key):
        return train_step(state, _batch(images, indices, sharding), key)

    @partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=(None, _whole(sharding)),  # the state's are the step's
        compiler_options=xla_options.options(),
    )
    def run(state, images, indices, count, key):
        if indices.shape[0] == 1:  # a loop would cost a copy of the state on CPU
            state, values = one(state, images, indices[0], key)
            return state, jax.tree.map(lambda v: v[None], values)

        def body(i, carry):
            state, table = carry
            state, values = one(state, images, indices[i], key)
            return state, jax.tree.map(lambda t, v: t.at[i].set(v), table, values)

        shapes = jax.eval_shape(one, state, images, indices[0], key)[1]
        table = jax.tree.map(lambda s: jnp.zeros((indices.shape[0], *s.shape), s.dtype), shapes)
        return jax.lax.fori_loop(0, count, body, (state, table))

    return run


def jit_eval_step(eval_step, sharding: NamedSharding | None = None):
    """One evaluation step on indices of images, jitted: `(variables, images, indices [B])`.

    Indices past the end are filler and count nothing.
    """
    return jax.jit(
        lambda variables, images, indices: eval_step(variables, _batch(images, indices, sharding)),
        out_shardings=_whole(sharding),
        compiler_options=xla_options.options(),
    )


def _whole(sharding: NamedSharding | None) -> NamedSharding | None:
    """Results are whole on every device, so that every process can read them."""
    return None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())


def _batch(images: Batch, indices: jax.Array, sharding) -> Batch:
    batch = batches.take(images, indices)
    if sharding is not None:
        batch = jax.lax.with_sharding_constraint(batch, sharding)
    return batch
