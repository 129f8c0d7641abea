"""The pure steps: one trace, gradients everywhere, the key's purity, sharding, void and filler."""

import subprocess
import sys
import textwrap
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import losses, models, optim
from fcn_jax.config import AugmentConfig, LossConfig
from fcn_jax.data import batches
from fcn_jax.models import layers
from fcn_jax.training import steps
from fcn_jax.types import VOID, Batch
from fcn_jax.weights import initialize
from tests import fakes

SIZE = (32, 32)
KEY = jax.random.key(0)


def _setup(augmentation=None, arch=None, weight_decay=1e-5, **kwargs):
    model = fakes.TinyNet() if arch is None else models.create_model(arch, 3)
    config = optim.OptimConfig(lr=1e-2, weight_decay=weight_decay)
    optimizer = optim.make_optimizer(config, 10)
    variables = initialize.random_init(model, KEY, SIZE)
    state = steps.init_state(optimizer, variables, ema=kwargs.get("ema", 0.0) > 0)
    step = steps.make_train_step(
        model, optimizer, image_size=SIZE, augmentation=augmentation, **kwargs
    )
    return model, state, step


def _padded(n=6, size=SIZE):
    return fakes.resized([fakes.example(i) for i in range(n)], size)


@pytest.mark.parametrize("augmentation", [None, AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0))])
def test_one_trace_for_chunks_of_any_length(augmentation):
    chex.clear_trace_counter()
    _, state, step = _setup(augmentation)
    examples = [fakes.example(i, 40 + i, 48 - i) for i in range(6)]
    padded = _padded() if augmentation is None else batches.full_resolution(examples)
    counted: Any = chex.assert_max_traces(step, n=2)  # once for shapes, once for the loop
    run = steps.jit_train_steps(counted)
    rows = np.arange(6, dtype=np.int32).reshape(3, 2)
    for count in (3, 1, 2):
        state, values = run(state, padded, rows, count, KEY)
        assert np.isfinite(values["loss"][:count]).all()
    assert state.step == 6


def test_chunks_equal_single_steps():
    _, state, step = _setup()
    padded, rows = _padded(), np.arange(6, dtype=np.int32).reshape(3, 2)
    run = steps.jit_train_steps(step)
    single = jax.tree.map(jnp.copy, state)
    chunk, values = run(jax.tree.map(jnp.copy, state), padded, rows, 3, KEY)
    losses = []
    for row in rows:
        single, value = run(single, padded, row[None], 1, KEY)
        losses.append(value["loss"][0])
    np.testing.assert_allclose(values["loss"], losses, rtol=1e-5)
    chex.assert_trees_all_close(chunk.params, single.params, rtol=1e-4, atol=1e-6)


def test_a_step_depends_on_the_key_and_the_step_number_only():
    _, state, step = _setup(AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0)))
    batch = batches.full_resolution([fakes.example(i) for i in range(2)])
    step = jax.jit(step)
    first, again = step(state, batch, KEY), step(state, batch, KEY)
    chex.assert_trees_all_equal(first, again)
    later = step(state._replace(step=state.step + 1), batch, KEY)
    assert later[1]["loss"] != first[1]["loss"]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_after_a_batch_of_only_void_weight_decay_alone_moves_the_parameters(weight_decay):
    _, state, step = _setup(weight_decay=weight_decay)
    batch = _padded(2)
    batch = Batch(batch.image, np.full_like(batch.mask, VOID), batch.size)
    after, values = jax.jit(step)(state, batch, KEY)
    assert values["loss"] == 0.0
    assert values["grad_norm"] == 0.0
    # Adam's first step is lr * sign(gradient), and the gradient is weight_decay * p.
    expected = jax.tree.map(lambda p: p - 1e-2 * np.sign(p) * (weight_decay > 0), state.params)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(after.batch_stats["bn1"]["mean"], state.batch_stats["bn1"]["mean"])


PADDING = AugmentConfig(scale_jitter=(0.4, 0.6), rotation=30.0)


@pytest.mark.parametrize("augmentation", [None, PADDING])
def test_void_counts_as_background_only_when_asked_and_padding_never(augmentation):
    examples = [fakes.example(i, 40 - i, 44 + i) for i in range(2)]
    clean = [
        e._replace(mask=np.where(e.mask == VOID, 0, e.mask).astype(np.uint8)) for e in examples
    ]
    form = partial(fakes.resized, size=SIZE) if augmentation is None else batches.full_resolution

    def loss(examples, folded):
        _, state, step = _setup(augmentation, void_class=0 if folded else None)
        return float(jax.jit(step)(state, form(examples), KEY)[1]["loss"])

    by_hand = loss(clean, folded=False)
    assert loss(examples, folded=True) == pytest.approx(by_hand, rel=1e-6)
    assert loss(examples, folded=False) != pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("void_class", [None, 0])
def test_filler_rows_count_nothing(void_class):
    model, state, _ = _setup()
    padded = _padded(3)
    run = steps.jit_eval_step(steps.make_eval_step(model, 3, void_class=void_class))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    whole = run(variables, padded, np.array([0, 1], np.int32))
    filled = run(variables, padded, np.array([0, 3], np.int32))
    np.testing.assert_array_equal(whole.counts[0], filled.counts[0])
    assert filled.weight[1] == filled.loss[1] == 0
    assert filled.counts[1, :-1].sum() == 0


def test_moving_average_by_hand():
    _, state, step = _setup(ema=0.75)
    after, _ = jax.jit(step)(state, _padded(2), KEY)
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, state.params, after.params)
    chex.assert_trees_all_close(after.ema[0], expected, rtol=1e-5, atol=1e-7)


class TwoHeads(nn.Module):
    """A network with an auxiliary head and no normalisation."""

    num_classes: int = 3
    aux: bool = True

    def setup(self):
        self.conv, self.head, self.aux_head = layers.Conv(8), layers.Conv(3), layers.Conv(3)

    def __call__(self, images, train: bool = False):
        return self.with_aux(images, train)[0]

    def with_aux(self, images, train: bool = False):
        x = nn.relu(self.conv(images))
        return self.head(x), self.aux_head(x)


def _two_heads(loss, **kwargs):
    optimizer = optim.make_optimizer(optim.OptimConfig(name="sgd", lr=0.1), 10)
    model = TwoHeads()
    state = steps.init_state(optimizer, initialize.random_init(model, KEY, SIZE))
    step = steps.make_train_step(model, optimizer, image_size=SIZE, loss=loss, **kwargs)
    return model, state, jax.jit(step)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_auxiliary_heads_loss_is_added(weight):
    model, state, step = _two_heads(LossConfig(aux_weight=weight))
    batch = _padded(2)
    both: Any = model.apply(
        {"params": state.params}, batches.normalize(batch.image), method="with_aux"
    )
    main, aux = (losses.ratio(*losses.softmax_cross_entropy(x, batch.mask)) for x in both)
    after, values = step(state, batch, KEY)
    np.testing.assert_allclose(values["loss"], main + weight * aux, rtol=1e-5)
    moved = np.abs(after.params["aux_head"]["kernel"] - state.params["aux_head"]["kernel"]).max()
    assert (moved > 1e-4) == (weight > 0)


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_in_parts_is_that_of_the_whole_batch(parts):
    loss = LossConfig(dice=0.5, lovasz=0.5, label_smoothing=0.1)  # two are no sums over images
    weights = jnp.array([0.2, 1.0, 3.0])
    found = []
    for accumulate in (1, parts):
        _, state, step = _two_heads(loss, class_weights=weights, accumulate=accumulate)
        found.append(step(state, _padded(4), KEY))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


def test_batch_norm_sees_the_parts_one_after_another():
    model, state, step = _setup(accumulate=2)
    batch = _padded(4)
    after, _ = jax.jit(step)(state, batch, KEY)
    stats = state.batch_stats
    for half in (batch.image[::2], batch.image[1::2]):
        variables = {"params": state.params, "batch_stats": stats}
        _, updated = model.apply(variables, batches.normalize(half), True, mutable=["batch_stats"])
        stats = updated["batch_stats"]
    chex.assert_trees_all_close(after.batch_stats, stats, rtol=1e-5)


def _on_eight_devices(code: str) -> str:
    """What it prints, in a process of its own: the number of devices is fixed when jax starts."""
    start = """
        import os
        os.environ["JAX_NUM_CPU_DEVICES"] = "8"
        import jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from fcn_jax import models, optim
        from fcn_jax.training import steps
        from fcn_jax.weights import initialize
        from fcn_jax.data import batches
        from fcn_jax.config import AugmentConfig
        from fcn_jax.config import LossConfig
        from tests import fakes
        key, size, n = jax.random.key(0), (32, 32), 8
        padded = fakes.resized([fakes.example(i) for i in range(n)], size)
        rows = np.arange(n, dtype=np.int32)[None]
        optimizer = optim.make_optimizer(optim.OptimConfig(lr=1e-2), 10)
        def made(model, devices, **kinds):
            mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
            state = steps.init_state(optimizer, initialize.random_init(model, key, size))
            state, data = jax.device_put((state, padded), NamedSharding(mesh, P()))
            spread = NamedSharding(mesh, P("data")) if devices > 1 else None
            step = steps.make_train_step(
                model, optimizer, image_size=size, sharding=spread, **kinds
            )
            return steps.jit_train_steps(step, spread), state, data
    """
    program = textwrap.dedent(start) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one():
    printed = _on_eight_devices("""
        everything = {
            "loss": LossConfig(dice=1.0, lovasz=0.5, label_smoothing=0.1),
            "class_weights": np.array([0.2, 1.0, 3.0], np.float32),
            "augmentation": AugmentConfig(flip=0.5, crop_scale=(0.3, 1.0)),
        }
        for kinds, many in (({}, 8), (everything, 8), (everything | {"accumulate": 2}, 4)):
            ended = {}
            for devices in (1, many):
                run, state, data = made(fakes.TinyNet(), devices, **kinds)
                found = []
                for _ in range(5):
                    state, values = run(state, data, rows, 1, key)
                    found.append([float(values[k][0]) for k in ("loss", "grad_norm")])
                ended[devices] = found, state.batch_stats
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), *ended.values())
        print(ended[4][0][-1][0] < ended[4][0][0][0])
    """)
    assert printed == "True"


def test_eight_devices_keep_one_copy_of_statistics_that_each_takes_by_itself():
    """Flax's own batch norm sees the images of its device; what is saved must be what is used."""
    _on_eight_devices("""
        from tests.plugin_example import Net
        means = {}
        for devices in (1, 8):
            run, state, data = made(Net(3), devices)
            state, _ = run(state, data, rows, 1, key)
            copies = [
                [np.asarray(shard.data) for shard in leaf.addressable_shards]
                for leaf in jax.tree.leaves(state.batch_stats)
            ]
            for first, *others in copies:
                for other in others:
                    np.testing.assert_array_equal(first, other)
            means[devices] = state.batch_stats["BatchNorm_0"]["mean"]
        assert np.abs(means[1]).max() > 1e-4
        np.testing.assert_allclose(means[1], means[8], 1e-4, 1e-6)
    """)


@pytest.mark.slow
def test_eight_devices_share_the_optimizers_state():
    printed = _on_eight_devices("""
        from fcn_jax.runtime import distributed as hosts
        hosts.PART_SIZE = 128
        ended, where = {}, Mesh(np.array(jax.devices()), ("data",))
        for devices in (1, 8):
            run, state, data = made(fakes.TinyNet(), devices)
            if devices > 1:
                state = hosts.put_state(state, where)
                placed = jax.tree.map(lambda x: x.sharding, state)
            for _ in range(3):
                state, _ = run(state, data, rows, 1, key)
            ended[devices] = state.opt_state
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-6), *ended.values())
        # As they were placed, so that their buffers are used again; and in eight parts.
        same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, placed)
        assert all(jax.tree.leaves(same))
        assert all(x.is_fully_replicated for x in jax.tree.leaves(state.params))
        leaves = [x for x in jax.tree.leaves(state.opt_state) if x.size >= 128]
        print(len(leaves) > 1, {x.size // x.addressable_shards[0].data.size for x in leaves})
    """)
    assert printed == "True {8}"


@pytest.mark.slow
def test_eight_devices_evaluate_as_one():
    printed = _on_eight_devices("""
        model = models.create_model("simplified_unet", 3, width=64)  # in tiles, where that is fast
        variables = initialize.random_init(model, key, size)
        mesh = Mesh(np.array(jax.devices()), ("data",))
        found = []
        for sharding in (None, NamedSharding(mesh, P("data"))):
            place = NamedSharding(mesh, P()) if sharding else jax.devices()[0]
            step = steps.make_eval_step(model, 3, sharding=sharding)
            run = steps.jit_eval_step(step, sharding)
            found.append(run(*jax.device_put((variables, padded), place), rows[0]))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), *found)
        print(found[1].loss.is_fully_replicated, found[0].counts.sum() > 0)
    """)
    assert printed == "True True"


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_number_of_devices():
    _on_eight_devices("""
        from fcn_jax.models import layers
        from jax import shard_map
        layer, x = layers.Dropout(0.3), np.ones((8, 4, 4, 2), np.float32)
        drop = lambda x: layer.apply({}, x, True, rngs={"dropout": key})
        mesh = Mesh(np.array(jax.devices()), ("data",))
        each = P("data")
        spread = shard_map(drop, mesh=mesh, in_specs=each, out_specs=each, check_vma=False)
        whole = drop(x)
        np.testing.assert_array_equal(jax.jit(spread)(x), whole)
        assert np.unique(whole).size == 2 and not np.array_equal(whole[0], whole[1])
    """)


@pytest.mark.slow
def test_no_device_is_sent_the_others_activations():
    # To repeat their part of a convolution's gradient it would have to gather them first.
    printed = _on_eight_devices("""
        from fcn_jax.ops import im2col as patches
        patches.PATCH_BYTES = 2**10  # so that images are taken one after the other
        run, state, data = made(models.create_model("fcn", 3, width=4), 8)
        text = run.lower(state, data, rows, 1, key).compile().as_text()
        print("all-reduce" in text, "all-gather" in text)
    """)
    assert printed == "True False"


class _Counting(nn.Module):
    """Counts its calls in training, as an integer."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            calls.value = calls.value + 1
        return layers.Conv(self.num_classes, size=1, name="conv")(images)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_a_network_counts_in_integers_stays_an_integer(ema):
    model, size = _Counting(), (32, 32)
    optimizer = optim.make_optimizer(optim.OptimConfig(), 10)
    variables = initialize.random_init(model, jax.random.key(0), size)
    state = steps.init_state(optimizer, variables, ema > 0)
    step = steps.make_train_step(model, optimizer, image_size=size, ema=ema)
    images = fakes.resized([fakes.example(i) for i in range(2)], size)
    indices = np.zeros((2, 2), np.int32)
    state, _ = steps.jit_train_steps(step)(state, images, indices, 2, jax.random.key(1))
    chex.assert_trees_all_equal(state.batch_stats, {"calls": jnp.asarray(2, jnp.int32)})
    if ema:
        assert state.ema[1]["calls"] == 2
