"""The benchmark's plain JAX: Flax's layers and optax's loss, as most programs are written."""

from collections.abc import Callable, Hashable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.networks import Op, network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """ResNet's bottleneck, or its basic block."""

    features: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, train: bool):
        """[N, H, W, C] -> [N, H / stride, W / stride, C']."""

        def conv_bn(x, features, size, stride=1):
            x = nn.Conv(
                features, (size, size), stride, use_bias=False, padding=size // 2, dtype=self.dtype
            )(x)
            return nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x)

        if self.bottleneck:
            y = nn.relu(conv_bn(x, self.features, 1))
            y = nn.relu(conv_bn(y, self.features, 3, self.stride))
            y = conv_bn(y, 4 * self.features, 1)
        else:
            y = nn.relu(conv_bn(x, self.features, 3, self.stride))
            y = conv_bn(y, self.features, 3)
        if x.shape != y.shape:
            x = conv_bn(x, y.shape[-1], 1, self.stride)
        return nn.relu(x + y)


class Network(nn.Module):
    """A list of layers, run in order."""

    ops: tuple[Op, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        """Normalised images [N, H, W, 3] -> float32 logits [N, H, W, classes]."""
        shape, kept = x.shape, []
        frozen = any(op.kind == "freeze" for op in self.ops)
        for op in self.ops:
            if op.kind == "push":
                kept.append(x)
            elif op.kind == "freeze":
                x, frozen = jax.lax.stop_gradient(x), False
            elif op.kind == "cat":
                x = jnp.concatenate([x, kept.pop()], -1)
            elif op.kind == "double":
                x = x.repeat(2, 1).repeat(2, 2)
            elif op.kind == "resize":
                x = jax.image.resize(x, (*shape[:3], x.shape[-1]), "bilinear")
            else:
                x = self.layer(op, x, train and not frozen)
        return x.astype(jnp.float32)

    @nn.nowrap
    def layer(self, op: Op, x, train: bool):
        """One layer with a stock module."""
        if op.kind == "relu":
            return nn.relu(x)
        if op.kind == "bn":
            return nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x)
        if op.kind in ("block", "basic"):
            return Block(op.features, op.stride, op.kind == "block", self.dtype)(x, train)
        window = (op.size, op.size)
        if op.kind == "pool":
            pad = (op.size - 1) // 2
            return nn.max_pool(x, window, (op.stride,) * 2, [(pad, pad)] * 2)  # type: ignore[arg-type]
        if op.kind == "up":
            return nn.ConvTranspose(op.features, window, (2, 2), dtype=self.dtype)(x)
        return nn.Conv(
            op.features, window, op.stride, padding=op.size // 2, use_bias=op.bias, dtype=self.dtype
        )(x)


def _trained(params: dict) -> dict:
    """Which layers are trained where the ResNet is frozen: not the first ones, nor the blocks."""
    return {k: k not in ("Conv_0", "BatchNorm_0") and not k.startswith("Block") for k in params}


def _normalise(image):
    return (image.astype(jnp.float32) / 255.0 - jnp.array(MEAN)) / jnp.array(STD)


def _cross_entropy(logits, mask):
    labelled = mask != 255
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.where(labelled, mask, 0).astype(jnp.int32)
    )
    return jnp.sum(losses * labelled) / jnp.sum(labelled)


def make(arch: str, classes: int, mode: str, dtype, size: tuple[int, int], frozen: bool):
    """(state, step): step(state, image uint8, mask uint8) -> result; to train, (state, result)."""
    model = Network(tuple(network(arch, classes, frozen)), dtype)
    example = jnp.zeros((1, *size, 3), jnp.float32)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(0), example, False)
    params, stats = variables["params"], variables.get("batch_stats", {})
    if mode == "train":
        optimizer = optax.chain(optax.add_decayed_weights(1e-5), optax.adam(1e-4))
        if any(op.kind == "freeze" for op in model.ops):
            rules: dict[Hashable, Any] = {True: optimizer, False: optax.set_to_zero()}
            optimizer = optax.multi_transform(rules, _trained)
        return (params, stats, optimizer.init(params)), _train_step(model, optimizer)

    def evaluate(state, image, mask):
        logits: Any = model.apply(state, _normalise(image), False)
        cells = jnp.where(mask == 255, classes, mask).astype(jnp.int32) * classes
        counts = jnp.bincount(
            (cells + jnp.argmax(logits, -1)).ravel(), length=(classes + 1) * classes
        )
        return counts, _cross_entropy(logits, mask)

    def predict(state, image, mask):
        logits: Any = model.apply(state, _normalise(image), False)
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    return {"params": params, "batch_stats": stats}, {"eval": evaluate, "predict": predict}[mode]


def _train_step(model: Network, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    forward: Callable[..., Any] = model.apply

    def loss(params, stats, image, mask):
        variables = {"params": params, "batch_stats": stats}
        logits, updated = forward(variables, _normalise(image), True, mutable=["batch_stats"])
        return _cross_entropy(logits, mask), updated.get("batch_stats", {})

    def train(state, image, mask):
        params, stats, moments = state
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, image, mask)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), stats, moments), value

    return train
