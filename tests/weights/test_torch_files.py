"""Files of tensors as PyTorch writes them, and files that nobody should open."""

import argparse
import datetime
import io
import os
import pathlib
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_jax.types import InputError
from fcn_jax.weights import torch_files
from fcn_jax.weights.torch_files import read_state_dict

FORMATS = ("zip", "legacy", "safetensors")


def save(path, form):
    """A state dict of every kind of tensor; returns what should be read."""
    torch = pytest.importorskip("torch")
    state = OrderedDict(
        {
            "a.weight": torch.arange(6.0).reshape(2, 3).t(),
            "half": torch.tensor([1.5, -2.0]).half(),
            "brain": torch.tensor([3.0, 0.1]).bfloat16(),
            "counter": torch.tensor(7),
            "part": torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))[1:].detach(),
            "empty": torch.zeros(0, 3),
        }
    )
    vars(state)["_metadata"] = {"": {"version": 1}}  # as module.state_dict() has it
    if form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(
            {k: v.contiguous().clone() for k, v in state.items()}, path
        )
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return {name: tensor.float().numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("form", FORMATS)
def test_reads_what_pytorch_writes(tmp_path, form):
    expected = save(tmp_path / "file", form)
    found = read_state_dict(tmp_path / "file")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), value)
        assert found[name].shape == value.shape
    assert found["counter"].dtype == np.int64


@pytest.mark.parametrize("form", FORMATS)
def test_every_truncation_is_refused(tmp_path, form):
    save(tmp_path / "whole", form)
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for end in [*range(0, len(data), 41), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match="cut is no usable weights file: ") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=3))
def test_damage_is_read_or_refused_but_never_crashes(tmp_path_factory, form, changes):
    folder = tmp_path_factory.getbasetemp()
    path, original = folder / f"damaged-{form}", folder / f"original-{form}"
    if not original.exists():
        save(original, form)
    data = bytearray(original.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    reason = ""
    try:
        read_state_dict(path)
    except InputError as error:
        reason = str(error)
    assert "\n" not in reason


# ---- pickles -------------------------------------------------------------------------------------


class Call:
    """Unpickling this calls `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def write_zip(path, content, storages=(), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        data = content if isinstance(content, bytes) else pickle.dumps(content, 2)
        archive.writestr("archive/data.pkl", data)
        for key, stored in dict(storages).items():
            archive.writestr(f"archive/data/{key}", stored)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_is_refused_and_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    evil = {"weight": Call(os.system, f"touch {marker}")}
    write_zip(tmp_path / "evil.pth", pickle.dumps(evil, protocol))
    with pytest.raises(InputError, match=r"evil\.pth .*(posix|nt)\.system.*nothing was run"):
        read_state_dict(tmp_path / "evil.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"w": Call(eval, "1")}, "eval"),
        ({"w": {1, 2}}, "set"),
        ({"w": bytearray(8)}, "bytearray"),
        ({"w": 1.0}, "'w', which is no tensor"),
        ({"optimizer": {"w": [1, 2]}}, "'optimizer'"),
        ([1, 2], "no state dict"),
        ({}, "no state dict"),
        (b"", "no end|exhausted|damaged"),
        (b"\x80\x02(t.", "tensor|state dict"),
        (b"\x80\x02h\x05.", "damaged"),
    ],
)
def test_other_content_is_refused(tmp_path, content, words):
    write_zip(tmp_path / "odd.pth", content)
    with pytest.raises(InputError, match=rf"odd\.pth.*({words})"):
        read_state_dict(tmp_path / "odd.pth")


class Tensor:
    """Pickles as PyTorch's tensors do, with whatever sizes are asked for."""

    def __init__(self, shape, stride, offset=0, count=4, key="0"):
        self.storage, self.sizes = (count, key), (offset, shape, stride)


class TensorPickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj[:1] == ("the storage",):
            return ("storage", _Global("torch FloatStorage"), obj[2], "cpu", obj[1])
        return None

    def reducer_override(self, obj):
        if isinstance(obj, Tensor):
            arguments = (("the storage", *obj.storage), *obj.sizes, False, OrderedDict())
            return _rebuild_tensor_v2, arguments
        return NotImplemented


def _rebuild_tensor_v2(*_):
    raise AssertionError("never called")


def _Global(name):
    return FloatStorage


class FloatStorage:
    pass


_rebuild_tensor_v2.__module__ = "torch._utils"
FloatStorage.__module__ = "torch"


def pickled(tensor, monkeypatch):
    """The bytes for {"w": tensor}, with the names that PyTorch's classes have."""
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    monkeypatch.setattr(torch._utils, "_rebuild_tensor_v2", _rebuild_tensor_v2)
    monkeypatch.setattr(torch, "FloatStorage", FloatStorage)
    TensorPickler(file, 2).dump({"w": tensor})
    return file.getvalue()


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (Tensor((10**9, 10**9), (1, 1)), "w declares the shape"),
        (Tensor((10**9, 10**9), (0, 0)), "w declares the shape"),
        (Tensor((2**63, 2**63), (1, 1)), "w declares the shape"),
        (Tensor((2, 2), (2, 1), offset=1), "w declares the shape"),
        (Tensor((2, 2), (4, 1)), "w declares the shape"),
        (Tensor((-2, 2), (2, 1)), "negative size"),
        (Tensor((2, 2), (2,)), "fewer strides"),
        (Tensor((2, 2), (2, 1), count=10**12), "w declares 1000000000000 values"),
        (Tensor((2, 2), (2, 1), key="9"), "lacks archive/data/9"),
    ],
)
def test_declared_sizes_are_not_believed(tmp_path, monkeypatch, tensor, words):
    data = pickled(tensor, monkeypatch)
    write_zip(tmp_path / "big.pth", data, {"0": np.arange(4.0, dtype="<f4").tobytes()})
    with pytest.raises(InputError, match=words):
        read_state_dict(tmp_path / "big.pth")


def test_the_same_tensor_with_honest_sizes_is_read(tmp_path, monkeypatch):
    data = pickled(Tensor((2, 2), (2, 1)), monkeypatch)
    write_zip(tmp_path / "fine.pth", data, {"0": np.arange(4.0, dtype="<f4").tobytes()})
    found = read_state_dict(tmp_path / "fine.pth")["w"]
    np.testing.assert_array_equal(found, [[0, 1], [2, 3]])
    assert not found.flags.writeable


def test_a_compressed_archive_is_refused(tmp_path):
    write_zip(tmp_path / "bomb.pth", b"\0" * 10**6, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        read_state_dict(tmp_path / "bomb.pth")


def test_a_huge_safetensors_header_is_refused(tmp_path):
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(InputError, match=r"huge\.safetensors"):
        read_state_dict(tmp_path / "huge.safetensors")


def test_a_web_page_and_a_missing_file(tmp_path):
    (tmp_path / "page.pth").write_text("<html>log in first</html>")
    with pytest.raises(InputError, match="neither PyTorch's"):
        read_state_dict(tmp_path / "page.pth")
    with pytest.raises(InputError, match=r"none\.pth cannot be read: No such file"):
        read_state_dict(tmp_path / "none.pth")


def test_a_training_checkpoint_is_opened_at_its_model(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3, "model": {"w": torch.ones(2)}}, tmp_path / "run.pth")
    np.testing.assert_array_equal(read_state_dict(tmp_path / "run.pth")["w"], [1, 1])


WEIGHTS = ("conv1.weight", "conv1.bias", "bn.running_mean")


def wrapped(kind, state):
    """What training scripts put around a state dict, or before its names."""

    def prefixed(*prefixes):
        return {"".join(prefixes) + name: value for name, value in state.items()}

    return {
        "DataParallel": lambda: prefixed("module."),
        "compiled": lambda: prefixed("_orig_mod."),
        "compiled DataParallel": lambda: prefixed("module.", "_orig_mod."),
        "net": lambda: {"net": state, "epoch": 3},
        "module": lambda: {"module": state},
        "params": lambda: {"params": state, "iter": 3},
        "ema_model": lambda: {"step": 3, "ema_model": state},
        "averaged": lambda: {**prefixed("module."), "n_averaged": next(iter(state.values()))},
        "a loss beside": lambda: {
            "state_dict": {**prefixed("net."), "criterion.weight": next(iter(state.values()))}
        },
        "model_state": lambda: {"model_state": prefixed("net.")},
        "Lightning": lambda: {
            "epoch": 1,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": prefixed("model."),
            "loops": {"fit_loop": {"state_dict": {}}},
            "hyper_parameters": {"lr": 1e-3},
        },
        "torchvision": lambda: {
            "model": state,
            "args": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("/a")),
            "epoch": 3,
        },
        "numbers": lambda: {
            "model": state,
            "best": np.float64(0.5),
            "all": [np.float32(1), np.int64(2)],
            "curve": np.arange(3.0),
            "frozen": {1, 2},
            "counts": defaultdict(int, a=1),
            "at": datetime.datetime(2026, 1, 2),
            "size": complex(1, 2),
        },
    }[kind]()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["DataParallel", "compiled", "compiled DataParallel", "net", "model_state", "Lightning",
     "torchvision", "numbers", "module", "params", "ema_model", "averaged", "a loss beside"],
)  # fmt: skip
def test_the_usual_wrappers_and_prefixes_come_off(tmp_path, kind, zipped):
    torch = pytest.importorskip("torch")
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(WEIGHTS)}
    path = tmp_path / "weights.pth"
    torch.save(wrapped(kind, state), path, _use_new_zipfile_serialization=zipped)
    found = read_state_dict(path)
    assert tuple(found) == WEIGHTS
    for i, name in enumerate(WEIGHTS):
        np.testing.assert_array_equal(found[name], [i, i])


@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_beside_the_weights_are_stepped_over_in_every_protocol(tmp_path, protocol):
    content = {"model": {}, "best": np.float64(0.5), "frozen": frozenset({1}), "set": {2}}
    write_zip(tmp_path / "odd.pth", pickle.dumps(content, protocol))
    with pytest.raises(InputError, match="holds no state dict"):  # and not: its pickle asks for
        read_state_dict(tmp_path / "odd.pth")


def test_a_prefix_that_not_all_names_have_stays():
    state = {"module.a": np.ones(1), "b": np.ones(1)}
    assert torch_files.without_prefix(state).keys() == state.keys()
    assert torch_files.without_prefix({}) == {}


def test_a_whole_module_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"whole\.pth.*torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "whole.pth")
