"""PyTorch's weights to ours and back, without PyTorch.

`load_torch_weights` reads the state dicts of the paper's released networks, of torchvision and of
segmentation_models.pytorch; `to_torch` writes dicts that load strictly into the same. `torch_names`
says which of their arrays is which of ours.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fcn_jax.models import MODELS, backbones, create_model, registry
from fcn_jax.types import InputError
from fcn_jax.weights import torch_names
from fcn_jax.weights.torch_files import read_state_dict, without_prefix

Tree = dict[str, Any]
Source = Mapping[str, Any] | Path | str


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
    torch_names.check(arch)
    where, state = _state(state_dict_or_path)
    state = {k: v for k, v in state.items() if not _is_dropped(arch, k, options)}
    if arch == "unet":
        state = _share(state)
    arrays, problems, used = {}, [], set()
    template: dict[tuple[str, ...], Any] = flatten_dict(_template(arch, state, options))
    for path, leaf in template.items():
        name = torch_names.torch_name(arch, path)
        used.add(name)
        found = _converted(name, state, path, leaf.shape)
        if isinstance(found, str):
            problems.append(found)
        arrays[path] = found
    unknown = [f"{name} is unknown" for name in state if name not in used]
    if problems or unknown:
        # One line: most of a wrong checkpoint's names would say nothing new.
        shown = problems[:6] + unknown[: max(3, 6 - len(problems))]
        rest = len(problems) + len(unknown) - len(shown)
        more = f"; and {rest} more" if rest else ""
        raise InputError(
            f"{where} does not fit {arch}: {'; '.join(shown)}{more}. Give weights of this network, "
            "or the options that they were trained with"
        )
    return {"params": {}, "batch_stats": {}, **unflatten_dict(arrays)}


def is_backbone_alone(names: Collection[str]) -> bool:
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
    prefix = tuple(path.split("/"))
    arrays: dict[tuple[str, ...], Any] = flatten_dict(variables, keep_empty_nodes=True)
    loaded: dict[tuple[str, ...], Any] = {
        (where[0], *prefix, *where[1:]): array
        for where, array in flatten_dict(load_torch_weights(depth, source, **options)).items()
    }
    ours = {w: np.shape(a) for w, a in arrays.items() if w[1 : 1 + len(prefix)] == prefix}
    if not ours:
        raise InputError("this network has no backbone: do not load one")
    if ours != {where: array.shape for where, array in loaded.items()}:
        raise InputError(f"the network's backbone is no {depth}: load the one it has")
    return unflatten_dict({**arrays, **loaded})


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
        bias = next((state[name] for name in torch_names.LAST_BIASES if name in state), None)
        classes = len(bias) if bias is not None and bias.ndim == 1 else 21
        model = create_model(arch, max(classes, 1), **options)
    else:
        model = backbones.create(arch, **options)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def _converted(
    name: str, state: Mapping[str, np.ndarray], path: tuple[str, ...], shape: tuple[int, ...]
) -> np.ndarray | str:
    """The array at a path of our variables, or what is wrong with it."""
    if name not in state:
        return f"{name} is missing"
    value, axes = state[name], torch_names.torch_axes(path)
    expected = shape if axes is None else tuple(shape[axis] for axis in axes)
    if value.shape != expected:
        return f"{name} has the shape {value.shape} instead of {expected}"
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return f"{name} holds {value.dtype}, no floating numbers"
    if axes is not None:
        value = value.transpose(np.argsort(axes))
    result = np.array(value, np.float32, order="C")  # a copy: the file's bytes can go
    return result if np.isfinite(result).all() else f"{name} holds NaN or infinity"


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
    torch_names.check(arch)
    state = {}
    kept = {kind: variables[kind] for kind in ("params", "batch_stats") if kind in variables}
    for path, leaf in flatten_dict(kept).items():
        axes, value = torch_names.torch_axes(path), np.asarray(leaf)
        name = torch_names.torch_name(arch, path)
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
