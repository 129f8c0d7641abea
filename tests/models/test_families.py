"""What every kind of network must do in training; one small network of each class.

ONNX and StableHLO are in tests/inference/test_export.py, comparisons with PyTorch beside each
network's own tests.
"""

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import losses
from fcn_jax.config import Runtime
from fcn_jax.models import MODELS, create_model, mobilenet, registry, resnet
from fcn_jax.training import loop
from fcn_jax.training.callbacks import Callback
from fcn_jax.weights import checkpoint
from tests import fakes
from tests.models.variables import random_variables

ON_TINY = {"backbone": "tiny", "width": 8}
SMALL = {
    "fcn": {"width": 8},
    "simplified_unet": {"width": 8},
    "unet": {"width": 8},
    "resnet50_fcn": {**ON_TINY, "freeze_backbone": False},
    "fcn_resnet50": {**ON_TINY, "aux": True},
    "deeplabv3_resnet50": {**ON_TINY, "aux": True},
    "unet_resnet18": ON_TINY,
    "deeplabv3_mobilenet_v3_large": {"width": 16, "aux": True},
    "lraspp_mobilenet_v3_large": {"width": 16},
}
QUICK = ("fcn", "unet_resnet18")


def shrink(patch):
    """One block a stage in every backbone."""
    patch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), False))
    patch.setattr(mobilenet, "STAGES", tuple(blocks[:1] for blocks in mobilenet.STAGES))


@pytest.fixture(autouse=True)
def _small_backbones(monkeypatch):
    shrink(monkeypatch)


def test_every_class_is_here():
    assert {MODELS[name].load() for name in SMALL} == {n.load() for n in MODELS.values()}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SMALL]
)
def test_every_parameter_gets_a_gradient_and_a_shape_is_traced_once(name):
    model = create_model(name, 3, **SMALL[name])
    variables = random_variables(model)
    aux = SMALL[name].get("aux", False)
    labels = np.random.default_rng(0).integers(0, 3, (2, 65, 40)).astype(np.uint8)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def gradient(params, images):
        def loss(params):
            # With the running statistics: a bias before those of a batch would have none.
            out: Any = model.apply(
                {**variables, "params": params}, images, False,
                method="with_aux" if aux else "__call__",
            )  # fmt: skip
            parts = [losses.softmax_cross_entropy(x, labels)[0] for x in (out if aux else (out,))]
            return sum(parts[1:], parts[0])

        return jax.grad(loss)(params)

    for seed in (1, 2):
        images = jax.random.normal(jax.random.key(seed), (2, 65, 40, 3))
        gradients = gradient(variables["params"], images)
        chex.assert_tree_all_finite(gradients)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
            assert jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


STEP = """
    import os
    os.environ["JAX_NUM_CPU_DEVICES"] = "8"
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    from fcn_jax import optim
    from fcn_jax.data import batches
    from fcn_jax.models import create_model
    from fcn_jax.training import steps
    from tests import fakes
    from tests.models.test_families import SMALL, pytest, shrink
    from tests.models.variables import random_variables

    shrink(pytest.MonkeyPatch())

    padded = fakes.resized([fakes.example(i) for i in range(8)], (32, 32))
    optimizer = optim.make_optimizer(optim.OptimConfig(lr=1e-3), 10)
    model = create_model(NAME, 3, **SMALL[NAME])
    variables = random_variables(model)
    found = []
    for devices in DEVICES:
        sharding = NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("data",)), P("data"))
        sharding = sharding if devices > 1 else None
        step = steps.make_train_step(model, optimizer, image_size=(32, 32), sharding=sharding)
        run = steps.jit_train_steps(step, sharding)
        place = NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("data",)), P())
        state, data = jax.device_put((steps.init_state(optimizer, variables), padded), place)
        state, values = run(state, data, np.arange(8, dtype=np.int32)[None], 1, jax.random.key(0))
        found.append((float(values["loss"][0]), float(values["grad_norm"][0]), state.batch_stats))
    for other in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-5), found[0], other)
        np.testing.assert_allclose(found[0][0], other[0], 1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("unet_resnet18", (1, 2, 8)),
        ("deeplabv3_resnet50", (1, 8)),
        ("lraspp_mobilenet_v3_large", (1, 8)),
    ],
)
def test_one_and_several_devices_are_the_same(name, devices):
    """Loss, gradient norm and statistics of a step; the test of TinyNet takes more steps."""
    program = textwrap.dedent(STEP).replace("NAME", repr(name)).replace("DEVICES", repr(devices))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Stop(Callback):
    """Send a signal to ourselves after the first step."""

    def on_step(self, step):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_resnet18", "deeplabv3_mobilenet_v3_large"])
def test_a_resumed_run_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    entry = MODELS[name]
    options = {**entry.options, **SMALL[name]}
    options.pop("aux", None)  # the loss's weight asks for it
    small = registry.Network(
        entry.factory, options, entry.backbone, can_freeze=True, has_aux=entry.has_aux
    )
    monkeypatch.setitem(registry.MODELS, "small", small)
    config = fakes.config(**{"model.arch": "small", "epochs": 2, "optim.backbone_scale": 1.0})
    quiet = Runtime(show=False)
    loop.train(config, fakes.dataset(), tmp_path / "straight", quiet)
    with pytest.raises(loop.Interrupted):
        loop.train(config, fakes.dataset(), tmp_path / "resumed", quiet, [Stop()])
    loop.train(config, fakes.dataset(), tmp_path / "resumed", quiet)
    states = [
        checkpoint.load(tmp_path / f / "checkpoints", "latest")[0] for f in ("straight", "resumed")
    ]
    chex.assert_trees_all_equal(*states)
    assert ("aux_head" in states[0]["params"]) == entry.has_aux
