"""The configuration of a run: one frozen dataclass of small ones, and its JSON form.

Two runs with equal `Config` on the same data are the same run. Where a run happens (folders,
devices, how often it saves) is not part of it: see `loop.Runtime`.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from fcn_jax.data.augment import AugmentConfig
from fcn_jax.losses import LossConfig
from fcn_jax.optim import OptimConfig
from fcn_jax.types import MATMUL_PRECISION as MATMUL_PRECISION
from fcn_jax.types import InputError

SCHEMA = 2
"""Version of the JSON form; raised whenever a field changes its meaning.

2: model.freeze_backbone was removed; a rate scale of 0 freezes. The last that were written as 1 had
no such field any more, and are read."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on, and in which form."""

    dataset: str = "voc2007"
    """`voc2007`, `shapes`, or the folder of a data set."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width the network is trained and validated at."""
    batch_size: int = 16
    void_as_background: bool = False
    """The paper's setting; otherwise void pixels are left out of the loss."""
    overfit: int = 0
    """Train and validate on this many images of the train split; 0: the real splits."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what it starts from."""

    arch: str = "fcn"
    init: str = "xavier"
    """`xavier` (the paper's) or `he`."""
    pretrained: str | None = None
    """See `starting.variables`; None: fresh weights."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@dataclass(frozen=True)
class Config:
    """Everything a run's result depends on, besides the data's content."""

    experiment: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 100
    patience: int = 30
    """Stop after this many epochs without a better validation miou; 0: never."""
    bn_batches: int = 0
    """Before each validation batch norm's statistics are taken anew from so many batches of the
    epoch (at most all), see `precise_bn`; 0: the running ones are used."""
    seed: int = 0
    precision: str = "f32"
    """`f32`: true float32; `tf32`: float32 with TF32 matrix units; `bf16`: bfloat16 activations
    and convolutions, float32 parameters, statistics, loss and optimizer."""


def to_dict(config: Config) -> dict[str, Any]:
    """The JSON form, with its schema version."""
    return _listed({"schema": SCHEMA, **dataclasses.asdict(config)})


def from_dict(data: dict[str, Any], source: str = "config") -> Config:
    """Read the JSON form back.

    Args:
      data: what `to_dict` returned, possibly read from JSON.
      source: what to name in an error, usually a file.

    Raises:
      InputError: for another schema version, or fields this version does not know.
    """
    data = dict(data)
    schema = data.pop("schema", None)
    if schema == 1:
        if "freeze_backbone" in data.get("model", {}):
            raise InputError(
                f"{source}: schema 1 has model.freeze_backbone, which was removed "
                "(--backbone-scale 0 freezes): train again in another --workdir"
            )
        schema = SCHEMA
    if schema != SCHEMA:
        raise InputError(
            f"{source}: schema {schema!r}, this version reads {SCHEMA}: "
            "use the version of fcn_jax that wrote it, or train again in another --workdir"
        )
    return _build(Config, data, source)


def differences(ours: Config, theirs: Config) -> list[str]:
    """The fields in which two configurations differ, as `optim.lr: 0.001 -> 0.01`."""
    a, b = _flat(to_dict(ours)), _flat(to_dict(theirs))
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def replace(config: Config, **changes: Any) -> Config:
    """A copy with some fields changed, nested ones by their dotted name.

    >>> replace(Config(), **{"optim.lr": 0.01, "epochs": 3})
    """
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if rest:
            value = dataclasses.replace(getattr(config, head), **{rest: value})
        config = dataclasses.replace(config, **{head: value})
    return config


def _listed(value) -> Any:
    """Tuples as lists, as JSON will have them."""
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value


def _build(cls, data: dict[str, Any], source: str):
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise InputError(f"{source}: unknown field {unknown[0]!r} of {cls.__name__}: remove it")
    values = {}
    for name, value in data.items():
        hint = hints[name]
        if isinstance(hint, types.UnionType):  # X | None
            hint = next(t for t in typing.get_args(hint) if t is not type(None))
        if dataclasses.is_dataclass(hint):
            value = _build(hint, value, source)
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            items |= _flat(value, f"{prefix}{name}.")
        else:
            items[prefix + name] = value
    return items
