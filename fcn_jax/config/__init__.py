"""The configuration of a run: one frozen dataclass of small ones, and its JSON form.

Two runs with equal `Config` on the same data are the same run. Where and how a run is executed is
not part of it: see `Runtime`. Code from outside that a configuration names is found by `plugins`.

Every field is documented, given its default and checked here and nowhere else; the command line, a
sweep and Python share it. This module imports nothing heavy, so that a command answers at once.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from fcn_jax.config import plugins as plugins
from fcn_jax.types import MATMUL_PRECISION as MATMUL_PRECISION
from fcn_jax.types import InputError, WeightScheme

SCHEMA = 2
"""Version of the JSON form; raised whenever a field changes its meaning.

2: model.freeze_backbone was removed; optim.backbone_scale 0 freezes. Files of version 1 without
that field can be read."""

_REWRITE = "restore the file as a run wrote it"

Pair = tuple[float, float]
CacheMode = Literal["auto", "device", "host", "none"]


class Within(NamedTuple):
    """The limits of a number, both allowed; a field's type carries them."""

    low: float
    high: float


class Checked:
    """A dataclass that refuses values which its fields' types do not allow, with an InputError.

    A `Literal` names the values there are, `Within` the limits; None is allowed where the type is
    optional, and NaN never.
    """

    _group: ClassVar[str]
    """The field of `Config` that holds this, for the error; empty for none."""

    def __init_subclass__(cls, group: str = "") -> None:
        cls._group = group

    def __post_init__(self) -> None:
        """Check every value."""
        hints = typing.get_type_hints(type(self), include_extras=True)
        for name in self.__dataclass_fields__:  # type: ignore[attr-defined]
            value, hint, limits = getattr(self, name), hints[name], None
            if typing.get_origin(hint) is Annotated:
                hint, limits = typing.get_args(hint)
            if wrong := _wrong(value, hint, limits):
                raise InputError(wrong, field=f"{self._group}.{name}".lstrip("."), value=value)


def _wrong(value: Any, hint: Any, limits: Within | None) -> str:
    """What is wrong with the value of a field of this type; empty if nothing is."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices, kinds = choices_of(hint), typing.get_args(hint) if is_union else (hint,)
    if value is None:
        return "" if type(None) in kinds or hint is Any else "must not be none"
    if choices:
        plugin = accepts_plugin(hint)
        if value in choices or (plugin and isinstance(value, str) and ":" in value):
            return ""
        return f"choose one of {', '.join(choices)}" + ", or give module:name" * plugin
    if bool in kinds and not isinstance(value, bool):
        return "must be true or false"
    if str in kinds and not (isinstance(value, str) and value):
        return "must be a text, and not empty"
    if dataclasses.is_dataclass(hint) and not isinstance(value, typing.cast(type, hint)):
        return f"must be a {typing.cast(type, hint).__name__}"
    if limits is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if float not in kinds and not isinstance(value, int):
        return "must be a whole number"
    low, high = limits
    return "" if low <= value <= high else f"must lie between {low:g} and {high:g}"


def _is_pair(value: Any) -> bool:
    """Whether it is two numbers."""
    numbers = isinstance(value, tuple | list) and all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in value
    )
    return numbers and len(value) == 2


def choices_of(hint: Any) -> tuple[str, ...]:
    """The values of a `Literal`, also where it is one part of a union; none for other types."""
    parts = typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,)
    found = (typing.get_args(part) for part in parts if typing.get_origin(part) is Literal)
    return next(found, ())


def accepts_plugin(hint: Any) -> bool:
    """Whether a field of this type takes `module:name` beside its choices."""
    return typing.get_origin(hint) is typing.Union and str in typing.get_args(hint)


PLUGIN_FIELDS = ("model.arch", "optim.name", "loss.function", "augment.function")
"""Fields that may be `module:name`."""


def plugin_modules(config: "Config") -> list[str]:
    """The modules outside the package that a configuration names, each once; see `plugins`."""
    names = (attrgetter(field)(config) for field in PLUGIN_FIELDS)
    return list(dict.fromkeys(n.partition(":")[0] for n in names if plugins.is_plugin(n)))


def _set_pair(group: str, config: Any, name: str, highest: float) -> None:
    """Make a field a tuple (min, max) with 0 < min <= max <= highest; JSON gives lists."""
    pair = getattr(config, name)
    if pair is None:
        return
    if not _is_pair(pair) or not 0 < pair[0] <= pair[1] <= highest:
        raise InputError(
            f"must be (min, max) with 0 < min <= max <= {highest:g}",
            field=f"{group}.{name}",
            value=pair,
        )
    object.__setattr__(config, name, (float(pair[0]), float(pair[1])))


@dataclass(frozen=True)
class DataConfig(Checked, group="data"):
    """Which data is trained on, and in which form."""

    dataset: str = "voc2007"
    """`voc2007`, `shapes`, or the folder of a data set."""
    image_size: tuple[int, int] = (224, 224)
    """Height and width that the network is trained and validated at, 32 to 2048; one side on the
    command line means a square."""
    batch_size: Annotated[int, Within(1, 65_536)] = 16
    """Images per optimizer step."""
    void_as_background: bool = False
    """Count void pixels as background, as the paper does; otherwise the loss ignores them."""
    overfit: Annotated[int, Within(0, 10**9)] = 0
    """Train and validate on the first N images of the train split; 0: the real splits."""
    split_train: Annotated[float | None, Within(0.01, 0.99)] = None
    """Train on this fraction of the train split and validate on the rest of it, so that choices
    need not be made on val; the division is fixed, seeded and stratified. None: the real splits."""

    def __post_init__(self):
        """Check every value."""
        super().__post_init__()
        size = self.image_size
        if not _is_pair(size) or not all(isinstance(n, int) and 32 <= n <= 2048 for n in size):
            raise InputError(
                "must be height and width, whole numbers from 32 to 2048",
                field="data.image_size",
                value=self.image_size,
            )
        object.__setattr__(self, "image_size", tuple(size))
        if self.overfit and self.split_train is not None:
            raise InputError(
                "cannot be combined with data.overfit: choose one of them",
                field="data.split_train",
                value=self.split_train,
            )


@dataclass(frozen=True)
class ModelConfig(Checked, group="model"):
    """Which network, and what it starts from."""

    arch: str = "fcn"
    """The network: a name of `fcn_jax.MODELS`, or `module:name` of a Flax module of your own."""
    init: Literal["xavier", "he"] = "xavier"
    """Random initialisation of what is not pretrained; the paper's is Xavier."""
    pretrained: str | None = None
    """`imagenet` or `imagenet-v2` (a backbone), `torchvision` (the whole network), a .pth or
    .safetensors file, the folder of a run, or a folder of model.safetensors and config.json."""
    freeze_bn: bool = False
    """Normalise the backbone by its batch norms' running statistics, as they were loaded; use it
    with small batches."""
    freeze_stages: Annotated[int, Within(0, 5)] = 0
    """Freeze the first N of the backbone's 5 parts, the stem of a ResNet being the first; 0 freezes
    none."""
    output_stride: Annotated[int | None, Within(8, 32)] = None
    """Size of the input over that of a dilated ResNet's features: 8, 16 or 32. The larger, the
    faster and coarser. None: 8, as torchvision's."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""

    def __post_init__(self):
        """Check every value."""
        super().__post_init__()
        if self.output_stride not in (None, 8, 16, 32):
            raise InputError(
                "choose 8, 16 or 32", field="model.output_stride", value=self.output_stride
            )


@dataclass(frozen=True)
class AugmentConfig(Checked, group="augment"):
    """Which random transformations are made; all off by default. Hashable, so static under jit."""

    flip: Annotated[float, Within(0, 1)] = 0.0
    """Probability of a horizontal flip."""
    crop_scale: Pair | None = None
    """(min, max) of a random crop's fraction of the image's area; None: no crop."""
    crop_ratio: Pair = (3 / 4, 4 / 3)
    """(min, max) of that crop's width / height, drawn log-uniformly."""
    scale_jitter: Pair | None = None
    """(min, max) of a uniform isotropic scale, where 1 fits the whole image into the output; then a
    random window of the output's size, padded where the image is smaller."""
    colour_jitter: Annotated[float, Within(0, 100)] = 0.0
    """Strength s: brightness, contrast and saturation factors in [max(0, 1-s), 1+s]."""
    rotation: Annotated[float, Within(0, 180)] = 0.0
    """Largest angle in degrees, either way."""
    function: str | None = None
    """`module:name` of a function `(key, image, labels) -> (image, labels)` that is applied last,
    to the batch at the network's size: float32 [N, H, W, 3] in 0..255 and uint8 [N, H, W]."""

    def __post_init__(self):
        """Accept lists, as JSON gives them, and refuse what has no meaning."""
        for name, highest in (("crop_scale", 1.0), ("crop_ratio", 1e3), ("scale_jitter", 100)):
            _set_pair("augment", self, name, highest)
        super().__post_init__()
        if self.crop_scale is not None and self.scale_jitter is not None:
            raise InputError(
                "cannot be combined with augment.scale_jitter: choose one of them",
                field="augment.crop_scale",
                value=self.crop_scale,
            )


@dataclass(frozen=True)
class LossConfig(Checked, group="loss"):
    """What the training loss is made of; the defaults are the plain cross-entropy."""

    class_weights: WeightScheme = "none"
    """Weights of the classes from their pixels in the train split: `inverse` is total / count,
    `inverse_sqrt` its root, `median_frequency` median / count, `effective_number` that of Cui et
    al. 2019."""
    weight_cap: Annotated[float | None, Within(1, 1e9)] = None
    """Largest class weight allowed, as a multiple of the smallest."""
    label_smoothing: Annotated[float, Within(0, 0.999)] = 0.0
    """Fraction of the target that is spread over all classes."""
    focal_gamma: Annotated[float, Within(0, 10)] = 0.0
    """Exponent of the focal factor; 0: plain cross-entropy."""
    dice: Annotated[float, Within(0, 1e3)] = 0.0
    """Weight of a soft Dice term added to the cross-entropy; 0 leaves it out."""
    lovasz: Annotated[float, Within(0, 1e3)] = 0.0
    """Weight of a Lovasz-softmax term added to the cross-entropy; 0 leaves it out."""
    function: str | None = None
    """`module:name` of a function `(logits, labels, class_weights) -> (sum, weight)` that replaces
    the cross-entropy in training; void is 255. On several devices it gets a device's part of the
    batch, and the results are summed. None: the cross-entropy."""
    aux_weight: Annotated[float, Within(0, 1e3)] = 0.4
    """Weight of the auxiliary head's loss, for networks that have such a head."""

    def __post_init__(self):
        """Check every value."""
        super().__post_init__()
        for name in ("label_smoothing", "focal_gamma") if self.function else ():
            if value := getattr(self, name):
                raise InputError(
                    "belongs to the cross-entropy, which loss.function replaces: leave one out",
                    field=f"loss.{name}",
                    value=value,
                )


@dataclass(frozen=True)
class OptimConfig(Checked, group="optim"):
    """The optimizer; the defaults are the paper's baseline (section 4.1.2)."""

    name: Literal["adam", "adamw", "sgd"] | str = "adam"
    """`adam` and `sgd`: weight decay is L2, added to the gradient first; `adamw`: decoupled. Or
    `module:name` of a function of the learning rate's schedule that returns an optax
    transformation, such as `optax:lion`."""
    lr: Annotated[float, Within(0, 1e38)] = 1e-4
    """Peak learning rate."""
    momentum: Annotated[float, Within(0, 0.9999)] = 0.9
    """Momentum of `sgd`; the Adam variants have their own."""
    weight_decay: Annotated[float, Within(0, 1e3)] = 1e-5
    """Strength of the weight decay."""
    schedule: Literal["constant", "cosine_annealing", "cosine", "poly"] = "constant"
    """`cosine_annealing`: the paper's, periodic; `cosine`: one cycle down to eta_min; `poly`: to 0
    as (1 - step / steps) ** 0.9."""
    t_max: Annotated[int, Within(1, 10**9)] = 10
    """Half a period of `cosine_annealing`, in steps."""
    eta_min: Annotated[float, Within(0, 1e3)] = 0.0
    """Last rate of the cosine schedules."""
    warmup: Annotated[int, Within(0, 10**9)] = 0
    """Steps of linear warm-up, from lr / warmup to lr; not used by `cosine_annealing`."""
    backbone_scale: Annotated[float | None, Within(0, 1e3)] = None
    """Learning rate of the backbone relative to the rest; 0 freezes it. None: 0 where the network
    freezes its pretrained backbone by default, else 1."""
    backbone_delay: Annotated[int, Within(0, 10**9)] = 0
    """Train only the head for this many steps, then everything."""
    clip_norm: Annotated[float | None, Within(1e-12, 1e12)] = None
    """Largest global norm of the gradient; None does not clip."""
    accumulate: Annotated[int, Within(1, 65_536)] = 1
    """Compute each step's gradient in N parts of the batch, one after another: less memory, at the
    cost of a second forward pass."""
    ema: Annotated[float, Within(0, 0.999999)] = 0.0
    """Decay of the moving average of the parameters that is evaluated; 0 keeps none."""


@dataclass(frozen=True)
class Config(Checked):
    """Everything a run's result depends on, besides the data's content."""

    experiment: str = "default"
    """Name of the recipe that this started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: Annotated[int, Within(1, 100_000)] = 100
    """Passes over the train split."""
    patience: Annotated[int, Within(0, 10**9)] = 30
    """Stop after this many epochs without a better validation mIoU; 0: never."""
    bn_batches: Annotated[int, Within(0, 10**9)] = 0
    """Before each validation, re-estimate batch norm's statistics from this many batches of the
    epoch (at most all), see `training.precise_bn`; 0: use the running statistics."""
    seed: Annotated[int, Within(0, 2**32 - 1)] = 0
    """Seed of everything random."""
    precision: Literal["f32", "tf32", "bf16"] = "f32"
    """`f32`: true float32; `tf32`: float32 with TF32 matrix units; `bf16`: bfloat16 activations
    and convolutions, float32 parameters, statistics, loss and optimizer."""

    def __post_init__(self):
        """Check every value."""
        super().__post_init__()
        if self.data.batch_size % self.optim.accumulate:
            raise InputError(
                f"must divide data.batch_size, which is {self.data.batch_size}",
                field="optim.accumulate",
                value=self.optim.accumulate,
            )


@dataclass(frozen=True)
class Runtime(Checked):
    """Where and how a run is executed.

    Its result does not depend on this, except that another number of devices rounds differently.
    """

    devices: Annotated[int | None, Within(1, 65_536)] = None
    """How many devices of each process to use; None: as many as divide the batch. The commands
    count a CPU as one device for each core, up to 4; in Python it is one, unless the environment
    variable JAX_NUM_CPU_DEVICES says otherwise."""
    save_every: Annotated[int, Within(1, 10**9)] = 1
    """Epochs between saves of the latest state; a new best is always saved."""
    save_steps: Annotated[int, Within(0, 10**9)] = 0
    """Also save every N steps within an epoch; 0: only between epochs."""
    cache: CacheMode = "auto"
    """Where images are kept: on the `device`, on the `host`, or nowhere (`none`: decoded every
    epoch). `auto`: nowhere unless they fit in half of the host's available memory; then on the
    device if they fit there, else on the host."""
    show: bool = True
    """Whether to report progress."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How the data was found (archives, data_dir), so that `evaluate` finds it again."""


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
    if not isinstance(data, dict):
        raise InputError(f"{source}: holds no configuration: {_REWRITE}")
    data = dict(data)
    schema = data.pop("schema", None)
    if schema == 1:
        if "freeze_backbone" in (data.get("model") or {}):
            raise InputError(
                f"{source}: schema 1 has model.freeze_backbone, which was removed "
                "(optim.backbone_scale 0 freezes): train again in another run folder"
            )
        schema = SCHEMA
    if schema != SCHEMA:
        raise InputError(
            f"{source}: schema {schema!r}, this version reads {SCHEMA}: "
            "use the version of fcn_jax that wrote it, or train again in another run folder"
        )
    # The auxiliary head did not exist when a file without this field was written.
    if isinstance(data.get("loss", {}), dict):
        data["loss"] = {"aux_weight": 0.0, **data.get("loss", {})}
    return _build(Config, data, source)


def differences(ours: Config, theirs: Config) -> list[str]:
    """The fields in which two configurations differ, as `optim.lr: 0.001 -> 0.01`."""
    a, b = _flat(to_dict(ours)), _flat(to_dict(theirs))
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def with_absolute_paths(config: Config) -> Config:
    """The configuration with the paths that exist made absolute, so that a run can be found again.

    Two spellings of a path give the same configuration.
    """
    changes = {}
    for name, value in (
        ("data.dataset", config.data.dataset),
        ("model.pretrained", config.model.pretrained),
    ):
        if value not in (None, "voc2007", "shapes", "imagenet", "imagenet-v2", "torchvision"):
            path = Path(value).expanduser()
            if path.exists():
                changes[name] = str(path.resolve())
    return replace(config, **changes)


def replace(config: Config, **changes: Any) -> Config:
    """A copy with some fields changed, nested ones by their dotted name.

    >>> config = replace(Config(), **{"optim.lr": 0.01, "epochs": 3})
    >>> config.optim.lr, config.epochs
    (0.01, 3)
    """
    whole: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if rest:
            parts.setdefault(head, {})[rest] = value
        else:
            whole[head] = value
    for head, part in parts.items():  # all at once: some checks concern two fields
        whole[head] = dataclasses.replace(whole.get(head, getattr(config, head)), **part)
    return dataclasses.replace(config, **whole)


def _listed(value) -> Any:
    """Tuples as lists, as JSON will have them."""
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, tuple | list) else value


def _build(cls, data: dict[str, Any], source: str):
    hints = typing.get_type_hints(cls)
    if not isinstance(data, dict):
        raise InputError(f"{source}: {data!r} is no {cls.__name__}: {_REWRITE}")
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
