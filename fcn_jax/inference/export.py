"""Export of a trained network to StableHLO or ONNX, with a comparison on real images.

Both programs run without this package. They take raw images, [N, H, W, 3] RGB in 0..255, normalise
inside, and return logits float32 [N, H, W, K].
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fcn_jax.data import batches
from fcn_jax.inference import onnx, predict
from fcn_jax.runtime import files
from fcn_jax.types import InputError

PLATFORMS = ("cpu", "cuda", "tpu")

ANY = "any"
"""In place of a size: the program takes images of every size, where the network allows it."""

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Exported:
    """A program, as bytes and as a function."""

    data: bytes
    run: Run
    """Images [N, H, W, 3] -> logits, through the exported program itself."""
    size: tuple[int, int] | None
    """Height and width it is made for; None: any."""


def forward(checkpoint: predict.Checkpoint) -> Callable[[jax.Array], Any]:
    """The network from raw pixels to logits, weights closed over, computed in float32."""
    model = checkpoint.model
    if hasattr(model, "dtype"):
        model = model.clone(dtype=jnp.float32)  # pyright: ignore[reportCallIssue]

    def run(images: jax.Array):
        with jax.default_matmul_precision("highest"):
            return model.apply(checkpoint.variables, batches.normalize(images), train=False)

    return run


def to_stablehlo(
    checkpoint: predict.Checkpoint, size: tuple[int, int] | str, pixels: str = "uint8"
) -> Exported:
    """Export through `jax.export`, for CPUs, CUDA and TPUs alike, with a free batch.

    Args:
      checkpoint: what is exported.
      size: height and width, or `ANY`.
      pixels: type of the images.

    Raises:
      InputError: for `ANY`, where the network's resizing needs to know the size.
    """
    from jax import export

    dims = "batch, height, width, 3" if size == ANY else f"batch, {size[0]}, {size[1]}, 3"
    spec = jax.ShapeDtypeStruct(export.symbolic_shape(dims), np.dtype(pixels))
    try:
        program = export.export(jax.jit(forward(checkpoint)), platforms=PLATFORMS)(spec)
    except Exception as error:
        # JAX has no one type of error for a shape it cannot do with symbols.
        if size != ANY:
            raise
        raise InputError(
            f"{checkpoint.meta.get('model', {}).get('name', 'the network')} needs to know its "
            f"size ({type(error).__name__}): give its height and width"
        ) from error
    data = bytes(program.serialize())
    run = jax.jit(export.deserialize(bytearray(data)).call)
    return Exported(data, lambda x: np.asarray(run(x)), None if size == ANY else _pair(size))


def to_onnx(
    checkpoint: predict.Checkpoint, size: tuple[int, int] | str, pixels: str = "uint8"
) -> Exported:
    """Export as ONNX with a free batch and a fixed size; class names and palette go inside.

    Raises:
      InputError: for `ANY`, if a primitive of the network is not known, or onnx is not installed.
    """
    if size == ANY:
        raise InputError(
            "ONNX is exported for one size: give height and width", field="size", value=size
        )
    size = _pair(size)
    model = onnx.convert(forward(checkpoint), size, np.dtype(pixels))
    for key, value in description(checkpoint).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    data = model.SerializeToString()
    return Exported(data, _onnx_runner(data), size)


def _onnx_runner(data: bytes) -> Run:
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "onnxruntime is not installed: install the extra onnx, as in README.md"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1]))


def description(checkpoint: predict.Checkpoint) -> dict[str, Any]:
    """What a user of the file has to know; JSON values."""
    return {
        "class_names": list(checkpoint.class_names),
        "palette": np.asarray(checkpoint.palette).tolist(),
        "arch": checkpoint.meta.get("model", {}).get("name"),
        "image_size": list(checkpoint.image_size),
        "input": "image [batch, height, width, 3], RGB, 0..255",
        "output": "logits float32 [batch, height, width, classes]; the class is their argmax",
    }


def parity(
    checkpoint: predict.Checkpoint,
    exported: Exported,
    images: Iterable[tuple[str, np.ndarray]],
    pixels: str = "uint8",
) -> dict[str, Any]:
    """Compare the exported program with this package's network on real images.

    Args:
      checkpoint: the original.
      exported: the program.
      images: (name, uint8 [H, W, 3]); each is resized to the program's size, or to that of the
        training where it takes any.
      pixels: type the program wants.

    Raises:
      InputError: without an image, or if the network's logits are not finite.

    Returns:
      {"images", "max_abs_difference", "max_abs_logit", "argmax_agreement", "per_image"}.
    """
    original = jax.jit(forward(checkpoint))
    rows = []
    for name, image in images:
        small = batches.resize_image(image, exported.size or checkpoint.image_size)[None]
        expected = np.asarray(original(small))
        if not np.isfinite(expected).all():
            raise InputError(f"the network's logits of {name} are not finite: train it again")
        found = exported.run(small.astype(pixels))
        rows.append(
            {
                "image": name,
                "max_abs_difference": float(np.abs(found - expected).max()),
                "max_abs_logit": float(np.abs(expected).max()),
                "argmax_agreement": float((found.argmax(-1) == expected.argmax(-1)).mean()),
            }
        )
    if not rows:
        raise InputError("there is no image to compare on: name some")
    return {
        "images": len(rows),
        "max_abs_difference": max(r["max_abs_difference"] for r in rows),
        "max_abs_logit": max(r["max_abs_logit"] for r in rows),
        "argmax_agreement": float(np.mean([r["argmax_agreement"] for r in rows])),
        "per_image": rows,
    }


def agrees(report: dict[str, Any]) -> bool:
    """Whether the differences are rounding: 1e-4 of the largest logit, 1 pixel in 1000."""
    close = report["max_abs_difference"] <= 1e-4 * max(1.0, report["max_abs_logit"])
    return close and report["argmax_agreement"] >= 0.999


def check_target(path: Path) -> None:
    """Refuse a path beside which another file than a description would be overwritten.

    Raises:
      InputError: naming that file.
    """
    beside = path.with_name(path.name + ".json")
    if beside.exists() and "class_names" not in _keys(beside):
        raise InputError(f"{beside} is another file, and would be overwritten: choose another name")


def _keys(path: Path) -> set[str]:
    try:
        stored = files.read_json(path)
    except InputError:
        return set()
    return set(stored) if isinstance(stored, dict) else set()


def save(
    exported: Exported, checkpoint: predict.Checkpoint, report: dict[str, Any], path: Path
) -> tuple[Path, Path]:
    """Write the program, and beside it PATH.json (description) and PATH.parity.json."""
    check_target(path)
    files.write_bytes(path, exported.data)
    paths = (path.with_name(path.name + ".json"), path.with_name(path.name + ".parity.json"))
    size = list(exported.size) if exported.size else ANY
    files.write_json(paths[0], {**description(checkpoint), "size": size})
    files.write_json(paths[1], report)
    return paths
