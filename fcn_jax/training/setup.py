"""The setup of a run: its data on the devices, its network and its compiled programs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from fcn_jax import losses, optim
from fcn_jax.config import AugmentConfig, Config
from fcn_jax.data import batches, classes, loader, prepare, subset
from fcn_jax.inference.predict import model_of
from fcn_jax.models import convention, registry
from fcn_jax.runtime import distributed
from fcn_jax.training import evaluate as evaluation
from fcn_jax.training import precise_bn, steps
from fcn_jax.types import Example, InputError, TrainState
from fcn_jax.weights import initialize

CHUNK = 16
"""Training steps in one program on an accelerator: the host then has nothing to do for long
enough, and the progress bar still moves. On a CPU it is 1."""


class Programs(NamedTuple):
    """The compiled programs of a run; each compiles when it is first called."""

    train: steps.TrainProgram
    evaluate: evaluation.EvalProgram
    statistics: precise_bn.Program
    chunk: int
    """Steps that one call of `train` makes at most."""


class Placement(NamedTuple):
    """How arrays are placed on the devices."""

    replicate: loader.Put
    """A tree of host arrays -> the same, whole on every device."""
    put_state: Callable[[TrainState], TrainState]
    """A state of host arrays -> the same on the devices, as `Programs.train` wants it."""
    batch_sharding: NamedSharding | None
    """Of the axis of a batch; None where there is one device."""
    shard: loader.Shard | None
    """This process's part of a batch; None where there is one process."""


@dataclass(frozen=True)
class Setup:
    """What a training loop needs of a configuration; made by `build`."""

    config: Config
    class_names: tuple[str, ...]
    trivial: classes.Trivial
    schedule: optim.Schedule
    steps_per_epoch: int
    train: loader.Split
    val: loader.Split
    programs: Programs
    placement: Placement
    initial_state: Callable[[], TrainState]
    """The state before the first step, on the devices."""
    meta: dict[str, Any]
    """What a checkpoint carries so that it can be used without this object."""

    def epoch_indices(self, epoch: int) -> np.ndarray:
        """Indices of the images of every step of one epoch (from 0), int32 [steps, batch size]."""
        key = _key(self.config, "indices")
        count = len(self.train.ids)
        return batches.epoch_indices(key, epoch, count, self.config.data.batch_size)

    def train_key(self) -> jax.Array:
        """The key every training step folds its number into."""
        return _key(self.config, "steps")


def build(
    config: Config, dataset: prepare.Dataset, devices: int | None = None, cache: str = "auto"
) -> Setup:
    """Open the data, make the network and the programs of a run.

    Args:
      config: the run.
      dataset: what its `data.dataset` names, loaded.
      devices: how many of each process's devices to use; None for as many as divide the batch.
      cache: where images are kept, one of `loader.MODES`; the batches are the same.

    Raises:
      InputError: for a split that is missing or smaller than a batch, or bad pretrained weights.
    """
    config = registry.resolve(config)
    train, val = examples(config, dataset)
    num_classes, size = len(dataset.class_names), config.data.image_size
    # Each part of a batch is divided among the devices.
    placement = _placement(config.data.batch_size // config.optim.accumulate, devices)
    open_split = partial(_open_split, num_classes=num_classes, cache=cache, placement=placement)
    # Augmentation cuts from the images as they are; it makes the size itself.
    train_split = open_split(train, None if _augmentation(config) else size)
    val_split = open_split(val, size)
    trivial = classes.find_trivial(dataset.class_names, train_split.counts)
    void_class = evaluation.void_class(config, trivial)
    weights = _class_weights(config, train_split.counts, void_class)
    model_spec = _model_spec(config, num_classes)
    model = model_of(model_spec)
    if not registry.is_builtin(config.model.arch):
        convention.check(config.model.arch, model, num_classes, size)
    steps_per_epoch = len(train) // config.data.batch_size
    total_steps = config.epochs * steps_per_epoch
    optimizer = _optimizer(config, total_steps)
    sharding = placement.batch_sharding
    return Setup(
        config=config,
        class_names=dataset.class_names,
        trivial=trivial,
        schedule=optim.make_schedule(config.optim, total_steps),
        steps_per_epoch=steps_per_epoch,
        train=train_split,
        val=val_split,
        programs=Programs(
            _train_program(config, model, optimizer, weights, void_class, sharding),
            evaluation.make_program(model, num_classes, weights, void_class, sharding),
            precise_bn.make_program(model, size, sharding),
            chunk=1 if jax.default_backend() == "cpu" else CHUNK,
        ),
        placement=placement,
        initial_state=partial(_initial, config, model, optimizer, placement.put_state),
        meta={**_meta(config, dataset, model_spec, weights), "trivial": list(trivial)},
    )


def _placement(batch_size: int, devices: int | None) -> Placement:
    mesh = distributed.mesh(batch_size, devices)
    shard = None
    if distributed.count() > 1:
        shard = loader.Shard(distributed.process_slice, partial(distributed.assemble, mesh=mesh))
    return Placement(
        partial(distributed.replicate, mesh=mesh),
        partial(distributed.put_state, mesh=mesh),
        distributed.batch_sharding(mesh),
        shard,
    )


def _open_split(
    examples: Sequence[Example],
    size: tuple[int, int] | None,
    num_classes: int,
    cache: str,
    placement: Placement,
) -> loader.Split:
    limits = distributed.from_primary(loader.budget)  # all processes must choose the same mode
    return loader.open_split(
        examples, size, num_classes, placement.replicate, cache, limits, placement.shard
    )


def _augmentation(config: Config) -> AugmentConfig | None:
    """None where it would change nothing."""
    return config.augment if config.augment != AugmentConfig() else None


def _optimizer(config: Config, total_steps: int) -> optax.GradientTransformation:
    network = registry.get(config.model.arch)
    return optim.make_optimizer(
        config.optim,
        total_steps,
        backbone=network.backbone_path,
        frozen=registry.frozen_parameters(network, config.model.freeze_stages),
    )


def _train_program(config: Config, model, optimizer, weights, void_class: int | None, sharding):
    step = steps.make_train_step(
        model,
        optimizer,
        image_size=config.data.image_size,
        loss=config.loss,
        class_weights=None if weights is None else jnp.asarray(weights, jnp.float32),
        augmentation=_augmentation(config),
        void_class=void_class,
        ema=config.optim.ema,
        accumulate=config.optim.accumulate,
        sharding=sharding,
    )
    return steps.jit_train_steps(step, sharding)


def _initial(config: Config, model, optimizer, put_state) -> TrainState:
    """The state before the first step, on the devices."""
    key, spec = _key(config, "init"), config.model
    size = config.data.image_size
    variables = initialize.variables(spec.arch, model, key, size, spec.pretrained)
    begin = jax.jit(partial(steps.init_state, optimizer, ema=config.optim.ema > 0))  # one program
    state = begin(variables)
    return put_state(distributed.from_primary(lambda: state))


def _meta(
    config: Config,
    dataset: prepare.Dataset,
    model_spec: dict[str, Any],
    weights: list[float] | None,
) -> dict[str, Any]:
    return {
        "model": model_spec,
        "image_size": list(config.data.image_size),
        "class_names": list(dataset.class_names),
        "palette": np.asarray(dataset.palette).tolist(),
        "class_weights": weights,
        "data": evaluation.identity(dataset),
    }


def _key(config: Config, purpose: str) -> jax.Array:
    """One key a purpose; never renumber them, or no run can be repeated."""
    number = {"init": 0, "indices": 1, "steps": 2}[purpose]
    return jax.random.fold_in(jax.random.key(config.seed), number)


def examples(
    config: Config, dataset: prepare.Dataset
) -> tuple[Sequence[Example], Sequence[Example]]:
    """The training and validation examples, decoded on access."""
    train, batch_size = dataset.splits["train"], config.data.batch_size
    val = None
    if config.data.split_train is not None:
        train, val = subset.split_train(train, config.data.split_train)
    n = config.data.overfit
    if n > len(train):
        raise InputError(
            f"the train split has {len(train)} images: ask for fewer",
            field="data.overfit",
            value=n,
        )
    if n:
        train = val = train[:n]
    if batch_size > len(train):
        raise InputError(
            f"training has {len(train)} images: use at most {len(train)}",
            field="data.batch_size",
            value=batch_size,
        )
    return train, dataset.splits["val"] if val is None else val


def _class_weights(
    config: Config, counts: np.ndarray, void_class: int | None
) -> list[float] | None:
    """Weights from the training masks' pixels [K+1], void read as the run reads it."""
    if config.loss.class_weights == "none":
        return None
    pixels = counts[:-1].copy()
    if void_class is not None:
        pixels[void_class] += counts[-1]
    weights = losses.class_weights(pixels, config.loss.class_weights, config.loss.weight_cap)
    return [float(w) for w in weights]


def _model_spec(config: Config, num_classes: int) -> dict[str, Any]:
    """What `model_of` builds the network from, as JSON: it travels with every checkpoint."""
    spec = {
        "name": config.model.arch,
        "num_classes": num_classes,
        "precision": config.precision,
        "init": config.model.init,
    }
    network = registry.get(config.model.arch)
    if network.can_freeze:
        # A rate of zero means frozen: no gradient, and no drift of the batch statistics either.
        stages, all_stages = config.model.freeze_stages, 5
        frozen = config.optim.backbone_scale == 0 or stages == all_stages
        spec["freeze_backbone"] = frozen
        if config.model.freeze_bn and not frozen:
            spec["freeze_bn"] = True
        if stages and not frozen:
            spec["freeze_stages"] = stages
    if network.has_aux and config.loss.aux_weight:
        spec["aux"] = True
    if config.model.output_stride is not None:
        spec["output_stride"] = config.model.output_stride
    if config.model.remat:
        spec["remat"] = True
    return spec
