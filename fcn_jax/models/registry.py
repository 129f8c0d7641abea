"""The networks by name, and what the rest of the code has to know about each.

This module imports neither jax nor flax: a network's module is imported when it is made, so that a
command line can list the networks at once. A network's name is compared nowhere else, but for the
order of names in PyTorch's U-Net, see `weights.torch_weights`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fcn_jax import config as configs
from fcn_jax.config import plugins
from fcn_jax.types import InputError

if TYPE_CHECKING:
    import flax.linen as nn

Factory = Callable[..., "nn.Module"]


@dataclass(frozen=True)
class Network:
    """One entry of the registry."""

    factory: str | Factory
    """A Flax module class or a function that returns a module, or where it is: `module:name`.

    It is called with the keywords num_classes, dtype and kernel_init, as far as it has them.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords that make it this network; a caller may override them."""
    backbone: str | None = None
    """A name of `models.backbones` whose weights can be loaded; None: there is no backbone."""
    backbone_path: str = "backbone"
    """Where in `params` and `batch_stats` the backbone is, such as `backbone` or `net/encoder`."""
    can_freeze: bool = False
    """Whether it takes freeze_backbone, freeze_bn and freeze_stages."""
    freezes_pretrained: bool = False
    """Whether a pretrained backbone is frozen unless the configuration says otherwise."""
    published: str | None = None
    """torchvision's name of published weights of the whole network, see `weights.torchvision`."""
    takes_output_stride: bool = False
    """Whether it takes output_stride: 8, 16 or 32."""
    has_aux: bool = False
    """Whether `aux=True` gives it an auxiliary head and a method `with_aux`."""

    def load(self) -> Factory:
        """The factory itself."""
        if not isinstance(self.factory, str):
            return self.factory
        module, _, name = self.factory.partition(":")
        return getattr(importlib.import_module(module), name)


def _on_backbone(factory: str, backbone: str, **facts: Any) -> Network:
    return Network(
        f"fcn_jax.models.{factory}",
        {"backbone": backbone},
        backbone=backbone,
        can_freeze=True,
        **facts,
    )


def _dilated(factory: str, name: str) -> Network:
    backbone = name.rpartition("_")[-1]
    return _on_backbone(factory, backbone, published=name, has_aux=True, takes_output_stride=True)


MODELS: dict[str, Network] = {
    "fcn": Network("fcn_jax.models.fcn:FCN"),
    "simplified_unet": Network("fcn_jax.models.simplified_unet:SimplifiedUNet"),
    "unet": Network("fcn_jax.models.unet:UNet"),
    "resnet50_fcn": _on_backbone("resnet_fcn:ResNetFCN", "resnet50", freezes_pretrained=True),
    "fcn_resnet50": _dilated("resnet_fcn:DilatedFCN", "fcn_resnet50"),
    "fcn_resnet101": _dilated("resnet_fcn:DilatedFCN", "fcn_resnet101"),
    "deeplabv3_resnet50": _dilated("deeplab:DeepLabV3", "deeplabv3_resnet50"),
    "deeplabv3_resnet101": _dilated("deeplab:DeepLabV3", "deeplabv3_resnet101"),
    "deeplabv3_mobilenet_v3_large": _on_backbone(
        "deeplab:DeepLabV3",
        "mobilenet_v3_large",
        published="deeplabv3_mobilenet_v3_large",
        has_aux=True,
    ),
    "lraspp_mobilenet_v3_large": Network(
        "fcn_jax.models.mobilenet:LRASPP",
        backbone="mobilenet_v3_large",
        can_freeze=True,
        published="lraspp_mobilenet_v3_large",
    ),
    **{
        f"unet_{depth}": _on_backbone("unet_resnet:ResNetUNet", depth)
        for depth in ("resnet18", "resnet34", "resnet50", "resnet101")
    },
}
"""Name of a network -> its entry: how it is made, its backbone, its published weights."""


def register_model(name: str, factory: Factory | str, **facts: Any) -> None:
    """Add a network, so that its name works wherever a network's name does.

    Examples::

        register_model("mine", MyNet)                         # any Flax module class
        register_model("mine", "my_package.nets:MyNet", backbone="resnet50")

    The module is called as `module.apply(variables, images, train=...)`: float32 [N, H, W, 3] to
    logits [N, H, W, num_classes].

    Args:
        name: of letters, digits, `_`, `-` and `.`; not one that is taken.
        factory: called with num_classes, and with dtype and kernel_init where it takes them.
        **facts: the other fields of `Network`.

    Raises:
        InputError: the name is taken by another network, or unusable.
    """
    if not name or not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise InputError(f"{name!r}: use letters, digits, _ - and . for a network's name")
    network = Network(factory, **facts)
    if name in MODELS and _origin(MODELS[name].factory) != _origin(factory):
        raise InputError(f"the network {name!r} exists already: choose another name")
    MODELS[name] = network


def _origin(factory: Factory | str) -> Any:
    """What tells a network from another; a notebook's cell that runs again defines the same."""
    if isinstance(factory, str):
        return factory
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", factory)


def is_known(name: str) -> bool:
    """Whether it is the name of a network, or says where one outside the package is."""
    return name in MODELS or plugins.is_plugin(name)


def is_builtin(name: str) -> bool:
    """Whether it is a network of this package, which need not be checked."""
    factory = MODELS[name].factory if name in MODELS else None
    return isinstance(factory, str) and factory.startswith("fcn_jax.models.")


def get(name: str) -> Network:
    """The network's entry; `module:name` is found as a plug-in.

    Raises:
        InputError: the name is not known, or its module was not allowed, see `plugins`.
    """
    if plugins.is_plugin(name):
        return Network(plugins.find(name))
    if name not in MODELS:
        raise InputError(
            f"unknown network: choose one of {', '.join(MODELS)}, or load the plug-in that has it",
            field="model.arch",
            value=name,
        )
    return MODELS[name]


def create_model(
    name: str,
    num_classes: int = 21,
    *,
    dtype: Any = None,
    init: str = "xavier",
    **options: Any,
) -> "nn.Module":
    """The network of that name; `module.apply(variables, images, train=False)` gives its logits.

    images: [N, H, W, 3] float32, normalised; logits: float32 [N, H, W, num_classes], at any size.
    With train=True pass `mutable=["batch_stats"]`: the second result holds the new statistics.

    Args:
        name: a key of `MODELS`.
        num_classes: channels of the logits.
        dtype: of the computation, jnp.float32 (None) or jnp.bfloat16; parameters are float32 either
            way.
        init: `xavier` (the paper's), `he` or `he_fan_out`.
        **options: the network's own, see its docstring.

    Raises:
        InputError: unknown name, initialisation or option.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> model = create_model("fcn", num_classes=3)
        >>> images = jnp.zeros((1, 32, 48, 3))
        >>> variables = model.init(jax.random.key(0), images)
        >>> model.apply(variables, images, train=False).shape
        (1, 32, 48, 3)
    """
    import jax.numpy as jnp

    from fcn_jax.models import backbones, layers

    network = get(name)
    layers.initializer(init)  # says which there are
    factory = network.load()
    fixed = {
        "num_classes": num_classes,
        "dtype": jnp.float32 if dtype is None else dtype,
        "kernel_init": init,
    }
    taken = inspect.signature(factory).parameters
    options = {**network.options, **options}
    if network.backbone is not None and "backbone" in options:
        backbones.check(options["backbone"])
    try:
        return factory(**{k: v for k, v in fixed.items() if k in taken}, **options)
    except TypeError as error:  # such as an option that it does not have
        known = [k for k in taken if k not in (*fixed, "name", "parent")]  # Flax's own fields
        raise InputError(
            f"cannot be made with these settings: {error}; its options: {', '.join(known)}",
            field="model.arch",
            value=name,
        ) from error


def frozen_parameters(network: Network, stages: int) -> tuple[str, ...]:
    """Where in `params` the first parts of the backbone are, so many of its five.

    Returns prefixes of paths such as `backbone/layer1_`.
    """
    from fcn_jax.models import backbones

    names = [name for part in backbones.parts(network.backbone)[:stages] for name in part]
    return tuple(f"{network.backbone_path}/{name}" for name in names)


def resolve(config: configs.Config) -> configs.Config:
    """The configuration with its backbone's rate filled in, and checked against the network.

    `optim.backbone_scale` None becomes 0 where the network freezes a pretrained backbone by
    default, and 1 for other networks with a backbone.

    Raises:
        InputError: unknown network, or a setting that the network has no use for.
    """
    network, scale = get(config.model.arch), config.optim.backbone_scale
    if config.model.remat and not _takes_remat(network):
        raise _refused(config, "model.remat", "cannot recompute its activations", _takes_remat)
    if config.model.output_stride is not None and not network.takes_output_stride:
        fits = attrgetter("takes_output_stride")
        raise _refused(config, "model.output_stride", "has an output stride of its own", fits)
    if network.backbone is None:
        used = {
            "optim.backbone_scale": (scale, None),
            "optim.backbone_delay": (config.optim.backbone_delay, 0),
            "model.freeze_bn": (config.model.freeze_bn, False),
            "model.freeze_stages": (config.model.freeze_stages, 0),
        }
        for name, (value, default) in used.items():
            if value != default:
                raise _refused(config, name, "has no backbone", attrgetter("backbone"))
        return config
    if scale is None:
        frozen = network.freezes_pretrained and config.model.pretrained is not None
        scale = 0.0 if frozen else 1.0
    frozen = {
        "optim.backbone_scale": (scale, scale == 0),
        "model.freeze_bn": (config.model.freeze_bn, config.model.freeze_bn),
        "model.freeze_stages": (config.model.freeze_stages, config.model.freeze_stages > 0),
    }
    for name, (value, asked) in frozen.items():
        if asked and not network.can_freeze:
            raise InputError(
                f"the backbone of {config.model.arch} cannot be frozen", field=name, value=value
            )
    return configs.replace(config, **{"optim.backbone_scale": scale})


def _refused(
    config: configs.Config, setting: str, why: str, fits: Callable[[Network], Any]
) -> InputError:
    """The error for a setting such as `model.remat`, naming the networks that it fits."""
    fitting = ", ".join(name for name, entry in MODELS.items() if fits(entry))
    value = attrgetter(setting)(config)
    return InputError(f"{config.model.arch} {why}: use {fitting}", field=setting, value=value)


def _takes_remat(network: Network) -> bool:
    return "remat" in inspect.signature(network.load()).parameters
