"""Files of tensors, PyTorch's `.pth` (both formats) and `.safetensors`, without PyTorch.

A `.pth` file holds a pickle, and unpickling runs whatever the file's author likes. So nothing is
unpickled here: `_interpret` is a small interpreter for the few operations that a state dict needs.
It knows strings, numbers, containers and tensors, calls nothing, and refuses the rest. What
training scripts save beside the weights (arguments, paths, NumPy numbers) is skipped.

No declared size is believed: a tensor is a view into bytes that the file really holds.
"""

import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize

from fcn_jax.types import InputError

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of PyTorch's format before 1.6: a pickled magic number."""

_TYPES = {
    ("Double", "F64"): "<f8",
    ("Float", "F32"): "<f4",
    ("Half", "F16"): "<f2",
    ("BFloat16", "BF16"): ml_dtypes.bfloat16,
    ("Long", "I64"): "<i8",
    ("Int", "I32"): "<i4",
    ("Short", "I16"): "<i2",
    ("Char", "I8"): "i1",
    ("Byte", "U8"): "u1",
    ("Bool", "BOOL"): "?",
}
"""(PyTorch's name, that of safetensors) -> NumPy's type."""
_STORAGES = {f"torch.{name}Storage": np.dtype(kind) for (name, _), kind in _TYPES.items()}
_SAFETENSORS_TYPES = {name: kind for (_, name), kind in _TYPES.items()}


_DAMAGE = (
    SafetensorError, zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, RuntimeError,
    ValueError,
)  # fmt: skip
"""What the standard library and safetensors raise on bytes that make no sense."""


def read_state_dict(path: Path | str) -> dict[str, np.ndarray]:
    """The named tensors of a file, in the file's own types; read-only views of its bytes.

    A checkpoint that keeps its state dict under one of `WRAPPERS` is opened there, and a prefix of
    all names, such as `module.`, is taken off: see `without_prefix`.

    Raises:
        InputError: no such file, another format, cut short, or holding anything but tensors,
            numbers, strings and containers; one line that says which and where.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _read(file, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (_RefusedError, *_DAMAGE) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no usable weights file: {reason}") from None
    return _tensors(content, path)


class _RefusedError(Exception):
    """Why a file is not read; `read_state_dict` adds the file's name."""


def _read(file: BinaryIO, path: Path) -> Any:
    start = file.read(len(_LEGACY_MAGIC))
    file.seek(0)
    if start[:2] == b"PK":
        return _read_zip(file)
    if start == _LEGACY_MAGIC:
        return _read_legacy(file)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(file)
    raise _RefusedError("neither PyTorch's .pth nor .safetensors (is it cut short, or a web page?)")


WRAPPERS = (
    *("checkpoint", "model", "ema_model", "state_dict", "model_state_dict", "model_state"),
    *("net", "network", "module", "weights", "params"),
)
"""Keys under which training scripts keep the state dict."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile, Lightning and wrapper modules put before every name."""


_BESIDE = ("criterion.", "loss.", "loss_fn.", "n_averaged")
"""What Lightning modules and weight averaging keep beside a network's own weights."""


def without_prefix(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict of the network: no loss, and no `PREFIXES` that all of its names have.

    >>> list(without_prefix({"module.model.conv1.weight": np.zeros(3)}))
    ['conv1.weight']
    """
    state = {k: v for k, v in state.items() if not k.startswith(_BESIDE)}
    names = list(state)
    while names:
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names)), None)
        if prefix is None:
            break
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _tensors(content: Any, path: Path) -> dict[str, np.ndarray]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, _Skipped):
        raise InputError(f"{path} holds a {content.name}: save the model's state_dict() alone")
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict: save the model's state_dict() alone")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            what = f"a {value.name}" if isinstance(value, _Skipped) else "which is no tensor"
            raise InputError(f"{path} holds {name!r}, {what}: save a state dict alone")
    return without_prefix(content)


# ---- the containers ------------------------------------------------------------------------------


def _read_safetensors(file: BinaryIO) -> dict[str, np.ndarray]:
    tensors = {}
    for name, tensor in deserialize(file.read()):
        if tensor["dtype"] not in _SAFETENSORS_TYPES:
            raise _RefusedError(f"{name} has the type {tensor['dtype']}, which is not supported")
        flat = np.frombuffer(tensor["data"], _SAFETENSORS_TYPES[tensor["dtype"]])
        tensors[name] = flat.reshape(tensor["shape"])
    return tensors


def _read_zip(file: BinaryIO) -> Any:
    """PyTorch >= 1.6: NAME/data.pkl, and each storage's bytes in NAME/data/KEY."""
    size = file.seek(0, 2)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise _RefusedError(f"the archive is cut short at {size} bytes") from None
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError("a zip archive without PyTorch's data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")

        def member(name: str) -> bytes:
            info = members.get(prefix + name)
            if info is None:
                raise _RefusedError(f"the archive lacks {prefix + name}")
            # Stored members are no larger than the file; a compressed one could be any size.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > size:
                raise _RefusedError(f"{info.filename} is compressed or too large: re-save the file")
            return archive.read(info)

        if prefix + "byteorder" in members and member("byteorder") != b"little":
            raise _RefusedError("it was written on a big-endian machine: re-save the file")
        content = _interpret(BytesIO(member("data.pkl")))
        return _resolve(content, lambda storage: member(f"data/{storage.key}"))


def _read_legacy(file: BinaryIO) -> Any:
    """PyTorch < 1.6: pickles of a magic number, version, machine, content, keys; then the bytes."""
    # Mapped, because a plain file's read(n) sets n bytes aside before it looks what there is.
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _, version, machine, content, keys = (_interpret(data) for _ in range(5))
    if version != 1001 or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _RefusedError(f"of version {version} or big-endian: re-save it with a newer PyTorch")
    declared = {storage.key: storage for storage in _storages(content)}
    blocks = {}
    for key in keys if isinstance(keys, list) else ():
        if key not in declared:
            raise _RefusedError(f"storage {key!r} belongs to no tensor")
        header = data.read(8)
        length = int.from_bytes(header, "little") * declared[key].dtype.itemsize
        if len(header) < 8 or length > len(data) - data.tell():
            raise _RefusedError(f"the file is cut short at {len(data)} bytes, in storage {key}")
        blocks[key] = data.read(length)

    def stored(storage: _Storage) -> bytes:
        if storage.key not in blocks:
            raise _RefusedError(f"storage {storage.key} is missing")
        return blocks[storage.key]

    return _resolve(content, stored)


# ---- tensors -------------------------------------------------------------------------------------


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class _Tensor(NamedTuple):
    """A tensor before its bytes are at hand."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _storages(content: Any) -> list[_Storage]:
    if isinstance(content, _Tensor):
        return [content.storage]
    if isinstance(content, dict):
        return [s for value in content.values() for s in _storages(value)]
    return []


def _resolve(content: Any, read: Callable[[_Storage], bytes]) -> Any:
    """`content` with its tensors as arrays, three dicts deep at most; lists are left alone."""
    cache: dict[str, np.ndarray] = {}

    def array(tensor: _Tensor, name: str) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in cache:
            data = read(storage)
            if len(data) != storage.count * storage.dtype.itemsize:
                raise _RefusedError(
                    f"{name} declares {storage.count} values, the file has {len(data)} bytes"
                )
            cache[storage.key] = np.frombuffer(data, storage.dtype)
        return _view(cache[storage.key], tensor, name)

    def walk(value: Any, name: str, depth: int) -> Any:
        if isinstance(value, _Tensor):
            return array(value, name)
        if isinstance(value, dict) and depth:
            return {k: walk(v, f"{k}", depth - 1) for k, v in value.items()}
        return value

    return walk(content, "the file", 3)


def _view(flat: np.ndarray, tensor: _Tensor, name: str) -> np.ndarray:
    """The tensor as a view of its storage, once all of it is known to lie inside."""
    _, offset, shape, stride = tensor
    count = int(np.prod([1, *shape], dtype=object))
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if count > len(flat) or (count and last >= len(flat)):
        raise _RefusedError(f"{name} declares the shape {shape}, the file has {len(flat)} values")
    size = flat.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[offset:], shape, [s * size for s in stride], writeable=False
    )


# ---- the pickle ----------------------------------------------------------------------------------

_MARK = object()


class _Name(NamedTuple):
    """A function or class that a pickle names. It stays a name."""

    name: str


class _Skipped(NamedTuple):
    """A class of `_SKIPPED` or an object of one; what it is made of is not kept."""

    name: str


_SKIPPED = re.compile(
    r"argparse\.Namespace|_codecs\.encode|datetime\.\w+|pathlib(\._local)?\.\w*Path"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+)"
    r"|numpy\.(_core|core)\.multiarray\.(scalar|_reconstruct)"
    r"|(builtins|__builtin__)\.(set|frozenset|complex|slice|range|bytearray|bytes|list|dict|tuple)"
    r"|(builtins|__builtin__)\.(bool|int|long|float|str|unicode)"
    r"|collections\.(defaultdict|Counter|deque)|torch\.(device|Size|float32|float16|bfloat16)"
    r"|omegaconf\.[\w.]+|(pytorch_)?lightning[\w.]*\.AttributeDict"
)
"""Names of what is harmless beside the weights: it is neither imported nor made."""


def _interpret(file: Any) -> Any:
    """The value of the next pickle in `file` (BytesIO or mmap); see the module's docstring."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            # pickletools warns about escapes in damaged strings; what matters is refused anyway.
            warnings.simplefilter("ignore", DeprecationWarning)
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "STOP":
                    return stack.pop()
                _step(opcode.name, argument, stack, memo)
    except _RefusedError:
        raise
    except (*_DAMAGE, LookupError, TypeError, AttributeError) as error:
        raise _RefusedError(f"its pickle is damaged ({error})") from None
    raise _RefusedError("its pickle has no end")


def _step(opcode: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if opcode in _CONSTANTS:
        stack.append(_CONSTANTS[opcode]())
    elif opcode in _LITERALS:
        stack.append(argument)
    elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif opcode in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif opcode == "GLOBAL":
        stack.append(_known(argument.replace(" ", ".", 1)))
    elif opcode == "STACK_GLOBAL":
        name, module = stack.pop(), stack.pop()
        stack.append(_known(f"{module}.{name}"))
    elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(opcode[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif opcode == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif opcode in ("SETITEM", "APPEND"):
        items = [stack.pop(-2), stack.pop()] if opcode == "SETITEM" else [stack.pop()]
        _fill(stack[-1], items)
    elif opcode in ("SETITEMS", "APPENDS", "ADDITEMS"):
        items = _to_mark(stack)
        _fill(stack[-1], items)
    elif opcode == "FROZENSET":
        _to_mark(stack)
        stack.append(_Skipped("builtins.set"))
    elif opcode == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif opcode in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        stack.append(_build(function, arguments))
    elif opcode == "BUILD":
        stack.pop()  # a state dict's `_metadata`; nothing here has attributes to set
    elif opcode not in ("PROTO", "FRAME"):
        raise _RefusedError(f"its pickle does {opcode}, which no state dict needs; nothing was run")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: _Skipped("builtins.set"),
}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip


def _fill(container: Any, items: list[Any]) -> None:
    """Put keys and values into a dict, or values into a list; what is skipped stays empty."""
    if isinstance(container, dict) and len(items) % 2 == 0:
        container.update(zip(items[::2], items[1::2], strict=True))
    elif isinstance(container, list):
        container.extend(items)
    elif not isinstance(container, _Skipped):
        raise TypeError("items put into what is no dict or list")


def _to_mark(stack: list[Any]) -> list[Any]:
    """Take all above the last mark, and the mark."""
    at = len(stack) - 1
    while stack[at] is not _MARK:  # IndexError where there is none
        at -= 1
        if at < 0:
            raise IndexError("no mark")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _known(name: str) -> _Name | _Skipped:
    if _SKIPPED.fullmatch(name):
        return _Skipped(name)
    known = {"collections.OrderedDict", *_REBUILDERS, *_STORAGES}
    if name not in known:
        raise _RefusedError(f"its pickle asks for {name}, which is no tensor; nothing was run")
    return _Name(name)


def _storage(identity: Any) -> _Storage:
    kind, cls, key, _, count, *rest = identity
    if kind != "storage" or not isinstance(key, str) or not isinstance(count, int) or any(rest):
        raise ValueError("a storage of an unknown kind")
    return _Storage(_STORAGES[cls.name], key, count)


_REBUILDERS = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
}


def _build(function: Any, arguments: Any) -> Any:
    """What PyTorch's own function of that name would make of the arguments."""
    if isinstance(function, _Skipped):
        return function
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise TypeError("a call of what is no function")
    if function.name == "collections.OrderedDict" and not arguments:
        return {}
    if function.name == "torch._utils._rebuild_parameter":
        return arguments[0]  # (tensor, requires_grad, hooks)
    if function.name not in _REBUILDERS:
        raise TypeError(f"a call of {function.name}")
    storage, offset, shape, stride, *_ = arguments
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor without storage, or of a negative size")
    if len(shape) != len(stride):
        raise ValueError("a tensor with fewer strides than sizes")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))
