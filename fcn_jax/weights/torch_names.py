"""PyTorch's weights to ours and back, by name, without PyTorch.

`load_torch_weights` reads the state dicts of the paper's released networks and of torchvision;
`to_torch` writes dicts that load strictly into the same. Which PyTorch name belongs to which of our
leaves is written out below, one function a network; shapes follow from the kind of the leaf:

| ours | PyTorch's |
|---|---|
| kernel [kh, kw, I, O] of a convolution | weight [O, I, kh, kw] |
| kernel [kh, kw, I, O] of a transposed convolution | weight [I, O, kh, kw] |
| bias | bias |
| scale, mean, var of a normalisation | weight, running_mean, running_var |
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax import plugins
from fcn_jax.models import MODELS, backbones, create_model, mobilenet, registry
from fcn_jax.models.backbones import MOBILENET
from fcn_jax.models.resnet import DEPTHS
from fcn_jax.types import InputError
from fcn_jax.weights.torch_files import read_state_dict, without_prefix

Tree = dict[str, Any]
Source = Mapping[str, Any] | Path | str


# ---- names ---------------------------------------------------------------------------------------


def _resnet_name(module: str) -> str:
    """layer1_0/downsample_conv -> layer1.0.downsample.0: torchvision's ResNets."""
    module = module.replace("/downsample_conv", "/downsample/0")
    module = module.replace("/downsample_bn", "/downsample/1")
    return re.sub(r"^(layer\d)_(\d+)/", r"\1/\2/", module).replace("/", ".")


def _mobilenet_name(module: str) -> str:
    """stage2_0/expand_conv -> 2.block.0.0, stem_bn -> 0.1: torchvision's MobileNetV3 `features`.

    A block is a Sequential of what it has: expansion, depthwise, squeeze-and-excite, projection.
    """
    place, _, layer = module.rpartition("/")
    part, _, kind = layer.rpartition("_")
    number = {"conv": 0, "bn": 1}.get(kind)
    if not place:
        return f"{ {'stem': 0, 'last': 16}[part] }.{number}"
    stage, index = map(int, place.removeprefix("stage").split("_"))
    block = mobilenet.STAGES[stage - 1][index]
    parts = ["expand", "depthwise", "fc", "project"]
    if (stage, index) == (1, 0):
        parts.remove("expand")
    if not block.reduced:
        parts.remove("fc")
    features = sum(len(blocks) for blocks in mobilenet.STAGES[: stage - 1]) + index + 1
    if layer in ("fc1", "fc2"):
        return f"{features}.block.{parts.index('fc')}.{layer}"
    return f"{features}.block.{parts.index(part)}.{number}"


def _backbone_name(module: str) -> str:
    """torchvision's name of a layer of a segmentation network's backbone."""
    mobile = module.startswith(("stem_", "stage", "last_"))
    return _mobilenet_name(module) if mobile else _resnet_name(module)


def _fcn_name(module: str) -> str:
    """conv1_bn -> bnd1, deconv1_bn -> bn1."""
    return re.sub(r"^conv(\d)_bn$", r"bnd\1", re.sub(r"^deconv(\d)_bn$", r"bn\1", module))


def _unet_name(module: str) -> str:
    """encoder1/conv1 -> conv11, encoder1/conv2 -> conv1, and their normalisations likewise.

    The released network has one normalisation in a stage, named as our second one here
    (`bn_bottleneck1`: as our first); `_share` is about that.
    """
    stage, _, layer = module.partition("/")
    if not layer:
        return re.sub(r"^up(\d)$", r"up_pool\1", module)
    kind, place = re.fullmatch(r"(conv|bn)(\d)", layer).groups()  # type: ignore[union-attr]
    if stage == "bottleneck":
        return f"{'bn_' if kind == 'bn' else ''}bottleneck{place}"
    number = stage[-1] + ("1" if place == "1" else "")
    if stage.startswith("encoder"):
        return f"{kind}{number}"
    return f"{'bn_' if kind == 'bn' else ''}up_conv{number}"


def _resnet50_fcn_name(module: str) -> str:
    """The released backbone is a Sequential of ResNet's children: 0 conv1, 1 bn1, 4-7 layer1-4."""
    if module.startswith("backbone/"):
        name = _resnet_name(module.removeprefix("backbone/"))
        name = re.sub(r"^layer(\d)", lambda match: str(int(match[1]) + 3), name)
        return "backbone." + {"conv1": "0", "bn1": "1"}.get(name, name)
    return {"deconv3_bn": "bn1", "deconv4_bn": "bn2"}.get(module, module)


def _dilated_fcn_name(module: str) -> str:
    """torchvision's FCNHead is a Sequential: 0 conv, 1 bn, 4 conv."""
    if module.startswith("backbone/"):
        return "backbone." + _backbone_name(module.removeprefix("backbone/"))
    head, _, layer = module.partition("/")
    names = {"head": "classifier", "aux_head": "aux_classifier"}
    return f"{names[head]}.{ {'conv1': 0, 'bn1': 1, 'conv2': 4}[layer] }"


def _deeplabv3_name(module: str) -> str:
    """torchvision's DeepLabHead is a Sequential: 0 ASPP, 1 conv, 2 bn, 4 conv.

    Its branches are `convs` 0 to 4, each a Sequential: 0 conv, 1 bn; the last begins with pooling.
    """
    head, _, layer = module.partition("/")
    if head != "head":
        return _dilated_fcn_name(module)
    names = {"conv1": "1", "bn1": "2", "conv2": "4"}
    if layer in names:
        return f"classifier.{names[layer]}"
    branch, _, kind = layer.removeprefix("aspp/").rpartition("_")
    number = {"conv": 0, "bn": 1}[kind]
    if branch == "project":
        return f"classifier.0.project.{number}"
    if branch == "pooling":
        return f"classifier.0.convs.4.{number + 1}"
    return f"classifier.0.convs.{branch.removeprefix('branch')}.{number}"


def _lraspp_name(module: str) -> str:
    """torchvision's LRASPPHead: `cbr` is a Sequential of 0 conv, 1 bn; `scale` of pooling, conv."""
    if module.startswith("backbone/"):
        return "backbone." + _backbone_name(module.removeprefix("backbone/"))
    layer = module.removeprefix("head/")
    names = {"conv": "cbr.0", "bn": "cbr.1", "scale_conv": "scale.1"}
    return f"classifier.{names.get(layer, layer)}"


def _unet_resnet_name(module: str) -> str:
    """block0/conv1 -> decoder.blocks.0.conv1.0 (.1: bn), as segmentation_models.pytorch."""
    if module.startswith("backbone/"):
        return "encoder." + _resnet_name(module.removeprefix("backbone/"))
    block, _, layer = module.partition("/")
    if not layer:
        return "segmentation_head.0"
    kind, number = layer[:-1], layer[-1]
    return f"decoder.blocks.{block[-1]}.conv{number}.{ {'conv': 0, 'bn': 1}[kind] }"


_NAMES: dict[str, Callable[[str], str]] = {
    "fcn": _fcn_name,
    "simplified_unet": lambda module: module,
    "unet": _unet_name,
    "resnet50_fcn": _resnet50_fcn_name,
    "fcn_resnet50": _dilated_fcn_name,
    "fcn_resnet101": _dilated_fcn_name,
    "deeplabv3_resnet50": _deeplabv3_name,
    "deeplabv3_resnet101": _deeplabv3_name,
    "deeplabv3_mobilenet_v3_large": _deeplabv3_name,
    "lraspp_mobilenet_v3_large": _lraspp_name,
    **{f"unet_{depth}": _unet_resnet_name for depth in DEPTHS},
    **dict.fromkeys(DEPTHS, _resnet_name),
    MOBILENET: lambda module: f"features.{_mobilenet_name(module)}",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_LAST_BIASES = (
    "classifier.bias",
    "classifier.4.bias",
    "classifier.high_classifier.bias",
    "final_conv.bias",
    "segmentation_head.0.bias",
)
"""The bias of the last layer, by whose length the number of classes is known; one a network."""
_TRANSPOSED = re.compile(r"(^|/)(deconv|up|dec_upconv)\d$")


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, array) of every array in nested mappings."""
    if isinstance(tree, Mapping):
        for key in tree:
            yield from leaves(tree[key], (*path, key))
    else:
        yield path, tree


def nested(arrays: Mapping[str, Any]) -> Tree:
    """Nested dicts of arrays named by their paths, such as `params/conv1/kernel`."""
    tree: Tree = {"params": {}, "batch_stats": {}}
    for name, value in arrays.items():
        _put(tree, tuple(name.split("/")), value)
    return tree


def _torch_name(arch: str, path: tuple[str, ...]) -> str:
    """("params", "conv1", "kernel") -> conv1.weight."""
    return f"{_NAMES[arch]('/'.join(path[1:-1]))}.{_LEAVES.get(path[-1], path[-1])}"


def _axes(path: tuple[str, ...]) -> tuple[int, ...] | None:
    """Our axes in the order of PyTorch's weight; None where they are the same."""
    if path[-1] != "kernel":
        return None
    return (2, 3, 0, 1) if _TRANSPOSED.search("/".join(path[:-1])) else (3, 2, 0, 1)


# ---- from PyTorch --------------------------------------------------------------------------------


def load_torch_weights(arch: str, state_dict_or_path: Source, **options: Any) -> Tree:
    """Our variables from PyTorch's: {"params", "batch_stats"} of float32 NumPy arrays.

    The number of classes is the checkpoint's. Ignored by name: the counters
    `num_batches_tracked`; a backbone's classifier; `aux_classifier` unless `aux=True` is given.
    The released U-Net's one normalisation a stage is copied to both convolutions.

    Args:
        arch: a network of `models.MODELS`, or a backbone alone (`resnet50`, ...).
        state_dict_or_path: name -> array, or a `.pth` or `.safetensors` file of the same.
        **options: of the network, as for `create_model`, where they change its shapes.

    Raises:
        InputError: the file cannot be used; or names or shapes differ from the network's, and then
            the line lists them.
    """
    _check_name(arch)
    where, state = _state(state_dict_or_path)
    state = {k: v for k, v in state.items() if not _is_dropped(arch, k, options)}
    if arch == "unet":
        state = _share(state)
    variables: Tree = {"params": {}, "batch_stats": {}}
    problems, used = [], set()
    for path, leaf in leaves(_template(arch, state, options)):
        name = _torch_name(arch, path)
        used.add(name)
        try:
            _put(variables, path, _converted(name, state, path, leaf.shape))
        except _MismatchError as error:
            problems.append(str(error))
    unknown = [f"{name} is unknown" for name in state if name not in used]
    if problems or unknown:
        # One line: most of a wrong checkpoint's names would say nothing new.
        shown = problems[:6] + unknown[: max(3, 6 - len(problems))]
        rest = len(problems) + len(unknown) - len(shown)
        more = f"; and {rest} more" if rest else ""
        remedy = _remedy(arch, state)
        raise InputError(f"{where} does not fit {arch}: {'; '.join(shown)}{more}. {remedy}")
    return variables


def is_backbone(names: Collection[str]) -> bool:
    """Whether a state dict of these names is torchvision's of a backbone alone."""
    return "layer1.0.conv1.weight" in names or "features.0.0.weight" in names


def load_backbone(
    variables: Mapping[str, Any],
    depth: str,
    source: Source,
    path: str = "backbone",
    **options: Any,
) -> Tree:
    """`variables` of a network, with its backbone's replaced by torchvision's weights.

    Args:
        variables: {"params", "batch_stats"}, each with a backbone; not changed.
        depth: which backbone: a name of `models.backbones`.
        source: its state dict, or a file of it, as torchvision publishes them.
        path: where in the two the backbone is, such as `backbone` or `net/encoder`.
        **options: of the backbone (width).

    Raises:
        InputError: as `load_torch_weights`; or a network without a backbone, or with another one.
    """
    keys = path.split("/")
    if not _at(variables.get("params", {}), keys):
        raise InputError("this network has no backbone: its weights are initialised at random")
    loaded = load_torch_weights(depth, source, **options)
    merged = {}
    for kind, tree in variables.items():
        ours = {where: np.shape(leaf) for where, leaf in leaves(_at(tree, keys))}
        if ours != {where: leaf.shape for where, leaf in leaves(loaded[kind])}:
            raise InputError(f"the network's backbone is no {depth}: load the one it has")
        merged[kind] = _with(tree, keys, loaded[kind])
    return merged


def _at(tree: Mapping[str, Any], keys: list[str]) -> Mapping[str, Any]:
    """The subtree there; an empty one where there is none."""
    for key in keys:
        tree = tree.get(key, {})
    return tree


def _with(tree: Mapping[str, Any], keys: list[str], value: Any) -> Tree:
    """A copy of the tree with another subtree there."""
    if not keys:
        return value
    return {**tree, keys[0]: _with(tree.get(keys[0], {}), keys[1:], value)}


def is_known(arch: str) -> bool:
    """Whether PyTorch's names of a network are known."""
    return arch in _NAMES


def _check_name(arch: str) -> None:
    if arch not in _NAMES:
        ours = arch in MODELS or plugins.is_plugin(arch)
        what = "no PyTorch names are known for" if ours else "unknown network"
        raise InputError(f"{what} {arch!r}: choose one of {', '.join(_NAMES)}")


def _state(source: Source) -> tuple[str, dict[str, np.ndarray]]:
    """(what to call it, its arrays)."""
    if not isinstance(source, Mapping):
        return str(source), read_state_dict(source)
    arrays = {name: _array(value) for name, value in source.items()}
    return "the state dict", without_prefix(arrays)


def _array(value: Any) -> np.ndarray:
    """An array of anything NumPy can read, or of a PyTorch tensor, whose floats become float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _is_dropped(arch: str, name: str, options: Mapping[str, Any]) -> bool:
    if name.split(".")[-1] == "num_batches_tracked":
        return True
    if backbones.is_backbone(arch):
        return name in ("fc.weight", "fc.bias") or name.startswith("classifier.")
    aux_head = registry.get(arch).has_aux and name.startswith("aux_classifier.")
    return aux_head and not options.get("aux")


def _template(arch: str, state: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Tree:
    """The network's variables as shapes."""
    if arch in MODELS:
        bias = next((state[name] for name in _LAST_BIASES if name in state), None)
        classes = len(bias) if bias is not None and bias.ndim == 1 else 21
        model = create_model(arch, max(classes, 1), **options)
    else:
        model = backbones.create(arch, **options)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


class _MismatchError(Exception):
    """What is wrong with one leaf."""


def _converted(
    name: str, state: Mapping[str, np.ndarray], path: tuple[str, ...], shape: tuple[int, ...]
) -> np.ndarray:
    if name not in state:
        raise _MismatchError(f"{name} is missing")
    value, axes = state[name], _axes(path)
    expected = shape if axes is None else tuple(shape[axis] for axis in axes)
    if value.shape != expected:
        raise _MismatchError(f"{name} has the shape {value.shape} instead of {expected}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise _MismatchError(f"{name} holds {value.dtype}, no floating numbers")
    if axes is not None:
        value = value.transpose(np.argsort(axes))
    return np.array(value, np.float32, order="C")  # a copy: the file's bytes can go


def _put(tree: Tree, path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _remedy(arch: str, state: Mapping[str, Any]) -> str:
    for other, names in _LANDMARKS.items():
        if names <= state.keys():
            if other == arch:
                break
            on_one = arch in MODELS and MODELS[arch].backbone is not None
            backbone = on_one and backbones.is_backbone(other)
            return f"It looks like {other}: load it {'as a backbone' if backbone else 'as that'}"
    return "Give weights of this network, or the options that they were trained with"


_RESNET_LANDMARKS = {
    "resnet101": {"conv1.weight", "layer3.22.conv1.weight"},
    "resnet50": {"conv1.weight", "layer3.5.conv3.weight"},
    "resnet34": {"conv1.weight", "layer3.5.conv2.weight"},
    "resnet18": {"conv1.weight", "layer3.1.conv2.weight"},
}
_LANDMARKS = {
    "fcn": {"bnd5.weight"},
    "simplified_unet": {"enc_conv1.weight"},
    "unet": {"up_pool1.weight"},
    "resnet50_fcn": {"backbone.0.weight"},
    **{
        f"unet_{depth}": {f"encoder.{name}" for name in names}
        for depth, names in _RESNET_LANDMARKS.items()
    },
    "deeplabv3_mobilenet_v3_large": {"classifier.0.project.0.weight", "backbone.0.0.weight"},
    "lraspp_mobilenet_v3_large": {"classifier.cbr.0.weight"},
    "deeplabv3_resnet101": {"classifier.0.project.0.weight", "backbone.layer3.22.conv1.weight"},
    "deeplabv3_resnet50": {"classifier.0.project.0.weight", "backbone.conv1.weight"},
    "fcn_resnet101": {"backbone.layer3.22.conv1.weight"},
    "fcn_resnet50": {"backbone.conv1.weight"},
    **_RESNET_LANDMARKS,
    MOBILENET: {"features.0.0.weight", "features.16.0.weight"},
}
"""Names that tell the networks apart, in the order in which to look for them."""


# ---- to PyTorch ----------------------------------------------------------------------------------


def to_torch(
    arch: str, variables: Mapping[str, Any], shared_bn: bool | None = None
) -> dict[str, np.ndarray]:
    """PyTorch's state dict of our variables: name -> float32 array, and the int64 counters, at 0.

    `torch_module.load_state_dict({k: torch.from_numpy(v) for k, v in result.items()})` is strict;
    a backbone alone comes without its classifier `fc`. What `load_torch_weights` made comes back
    bit for bit.

    Args:
        arch: as for `load_torch_weights`.
        variables: {"params", "batch_stats"}.
        shared_bn: of the U-Net. True: the released naming, one normalisation a stage. False: one a
            convolution, `bn11` after `conv11`, `bn_bottleneck2`, `bn_up_conv11` and so on. None:
            shared where the two are equal in every stage, as in an imported checkpoint.

    Raises:
        InputError: unknown network; or shared_bn=True and a stage's normalisations differ.

    Examples:
        >>> import jax
        >>> from fcn_jax import create_model
        >>> image = np.zeros((1, 32, 32, 3), np.float32)
        >>> variables = create_model("simplified_unet", 2).init(jax.random.key(0), image)
        >>> state = to_torch("simplified_unet", variables)
        >>> again = load_torch_weights("simplified_unet", state)
        >>> jax.tree.all(jax.tree.map(np.array_equal, variables["params"], again["params"]))
        True
    """
    _check_name(arch)
    state = {}
    for path, leaf in leaves({kind: variables[kind] for kind in ("params", "batch_stats")
                               if kind in variables}):  # fmt: skip
        axes, value = _axes(path), np.asarray(leaf)
        name = _torch_name(arch, path)
        state[name] = np.ascontiguousarray(value if axes is None else value.transpose(axes))
        if path[-1] == "var":
            state[name.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    if arch == "unet" and shared_bn is not False:
        shared = _unshare(state)
        if shared is None and shared_bn:
            raise InputError("the stages' two normalisations differ: use shared_bn=False")
        state = shared or state
    return state


# ---- the U-Net's shared normalisations -----------------------------------------------------------

_SECOND_OF = {
    **{f"bn{i}1": f"bn{i}" for i in range(1, 5)},
    **{f"bn_up_conv{i}1": f"bn_up_conv{i}" for i in range(1, 5)},
    "bn_bottleneck2": "bn_bottleneck1",
}
"""A normalisation that only ours have -> the released one that it shares a stage with."""


def _share(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A released state dict with each shared normalisation at both places; others as they are."""
    modules = {name.rpartition(".")[0] for name in state}
    if modules & _SECOND_OF.keys():
        return state
    copies = {
        f"{own}.{leaf}": state[f"{released}.{leaf}"]
        for own, released in _SECOND_OF.items()
        for leaf in ("weight", "bias", "running_mean", "running_var")
        if f"{released}.{leaf}" in state
    }
    return {**state, **copies}


def _unshare(state: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The released naming, or None where two normalisations of a stage differ."""
    kept = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if module not in _SECOND_OF:
            kept[name] = value
        elif not np.array_equal(value, state[f"{_SECOND_OF[module]}.{leaf}"], equal_nan=True):
            return None
    return kept
