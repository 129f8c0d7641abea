"""Exported programs compute what the network computes, in the runtimes they are made for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import export as export_command
from fcn_jax.inference import export, predict
from fcn_jax.inference import onnx as onnx_graph
from fcn_jax.models import MODELS, create_model, resnet
from fcn_jax.types import InputError
from tests import fakes

FAMILIES = (
    "fcn", "simplified_unet", "unet", "resnet50_fcn", "fcn_resnet50", "deeplabv3_resnet50",
    "unet_resnet50", "lraspp_mobilenet_v3_large",
)  # fmt: skip
"""One network of each class."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A backbone of one bottleneck a stage."""
    monkeypatch.setitem(resnet.DEPTHS, "tiny", resnet.Depth((1, 1, 1, 1), True))


def images(number, height, width):
    """Smooth images, all different."""
    rng = np.random.default_rng(height)
    small = rng.integers(0, 256, (number, 5, 5, 3), np.uint8)
    return [predict.batches.resize_image(image, (height, width)) for image in small]


def checkpoint(name, dtype=jnp.float32, backbone="tiny"):
    """Random weights; statistics that are not those of a fresh network, so that folding shows."""
    small = {"backbone": backbone} if "backbone" in MODELS[name].options else {}
    model = create_model(name, 4, dtype=dtype, width=4, **small)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # without compiling an initialiser
        if len(leaf.shape) == 4:
            scale = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)
        positive = path[-1].key in ("scale", "var")
        return jnp.asarray(rng.uniform(0.5 * positive, 1.2, leaf.shape), jnp.float32)

    variables = jax.tree_util.tree_map_with_path(draw, dict(shapes))
    names = tuple("abcd")
    meta = {"model": {"name": name}}
    palette = fakes.voc_palette(4)
    return predict.Checkpoint(model, variables, names, palette, (48, 64), meta)


def report_of(restored, exported, size, pixels="uint8"):
    named = [(str(i), image) for i, image in enumerate(images(3, *size))]
    return export.parity(restored, exported, named, pixels)


def test_every_networks_class_is_exported_here():
    assert {MODELS[name].load() for name in FAMILIES} == {n.load() for n in MODELS.values()}


EVEN, ODD, RECTANGULAR = (96, 96), (65, 97), (64, 160)
QUICK = {
    ("simplified_unet", ODD), ("resnet50_fcn", EVEN), ("deeplabv3_resnet50", ODD),
    ("unet_resnet50", RECTANGULAR), ("fcn", EVEN), ("lraspp_mobilenet_v3_large", ODD),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=[] if (name, size) in QUICK else pytest.mark.slow)
        for name in FAMILIES
        for size in (EVEN, ODD, RECTANGULAR)
    ],
)
def test_onnx_agrees_for_every_network(name, size, optimized):
    pytest.importorskip("onnxruntime")
    restored = checkpoint(name)
    exported = export.to_onnx(restored, size)
    report = report_of(restored, exported, (80, 80))
    assert export.agrees(report), report
    assert report["argmax_agreement"] == 1
    assert exported.run(np.stack(images(3, *size))).shape == (3, *size, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.backbone])
def test_onnx_agrees_with_the_whole_backbone(name):
    pytest.importorskip("onnxruntime")
    restored = checkpoint(name, backbone=MODELS[name].backbone or "")
    report = report_of(restored, export.to_onnx(restored, (64, 64)), (64, 64))
    assert export.agrees(report), report


@pytest.mark.parametrize("name", ["simplified_unet"])
def test_onnx_runs_batches_as_single_images(name):
    pytest.importorskip("onnxruntime")
    restored = checkpoint(name)
    exported = export.to_onnx(restored, (64, 64), "float32")
    batch = np.stack(images(3, 64, 64)).astype(np.float32)
    single = np.concatenate([exported.run(image[None]) for image in batch])
    np.testing.assert_allclose(exported.run(batch), single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fcn", export.ANY),
        pytest.param("resnet50_fcn", (48, 80), marks=pytest.mark.slow),
        pytest.param("unet", export.ANY, marks=pytest.mark.slow),
        pytest.param("unet_resnet50", export.ANY, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet50", (50, 81), marks=pytest.mark.slow),
        pytest.param("lraspp_mobilenet_v3_large", (50, 81), marks=pytest.mark.slow),
    ],
)
def test_stablehlo_agrees(name, size):
    restored = checkpoint(name)
    exported = export.to_stablehlo(restored, size)
    report = report_of(restored, exported, (50, 60))
    assert export.agrees(report), report
    if size == export.ANY:
        for batch, height, width in ((1, 33, 65), (2, 64, 32)):
            logits = exported.run(np.stack(images(batch, height, width)))
            assert logits.shape == (batch, height, width, 4)


@pytest.mark.slow
def test_a_network_that_must_know_its_size_says_so():
    wrong = r"resnet50_fcn needs to know its size .* give its height and width"
    with pytest.raises(InputError, match=wrong):
        export.to_stablehlo(checkpoint("resnet50_fcn"), export.ANY)


def test_it_loads_without_this_package(tmp_path):
    """As the documentation says: jax alone, for any device."""
    exported = export.to_stablehlo(checkpoint("fcn"), export.ANY)
    program = jax.export.deserialize(bytearray(exported.data))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert program.in_avals[0].dtype == np.uint8
    image = np.stack(images(1, 40, 50))
    np.testing.assert_array_equal(program.call(image), exported.run(image))


def test_bfloat16_networks_are_exported_in_float32():
    pytest.importorskip("onnxruntime")
    restored = checkpoint("fcn", jnp.bfloat16)
    exported = export.to_onnx(restored, (64, 64))
    assert export.agrees(report_of(restored, exported, (64, 64)))


def test_an_unknown_primitive_is_named():
    pytest.importorskip("onnx")
    with pytest.raises(
        InputError, match="does not support the primitive sort: export to stablehlo instead"
    ):
        onnx_graph.convert(lambda x: jnp.sort(x.astype(jnp.float32), -1), (8, 8))


def test_pooling_and_resizing_are_one_node_each():
    pytest.importorskip("onnx")
    for name, expected in (("resnet50_fcn", "Resize"), ("unet_resnet50", "Resize")):
        model = onnx_graph.convert(export.forward(checkpoint(name)), EVEN)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("MaxPool") == 1
        assert kinds.count(expected) == (1 if name == "resnet50_fcn" else 5)
        assert not {"Max", "Slice", "Einsum"} & set(kinds)


def test_disagreement_is_not_called_agreement():
    restored = checkpoint("fcn")
    network = jax.jit(export.forward(restored))
    for factor, same in ((1.0, True), (1.001, False)):
        exported = export.Exported(b"", lambda x, f=factor: np.asarray(network(x)) * f, (48, 64))
        report = report_of(restored, exported, (48, 64))
        assert export.agrees(report) == same


def test_a_network_that_gives_no_numbers_is_refused():
    restored = checkpoint("fcn")
    variables = jax.tree.map(lambda x: x * np.nan, restored.variables)
    exported = export.Exported(b"", lambda x: np.zeros((1, 48, 64, 4)), (48, 64))
    with pytest.raises(InputError, match="are not finite"):
        report_of(restored._replace(variables=variables), exported, (48, 64))


def test_another_file_beside_the_program_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match=r"config\.json is another file"):
        export.check_target(tmp_path / "config")
    export.check_target(tmp_path / "net")


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_the_command_writes_program_description_and_proof(kind, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    restored = checkpoint("fcn")
    monkeypatch.setattr(predict, "load_checkpoint", lambda folder: restored)
    monkeypatch.setattr(export_command.command, "setup_jax", lambda **_: None)
    monkeypatch.setattr(export_command.evaluate, "open_dataset", lambda *_: fakes.dataset())
    out = tmp_path / "net.bin"
    assert export_command.main(["run", "--format", kind, "--out", str(out)]) == 0
    about = json.loads((tmp_path / "net.bin.json").read_text())
    assert about["class_names"] == list("abcd")
    assert about["size"] == [48, 64]
    proof = json.loads((tmp_path / "net.bin.parity.json").read_text())
    assert proof["images"] == 5
    assert "the predicted class agrees on 100.0000% of the pixels" in capsys.readouterr().out
    if kind == "onnx":
        import onnx

        props = {p.key: p.value for p in onnx.load(out).metadata_props}
        assert json.loads(props["class_names"]) == list("abcd")
        assert len(json.loads(props["palette"])) == 4


def test_onnx_is_for_one_size():
    with pytest.raises(InputError, match="ONNX is exported for one size"):
        export.to_onnx(checkpoint("fcn"), export.ANY)
