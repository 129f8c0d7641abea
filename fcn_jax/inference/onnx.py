"""A traced JAX function as an ONNX graph: an interpreter over the jaxpr, for what our networks use.

Whatever depends on weights alone is computed while exporting and becomes a constant. Images are
[N, H, W, C] in JAX and [N, C, H, W] in ONNX: here every array of rank 4 that is no constant is kept
in ONNX's order from the input to the output, so that only those two are transposed. A primitive
that is not known is named in an error; nothing is approximated.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from fcn_jax.types import InputError

OPSET = 17
IR_VERSION = 8
"""As old as they can be for what is used, so that older runtimes read the file."""

TO_ONNX = (0, 3, 1, 2)
"""Axis k of an ONNX array is axis TO_ONNX[k] of the JAX array."""
FROM_ONNX = (0, 2, 3, 1)


class Value(NamedTuple):
    """An array of the graph that is no constant."""

    name: str
    shape: tuple[int, ...]
    """In JAX's order."""


def convert(function: Callable, size: tuple[int, int], dtype: Any = np.uint8):
    """Trace `function` (image [N, H, W, 3] -> float32 [N, H, W, K]) and return an ONNX ModelProto.

    Height and width are fixed, the batch is free: it is traced with one image, and none of the
    primitives known here mixes images.

    Args:
      function: pure; weights are closed over.
      size: height and width.
      dtype: of the image.

    Raises:
      InputError: for a primitive that is not known here, or if onnx is not installed.
    """
    onnx = import_onnx()
    shape = (1, *size, 3)
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, dtype))
    graph = _Graph(onnx)
    image = Value("image_nchw", shape)
    graph.node("Transpose", ["image"], "image_nchw", perm=TO_ONNX)
    [logits] = graph.run(closed.jaxpr, closed.consts, [image])
    graph.node("Transpose", [logits.name], "logits", perm=FROM_ONNX)
    types = [onnx.helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (dtype, np.float32)]
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", *dims])
        for name, kind, dims in zip(
            ("image", "logits"), types, (shape[1:], logits.shape[1:]), strict=True
        )
    ]
    body = onnx.helper.make_graph(graph.nodes, "network", ends[:1], ends[1:], graph.constants)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(body, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def import_onnx():
    """The package onnx, or an InputError that says how to get it."""
    try:
        import onnx
    except ImportError:
        raise InputError("onnx is not installed: install the extra onnx, as in README.md") from None
    return onnx


def _unsupported(what: str) -> InputError:
    return InputError(f"the ONNX export does not support {what}: export to stablehlo instead")


class _Graph:
    """Nodes and constants so far, and one method for each primitive."""

    def __init__(self, onnx):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    # ---- building

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **kwargs) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], output, **kwargs))
        return output

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def operand(self, value: Value | np.ndarray | Array, rank: int) -> str:
        """The name of an argument of an elementwise node whose result has that rank."""
        if isinstance(value, Value):
            return value.name
        array = np.asarray(value)
        return self.constant(array.transpose(TO_ONNX) if array.ndim == rank == 4 else array)

    # ---- interpreting

    def run(self, jaxpr, consts, arguments) -> list:
        """Interpret; a variable is a Value, or a concrete array where weights alone decide it."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom):
            return atom.val if hasattr(atom, "val") else known[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [read(atom) for atom in eqn.invars])
            known |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn, inputs: list) -> list:
        name, params = eqn.primitive.name, eqn.params
        inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
        if inner is not None and name in CALLS:
            closed = hasattr(inner, "consts")
            body, consts = (inner.jaxpr, inner.consts) if closed else (inner, ())
            known = self.named(str(params.get("name")), inputs, eqn.outvars[0].aval.shape)
            return self.run(body, consts, inputs) if known is None else [known]
        if not any(isinstance(value, Value) for value in inputs):
            return self.fold(eqn, inputs)
        shape = tuple(eqn.outvars[0].aval.shape)
        if name in ELEMENTWISE:
            return [self.elementwise(ELEMENTWISE[name], inputs, shape)]
        method = getattr(self, f"do_{name}", None)
        if method is None:
            raise _unsupported(f"the primitive {name}")
        return [Value(method(eqn, *inputs), shape)]

    def named(self, name: str, inputs: list, shape: Sequence[int]) -> Value | None:
        """The one node of a function that ONNX has too; None for any other function."""
        shape, (x, *rest) = tuple(shape), inputs or [None]
        if not isinstance(x, Value) or rest:
            return None
        if name == "resize_bilinear":
            return Value(self.resize(x, shape, "linear", "half_pixel"), shape)
        if name == "double_nearest":
            node = self.resize(x, shape, "nearest", "asymmetric", nearest_mode="floor")
            return Value(node, shape)
        pool = re.fullmatch(r"max_pool_(\d+)_(\d+)_(\d+)", name)
        return None if pool is None else self.max_pool(x, shape, *map(int, pool.groups()))

    def resize(self, x: Value, shape: tuple, mode: str, coordinates: str, **kwargs: Any) -> str:
        """To the height and width of `shape`; the batch stays free."""
        first = self.node("Shape", [x.name], start=0, end=2)
        target = self.constant(np.array(shape[1:3], np.int64))
        sizes = self.node("Concat", [first, target], axis=0)
        inputs = [x.name, "", "", sizes]
        return self.node(
            "Resize", inputs, mode=mode, coordinate_transformation_mode=coordinates, **kwargs
        )

    def max_pool(self, x: Value, shape: tuple, size: int, stride: int, low: int) -> Value:
        """Padded below and to the right so far that no row or column is lost."""
        high = [
            stride * (after - 1) + size - before - low
            for before, after in zip(x.shape[1:3], shape[1:3], strict=True)
        ]
        # Where the last window begins early enough, what is padded would be negative.
        pads = [low, low, *(max(n, 0) for n in high)]
        node = self.node(
            "MaxPool", [x.name], kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads
        )
        return Value(node, shape)

    def fold(self, eqn, inputs: list) -> list:
        """Compute now what no image decides."""
        result = eqn.primitive.bind(*inputs, **eqn.params)
        return list(result) if eqn.primitive.multiple_results else [result]

    def elementwise(self, kind: str, inputs: list, shape: tuple) -> Value:
        constants = [v for v in inputs if not isinstance(v, Value)]
        if kind == "Max" and len(constants) == 1 and not np.any(np.asarray(constants[0])):
            [value] = [v for v in inputs if isinstance(v, Value)]
            return Value(self.node("Relu", [value.name]), shape)
        if kind == "Sub" and not isinstance(inputs[1], Value):  # runtimes fuse additions
            kind, inputs = "Add", [inputs[0], -np.asarray(inputs[1])]
        names = [self.operand(value, len(shape)) for value in inputs]
        return Value(self.node(kind, names), shape)

    # ---- primitives

    def do_convert_element_type(self, eqn, x: Value) -> str:
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params["new_dtype"]))
        same = eqn.invars[0].aval.dtype == eqn.params["new_dtype"]
        return x.name if same else self.node("Cast", [x.name], to=kind)

    def do_stop_gradient(self, eqn, x: Value) -> str:
        return x.name

    def do_reshape(self, eqn, x: Value) -> str:
        if tuple(eqn.outvars[0].aval.shape) != x.shape:
            raise _unsupported("a reshape of activations")
        return x.name

    def do_reduce_sum(self, eqn, x: Value) -> str:
        if tuple(eqn.params["axes"]) != (1, 2) or len(x.shape) != 4:
            raise _unsupported("a sum over other axes than rows and columns")
        axes = self.constant(np.array([2, 3], np.int64))
        return self.node("ReduceSum", [x.name, axes], keepdims=0)

    def do_broadcast_in_dim(self, eqn, x: Value) -> str:
        shape, dims = tuple(eqn.params["shape"]), tuple(eqn.params["broadcast_dimensions"])
        if shape == x.shape:
            return x.name
        if len(x.shape) == 2 and dims == (0, 3) and shape == (x.shape[0], 1, 1, x.shape[1]):
            axes = self.constant(np.array([2, 3], np.int64))
            return self.node("Unsqueeze", [x.name, axes])
        if dims == (0, 1, 2, 3) and x.shape[1:3] == (1, 1) and shape[::3] == x.shape[::3]:
            whole = self.constant(np.array([1, 1, *shape[1:3]], np.int64))
            return self.node("Expand", [x.name, whole])
        raise _unsupported("this broadcast of activations")

    def do_conv_general_dilated(self, eqn, x: Value, kernel) -> str:
        p = eqn.params
        numbers = p["dimension_numbers"]
        if tuple(map(tuple, numbers)) != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)):
            raise _unsupported("a convolution in another layout than NHWC, HWIO")
        if isinstance(kernel, Value) or p["batch_group_count"] != 1:
            raise _unsupported("a convolution whose kernel is not constant")
        kernel = np.asarray(kernel)
        if tuple(p["lhs_dilation"]) == (1, 1):
            (top, bottom), (left, right) = p["padding"]
            return self.node(
                "Conv",
                [x.name, self.constant(kernel.transpose(3, 2, 0, 1))],
                strides=p["window_strides"],
                dilations=p["rhs_dilation"],
                pads=[top, left, bottom, right],
                group=p["feature_group_count"],
            )
        return self.transposed(x, kernel, p)

    def transposed(self, x: Value, kernel: np.ndarray, p: dict) -> str:
        """A convolution over pixels with zeros between them: ONNX's ConvTranspose.

        With k taps and padding (low, high) its pads are k - 1 - low and k - 1 - high; where the
        last is negative it is rows that are added at the end.
        """
        plain = tuple(p["window_strides"]) == tuple(p["rhs_dilation"]) == (1, 1)
        if not plain or p["feature_group_count"] != 1:
            raise _unsupported("a transposed convolution that is strided, dilated or grouped")
        taps = kernel.shape[:2]
        low = [k - 1 - pair[0] for k, pair in zip(taps, p["padding"], strict=True)]
        high = [k - 1 - pair[1] for k, pair in zip(taps, p["padding"], strict=True)]
        weight = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        return self.node(
            "ConvTranspose",
            [x.name, self.constant(weight)],
            strides=p["lhs_dilation"],
            pads=[*low, *(max(h, 0) for h in high)],
            output_padding=[max(-h, 0) for h in high],
        )

    def do_pad(self, eqn, x: Value, fill) -> str:
        config = [eqn.params["padding_config"][axis] for axis in TO_ONNX]
        if any(inside for *_, inside in config):
            raise _unsupported("padding between pixels")
        if not any(low or high for low, high, _ in config):
            return x.name
        pads = np.array([c[0] for c in config] + [c[1] for c in config], np.int64)
        return self.node("Pad", [x.name, self.constant(pads), self.constant(np.asarray(fill))])

    def do_slice(self, eqn, x: Value) -> str:
        p = eqn.params
        steps = p["strides"] or (1,) * len(x.shape)
        cut = []
        for k, axis in enumerate(TO_ONNX):
            start, limit, step = (v[axis] for v in (p["start_indices"], p["limit_indices"], steps))
            if (start, limit, step) != (0, x.shape[axis], 1):
                cut.append((k, start, limit, step))
        if not cut:
            return x.name
        axes, starts, ends, steps = (
            self.constant(np.array(column, np.int64)) for column in zip(*cut, strict=True)
        )
        return self.node("Slice", [x.name, starts, ends, axes, steps])

    def do_concatenate(self, eqn, *parts) -> str:
        axis = TO_ONNX.index(eqn.params["dimension"])
        return self.node("Concat", [self.operand(part, 4) for part in parts], axis=axis)

    def do_reduce_window_max(self, eqn, x: Value) -> str:
        p = eqn.params
        size, strides, padding = (p[k] for k in ("window_dimensions", "window_strides", "padding"))
        dilated = {*p["base_dilation"], *p["window_dilation"]} != {1}
        if dilated or (size[0], size[3], strides[0], strides[3]) != (1, 1, 1, 1):
            raise _unsupported("a maximum over other axes than rows and columns")
        pads = [padding[1][0], padding[2][0], padding[1][1], padding[2][1]]
        return self.node(
            "MaxPool", [x.name], kernel_shape=size[1:3], strides=strides[1:3], pads=pads
        )

    def do_transpose(self, eqn, x: Value) -> str:
        permutation = eqn.params["permutation"]
        order = [TO_ONNX.index(permutation[axis]) for axis in TO_ONNX]
        return x.name if order == [0, 1, 2, 3] else self.node("Transpose", [x.name], perm=order)

    def do_dot_general(self, eqn, left, right) -> str:
        """A product with a constant matrix, such as a bilinear resize, as an Einsum."""
        (contract, batch), letters = eqn.params["dimension_numbers"], iter("abcdefghijkl")
        shapes = [tuple(atom.aval.shape) for atom in eqn.invars]
        names: list[list[str]] = [[""] * len(s) for s in shapes]
        for pairs in (batch, contract):
            for i, j in zip(*pairs, strict=True):
                names[0][i] = names[1][j] = next(letters)
        free = [[n or next(letters) for n in side] for side in names]
        shared = [free[0][i] for i in batch[0]]
        rest = [n for side, old in zip(free, names, strict=True)
                for n, o in zip(side, old, strict=True) if not o]  # fmt: skip
        result = shared + rest
        terms, inputs = [], []
        for value, side in zip((left, right), free, strict=True):
            inside = isinstance(value, Value) and len(side) == 4
            terms.append("".join(side[k] for k in TO_ONNX) if inside else "".join(side))
            inputs.append(value.name if isinstance(value, Value) else self.constant(value))
        out = "".join(result[k] for k in TO_ONNX) if len(result) == 4 else "".join(result)
        return self.node("Einsum", inputs, equation=f"{','.join(terms)}->{out}")


CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")

ELEMENTWISE = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "neg": "Neg",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
}
