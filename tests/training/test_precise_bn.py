"""Batch norm's statistics re-estimated: by hand, frozen, in a run, on several devices."""

import os
import signal
import subprocess
import sys
import textwrap

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from fcn_jax import models
from fcn_jax.data import batches
from fcn_jax.inference import predict
from fcn_jax.models import layers
from fcn_jax.training import loop, precise_bn, setup
from fcn_jax.training.callbacks import Callback
from fcn_jax.types import InputError
from fcn_jax.weights import checkpoint, initialize
from tests import fakes

SIZE = (32, 32)
QUIET = loop.Runtime(show=False)


def _by_hand(variables, images):
    """What TinyNet's batch norm sees, batch for batch: mean, unbiased variance, both averaged."""
    means, variances = [], []
    for batch in images:
        _, state = fakes.TinyNet().apply(
            variables,
            batches.normalize(batch),
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, layers.Conv),
        )
        (convolved,) = jax.tree.leaves(state["intermediates"]["conv1"])
        seen = np.maximum(convolved, 0).reshape(-1, 8)
        means.append(seen.mean(0))
        variances.append(seen.var(0, ddof=1))
    return {"bn1": {"mean": np.mean(means, 0), "var": np.mean(variances, 0)}}


@pytest.mark.parametrize("full", [False, True])
def test_statistics_are_the_average_over_the_batches(full):
    model = fakes.TinyNet()
    variables = initialize.random_init(model, jax.random.key(0), SIZE)
    # Running statistics that are far off must leave no trace.
    stats = jax.tree.map(lambda x: x + 3.0, variables["batch_stats"])
    examples = [fakes.example(i, *SIZE) for i in range(6)]
    shape = (40, 48) if full else SIZE  # void and black around the image
    padded = batches.full_resolution(examples, shape)
    rows = np.array([[4, 0], [1, 5], [2, 3]], np.int32)
    program = precise_bn.make_program(model, SIZE)
    found = precise_bn.estimate(
        program, variables["params"], stats, [(padded, part) for part in rows]
    )
    images = [np.stack([examples[i].image for i in part]) for part in rows]
    chex.assert_trees_all_close(found, _by_hand(variables, images), rtol=2e-5, atol=2e-6)


class _Norms(nn.Module):
    """A convolution, and its result normalised by each kind of batch norm."""

    @nn.compact
    def __call__(self, images, train=False):
        x = layers.Conv(4, name="conv")(images)
        sown = layers.BatchNorm(momentum=0.01, name="slow")(x, train)
        sown = sown + nn.BatchNorm(momentum=0.98, use_running_average=not train, name="flax")(x)
        return sown + nn.BatchNorm(momentum=1.0, use_running_average=not train, name="still")(x)


def test_the_momentum_of_a_layer_does_not_matter():
    model = _Norms()
    variables = initialize.random_init(model, jax.random.key(0), SIZE)
    stats = jax.tree.map(lambda x: x + 3.0, variables["batch_stats"])
    padded = fakes.resized([fakes.example(i) for i in range(4)], SIZE)
    rows = np.array([[3, 0], [1, 2]], np.int32)
    program = precise_bn.make_program(model, SIZE)
    found = precise_bn.estimate(
        program, variables["params"], stats, [(padded, part) for part in rows]
    )
    seen = []
    for part in rows:
        normal = batches.normalize(padded.image[part])
        convolved = layers.Conv(4).apply({"params": variables["params"]["conv"]}, normal)
        seen.append(np.asarray(convolved).reshape(-1, 4))
    expected = {
        name: {"mean": np.mean([x.mean(0) for x in seen], 0), "var": np.mean(variances, 0)}
        for name, variances in (
            ("slow", [x.var(0, ddof=1) for x in seen]),  # PyTorch's is unbiased
            ("flax", [x.var(0) for x in seen]),
        )
    }
    chex.assert_trees_all_equal(found.pop("still"), stats["still"])
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-4)


class _Shared(nn.Module):
    """One batch norm for two convolutions, and Flax's dropout, which demands a key."""

    @nn.compact
    def __call__(self, images, train=False):
        norm = layers.BatchNorm(name="norm")
        x = norm(layers.Conv(4, name="conv1")(images), train)
        x = nn.Dropout(0.0, deterministic=not train)(x)
        return norm(layers.Conv(4, name="conv2")(x), train)


def test_a_batch_norm_that_is_called_twice_keeps_nothing_old():
    model = _Shared()
    variables = initialize.random_init(model, jax.random.key(0), SIZE)
    padded = fakes.resized([fakes.example(i) for i in range(2)], SIZE)
    program = precise_bn.make_program(model, SIZE)
    fed = [(padded, np.arange(2, dtype=np.int32))]
    found = [
        precise_bn.estimate(
            program,
            variables["params"],
            jax.tree.map(lambda x, o=offset: x + o, variables["batch_stats"]),
            fed,
        )
        for offset in (0.0, 5.0)
    ]
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-4)
    assert (np.asarray(found[0]["norm"]["var"]) > 0).all()


class _Counter(nn.Module):
    """Keeps a statistic of its own kind."""

    @nn.compact
    def __call__(self, images, train=False):
        seen = self.variable("batch_stats", "seen", lambda: np.zeros((), np.float32))
        if train:
            seen.value = seen.value + 1
        return layers.Conv(3, name="conv")(images)


def test_unknown_statistics_are_refused():
    padded = fakes.resized([fakes.example(0)], SIZE)
    variables = initialize.random_init(_Counter(), jax.random.key(0), SIZE)
    program = precise_bn.make_program(_Counter(), SIZE)
    fed = [(padded, np.zeros(1, np.int32))]
    with pytest.raises(InputError, match="is no batch norm"):
        precise_bn.estimate(program, variables["params"], variables["batch_stats"], fed)


def test_frozen_statistics_stay_and_the_rest_moves():
    model = models.create_model("resnet50_fcn", 3, width=4, freeze_backbone=True)
    variables = initialize.random_init(model, jax.random.key(0), SIZE)
    stats = variables["batch_stats"]
    padded = fakes.resized([fakes.example(i) for i in range(2)], SIZE)
    program = precise_bn.make_program(model, SIZE)
    fed = [(padded, np.arange(2, dtype=np.int32))] * 2
    found = precise_bn.estimate(program, variables["params"], stats, fed)
    chex.assert_trees_all_equal(found["backbone"], stats["backbone"])
    moved = jax.tree.leaves(
        jax.tree.map(lambda a, b: np.any(a != b), found["deconv3_bn"], stats["deconv3_bn"])
    )
    assert all(moved)


def test_a_network_without_batch_norm_is_left_alone():
    assert precise_bn.estimate(None, {}, {}, [(None, None)]) == {}  # pyright: ignore


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_is_evaluated_with_them_and_resumes_to_the_same_bits(tmp_path, ema):
    config = fakes.config(**{"bn_batches": 2, "optim.ema": ema})
    data = fakes.dataset()
    result = loop.train(config, data, tmp_path / "straight", QUIET)
    saved, meta = checkpoint.load(tmp_path / "straight" / "checkpoints")
    epoch = meta["progress"]["epoch"]
    rows = setup.build(config, data).epoch_indices(epoch - 1)
    train = fakes.resized(list(data.splits["train"]), SIZE)
    expected = _by_hand(saved, [train.image[part] for part in rows[:2]])
    chex.assert_trees_all_close(saved["batch_stats"], expected, rtol=2e-5, atol=2e-6)
    again = predict.load_checkpoint(tmp_path / "straight")
    assert loop.evaluate.evaluate_checkpoint(again, data).summary == result["val"]

    class Stop(Callback):
        def on_step(self, step):
            if step.step == 5:  # the first step of the third epoch
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(loop.Interrupted):
        loop.train(config, data, tmp_path / "stopped", QUIET, [Stop()])
    resumed = loop.train(config, data, tmp_path / "stopped", QUIET)
    assert resumed["val"] == result["val"]
    last = [
        checkpoint.load(tmp_path / name / "checkpoints", "latest")[0]
        for name in ("straight", "stopped")
    ]
    chex.assert_trees_all_equal(*last)


@pytest.mark.slow
def test_four_devices_give_the_statistics_of_one():
    # In a process of its own: the number of virtual devices is fixed when jax starts.
    code = """
        import os
        os.environ["JAX_NUM_CPU_DEVICES"] = "4"
        import chex, jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from fcn_jax.training import precise_bn
        from fcn_jax.weights import initialize
        from fcn_jax.data import batches
        from tests import fakes
        padded = fakes.resized([fakes.example(i) for i in range(8)], (32, 32))
        rows = np.array([[5, 2, 7, 0], [1, 3, 4, 6]], np.int32)
        model, found = fakes.TinyNet(), {}
        for devices in (1, 4):
            mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
            variables = initialize.random_init(model, jax.random.key(0), (32, 32))
            placed, data = jax.device_put((variables, padded), NamedSharding(mesh, P()))
            spread = NamedSharding(mesh, P("data")) if devices > 1 else None
            program = precise_bn.make_program(model, (32, 32), spread)
            found[devices] = jax.tree.map(np.asarray, precise_bn.estimate(
                program, placed["params"], placed["batch_stats"], [(data, r) for r in rows]
            ))
        chex.assert_trees_all_close(found[4], found[1], rtol=1e-5, atol=1e-6)
        print("agreed")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "agreed", done.stderr
