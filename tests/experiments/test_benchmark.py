"""The benchmark: its baselines are the same networks; its ratios and tables are right."""

import importlib.util
import io
import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import benchmark
from experiments.benchmarks import contenders, layers, start, stock, tables, worker
from experiments.benchmarks.networks import NETWORKS, TORCHVISION, network
from fcn_jax.data import shapes
from fcn_jax.models import create_model
from fcn_jax.types import InputError

PARAMETERS = {
    "fcn": 5_493_645, "simplified_unet": 3_015_509, "unet": 31_044_821, "resnet50_fcn": 27_718_293,
    "unet_resnet18": 14_331_109, "unet_resnet34": 24_439_269, "unet_resnet50": 32_524_005,
    "unet_resnet101": 51_516_133, "fcn_resnet50": 32_957_013, "fcn_resnet101": 51_949_141,
    "deeplabv3_resnet50": 39_638_869, "deeplabv3_resnet101": 58_630_997,
    "deeplabv3_mobilenet_v3_large": 11_025_477, "lraspp_mobilenet_v3_large": 3_221_538,
}  # fmt: skip


def count(model) -> int:
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    return sum(p.size for p in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("arch", NETWORKS)
def test_baselines_run_the_same_network(arch):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_worker

    assert count(create_model(arch)) == PARAMETERS[arch]
    assert count(stock.Network(tuple(network(arch, 21)))) == PARAMETERS[arch]
    with torch.device("meta"):
        model = torch_worker.Network(network(arch, 21))
        logits = model(torch.zeros(2, 3, 64, 96))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]
    assert logits.shape == (2, 21, 64, 96)


def test_flops_by_hand():
    """Table 1's simplified U-Net: every layer's 2 H W k k I O, summed by hand at 32x32."""
    job = {"arch": "simplified_unet", "precision": "f32", "batch_size": 1, "image_size": [32, 32],
           "frozen": True}  # fmt: skip
    layers = [  # output pixels (a transposed convolution's input pixels), taps, channels
        (32 * 32, 9, 3, 64), (16 * 16, 9, 64, 128), (8 * 8, 9, 128, 256), (4 * 4, 9, 256, 512),
        (4 * 4, 4, 512, 256), (8 * 8, 9, 256, 256), (8 * 8, 4, 256, 128), (16 * 16, 9, 128, 128),
        (16 * 16, 4, 128, 64), (32 * 32, 9, 64, 64), (32 * 32, 1, 64, 21),
    ]  # fmt: skip
    forward = sum(2 * p * k * i * o for p, k, i, o in layers)
    assert worker.forward_flops(job) == forward
    assert worker.step_flops(job) == 3 * forward  # it has no backbone to freeze


def test_a_frozen_backbone_counts_once():
    job = {"arch": "resnet50_fcn", "precision": "f32", "batch_size": 1, "image_size": [32, 32]}
    whole, forward = (
        worker.step_flops({**job, "frozen": False}),
        worker.forward_flops({**job, "frozen": True}),
    )
    head = [(1, 1, 2048, 1024), (1, 1, 1024, 512), (1, 9, 512, 256), (4, 9, 256, 128),
            (16, 9, 128, 64), (64, 9, 64, 64), (256, 1, 64, 21)]  # fmt: skip
    trained = sum(2 * p * k * i * o for p, k, i, o in head)
    assert whole == 3 * forward
    assert worker.step_flops({**job, "frozen": True}) == forward + 2 * trained


@pytest.mark.parametrize("arch", TORCHVISION)
def test_so_do_torchvisions(arch):
    torch = pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("no torchvision")
    from experiments.benchmarks import torch_worker

    assert count(create_model(arch)) == PARAMETERS[arch]
    with torch.device("meta"):
        model = torch_worker.module(arch, 21, frozen=True).eval()
        assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 21, 64, 96)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[arch]


@pytest.mark.slow
def test_the_baselines_leave_a_frozen_backbone_alone():
    pytest.importorskip("torch")
    from experiments.benchmarks import torch_worker

    model = torch_worker.Network(network("resnet50_fcn", 21, frozen=True)).train()
    fixed = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert fixed == PARAMETERS["resnet50_fcn"] - 4_210_261
    assert not model.layers[1].training
    assert model.layers[-4].training

    size = (32, 32)
    state: Any
    state, step = stock.make("resnet50_fcn", 21, "train", jnp.float32, size, True)
    image, mask = worker.random_images({"batch_size": 2, "image_size": size})
    with jax.numpy_rank_promotion("allow"):  # it is written as most programs are
        (params, stats, _), _ = jax.jit(step)(state, image, mask)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), (params, stats), state[:2])
    still = {"Conv_0", "BatchNorm_0"}
    for tree in moved:
        for name, values in tree.items():
            frozen = name in still or name.startswith("Block")
            assert any(jax.tree.leaves(values)) is not frozen, name


def contender(*seconds, peak_bytes=2**30):
    return {"seconds": list(seconds), "peak_bytes": peak_bytes}


def test_ratios_are_taken_pair_by_pair_to_the_best_mode():
    timed = {
        "ours": contender(1.0, 2.0, 4.0),
        "torch-eager": contender(3.0, 3.0, 3.0),
        "torch-compile": contender(2.0, 2.0, 2.0),
        "stock": contender(10.0, 40.0, 20.0),
        "torch-compile_graphs": {"seconds": [], "error": "no GPU"},
    }
    assert contenders.ratios(timed) == {
        "torch": 1.0,  # of 2, 1 and 0.5
        "torch_best": "torch-compile",
        "stock": 10.0,  # of 10, 20 and 5
        "stock_best": "stock",
    }
    assert contenders.ratios({"ours": contender(1.0)}) == {}


def test_speed_table(tmp_path):
    ours = {
        **contender(0.4, 0.5, 0.6, peak_bytes=3 * 2**30), "compile_seconds": 9.0,
        "warm_seconds": 1.0, "warm_peak_bytes": 2**31, "flops": 50e9, "peak_flops": 200e9,
        "device": "cpu",
    }  # fmt: skip
    timed = {"ours": ours, "torch-compile": contender(1.0, 1.0, 1.0, peak_bytes=2 * 2**30)}
    result = {
        "arch": "fcn", "mode": "train", "batch_size": 8,
        "contenders": timed, "ratios": contenders.ratios(timed),
    }  # fmt: skip
    failed = {**result, "mode": "eval", "contenders": {"ours": {"error": "out of memory"}}}
    data = {
        "machine": {"cpu": "Some CPU", "cores": 2, "versions": {"jax": "1"}, "huge_pages": True},
        "settings": {"image_size": [224, 224], "precision": "f32"},
        "results": [result, failed],
    }
    file = tmp_path / "speed.json"
    file.write_text(json.dumps(data))
    lines = tables.speed_table([file]).splitlines()
    assert lines[0] == "Some CPU, 2 cores; jax 1; f32, 224x224, huge pages"
    assert lines[4] == (
        "| fcn | train | 8 | 500 ms | 16 | 9.0 s, 1.0 s | 100 G (50% of peak) "
        "| compile, 1.00 s | 2.00 |"  # no stock, so no column for it
    )
    assert "out of memory" in lines[5]
    timed["torch-eager"] = contender(peak_bytes=4 * 2**30)
    first, _, *_, last = tables.memory_table(data).splitlines()
    assert first == "Some CPU, 2 cores; jax 1"
    row = "| fcn | train | 8 | 3.00 GiB | 2.00 GiB | compile, 2.00 GiB | 1.50 | 1.00 |"
    assert last == row  # the failed one has none
    del ours["seconds"][:]  # as `--rounds 0` leaves it
    assert [row[3] for row in tables.rows([result, failed])] == ["out of memory"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "count", "rounds"), [("train", 1, 1), ("predict", 1, 0), ("predict_batch", 2, 1)]
)
def test_it_runs(tmp_path, capsys, monkeypatch, mode, count, rounds):
    # Compiled as for users: without optimizations, a busy machine compiles as fast as it reads.
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    out = tmp_path / "speed.json"
    flags = ["--arch", "fcn", "--image-size", "32", "--cpu", "--out", str(out)]
    flags += ["--rounds", str(rounds)]
    assert benchmark.main([*flags, "--mode", mode, "--batch-size", str(count)]) == 0
    ours = json.loads(out.read_text())["results"][0]["contenders"]["ours"]
    assert len(ours["seconds"]) == rounds
    assert ours["warm_seconds"] < ours["compile_seconds"]
    # What the machine allows is measured with arrays of 2**28 bytes, after this.
    assert 2**27 < ours["warm_peak_bytes"] < 2**29
    assert 2**27 < ours["peak_bytes"] < 2**30
    assert ours["peak_flops"] > 1e9
    assert f"| fcn | {mode} | {count} |" in capsys.readouterr().out


def test_memory_is_read_before_the_limits_need_some(monkeypatch):
    """Measuring what the machine allows takes arrays of 2**28 bytes."""
    asked = []

    def limits():
        asked.append("limits")
        return {"peak_flops": 2e11}

    def memory():
        asked.append("memory")
        return 5

    fake = worker.Contender(lambda: None, lambda x: x, {}, memory, limits)
    monkeypatch.setattr(worker, "jax_contender", lambda job: fake)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    channel = io.StringIO()
    worker.serve({"framework": "ours"}, channel)
    assert asked == ["memory", "limits"]
    ready, last = map(json.loads, channel.getvalue().splitlines())
    assert ready == {}
    assert last == {"peak_bytes": 5, "peak_flops": 2e11}
    worker.serve({"framework": "ours", "again": True}, channel)
    assert asked == ["memory", "limits", "memory"]  # the next process measures no limits


@pytest.mark.parametrize("work", ["train", "eval", "predict"])
def test_the_baselines_step(work):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks import torch_worker

    job = {"arch": "fcn", "mode": work, "torch_mode": "channels_last", "precision": "f32"}
    job |= {"batch_size": 2, "image_size": (32, 32), "frozen": False}
    image, mask = (torch.from_numpy(v) for v in worker.random_images(job))
    step = torch_worker.make(job, 21, "cpu")
    result = step(image, mask)
    if work == "train":
        losses = [float(step(image, mask)) for _ in range(3)]
        assert losses[-1] < float(result)
    elif work == "predict":
        assert result.shape == (2, 32, 32)
    else:
        assert int(result[1].sum()) == mask.numel()


@pytest.mark.parametrize(
    ("file", "found", "nvidia"),
    [("nvidia0", True, True), ("accel0", True, False), ("vfio/1", True, False),
     ("vfio/vfio", False, False), ("null", False, False)],
)  # fmt: skip
def test_a_host_of_a_tpu_is_no_cpu(tmp_path, file, found, nvidia):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert benchmark.found_accelerator(devices=tmp_path) is found
    assert benchmark.found_accelerator(benchmark.ACCELERATORS[:1], tmp_path) is nvidia


@pytest.mark.parametrize(
    ("platforms", "accelerator", "expected"),
    [("", True, False), ("", False, True), ("cpu", True, True), ("cuda", False, False)],
)
def test_the_platform_that_is_set_is_measured(monkeypatch, platforms, accelerator, expected):
    monkeypatch.setattr(benchmark, "found_accelerator", lambda: accelerator)
    assert benchmark.on_cpu(platforms) is expected


def test_a_batch_is_predicted_by_all():
    flags = ["--against", "torch", "stock", "--arch", "fcn", "--cpu"]
    args = benchmark.parser().parse_args(flags)
    for mode, size in (("predict", 1), ("predict_batch", 16)):
        made = benchmark.jobs(args, "fcn", mode, "cache")
        assert len(made) == 5
        assert {(job["mode"], job["batch_size"]) for job in made.values()} == {("predict", size)}


def test_each_network_has_the_baselines_that_exist():
    args = benchmark.parser().parse_args(["--against", "torch", "onnx", "stock", "--cpu"])
    assert set(args.arch) == {*NETWORKS, *TORCHVISION}
    torch = {f"torch-{mode}" for mode in benchmark.TORCH_MODES[:3]}
    for arch, mode, more in (
        ("unet", "train", {"stock"}),
        ("unet_resnet50", "predict", {"stock", "onnx"}),
        ("deeplabv3_resnet50", "predict_batch", {"onnx"}),
    ):
        made = benchmark.jobs(args, arch, mode, "cache")
        assert set(made) == {"ours", *torch, *more}
    job = benchmark.jobs(args, "deeplabv3_resnet50", "train", "cache")["ours"]
    assert job["batch_size"] == 4
    assert worker.step_flops({**job, "image_size": [32, 32]}) > 0


def test_onnxruntime_predicts_what_we_do():
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name)
    job = {"arch": "fcn", "batch_size": 2, "image_size": [32, 32], "precision": "f32",
           "frozen": True, "mode": "predict"}  # fmt: skip
    [classes] = worker.onnx_contender(job).step()
    state, predict, _ = worker.ours(job)
    ours: Any = predict(state, *worker.random_images(job))
    assert classes.dtype == ours.dtype
    assert (classes == ours).mean() > 0.999  # but for ties


@pytest.mark.parametrize("mode", ["eval", "predict"])
@pytest.mark.parametrize("make", [worker.ours, worker.stock])
def test_only_training_returns_parameters(make, mode):
    """They would be copied, which takes longer than predicting a small image."""
    job = {"arch": "fcn", "batch_size": 2, "image_size": [32, 32], "precision": "f32",
           "frozen": True, "mode": mode}  # fmt: skip
    state, function, place = make(job)
    with jax.numpy_rank_promotion("allow"):  # plain Flax is written so
        result = jax.eval_shape(function, *place(state, *worker.random_images(job)))
    assert sum(x.size for x in jax.tree.leaves(result)) < 3 * 32 * 32 * 21


@pytest.mark.parametrize("layer", [layer for layer in layers.LAYERS if layer.side <= 14])
def test_a_layer_is_the_same_everywhere(layer):
    small = layer._replace(inputs=3, features=4)
    shapes = {"ours": layers.jax_steps(small, True)[0]().shape}
    shapes["xla"] = layers.jax_steps(small, False)[0]().shape
    if pytest.importorskip("torch"):
        n, c, h, w = layers.torch_steps(small)[0]().shape
        shapes["torch"] = (n, h, w, c)
    assert len(set(shapes.values())) == 1, shapes


def test_names_of_layers():
    assert str(layers.Layer("conv", 28, 3, 4, dilation=2)) == "3x3, 3 -> 4, dilation 2 at 28x28"
    assert str(layers.Layer("up", 7, 3, 4, 2, 2)) == "transposed, 2x2, 3 -> 4 at 7x7"


ABOUT = {"cpu": "Some CPU", "cores": 2, "versions": {"jax": "1"}}


def test_layers_table():
    times = {"ours": 0.001, "xla": 0.002, "torch": 0.0015}
    entry = {"layer": "3x3", "forward": times, "training": times}
    limits = {"peak_flops": 2e11, "bytes_per_second": 3e10}
    text = layers.table({"machine": ABOUT, "layers": [entry], "limits": limits})
    first, _, *_, last = text.splitlines()
    allowed = "a large matrix product 200 GFLOP/s, memory 30 GB/s"
    assert first == f"Some CPU, 2 cores; jax 1; {allowed}"
    assert last == "| 3x3 | 1 ms | 2 ms | 1.5 ms | 1 ms | 2 ms | 1.5 ms |"


@pytest.mark.slow
def test_a_start_that_cannot_be_made_says_so_in_one_line(tmp_path, capfd):
    job = {"dataset": str(tmp_path / "nothing"), "arch": "fcn", "batch_size": 4}
    with pytest.raises(SystemExit) as left:
        start.measure({**job, "image_size": [32, 32]}, lambda text: None)
    assert left.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: no data set '{tmp_path / 'nothing'}'")


@pytest.mark.slow
def test_starts_are_measured(tmp_path):
    shapes.draw(tmp_path, sizes={"train": 40, "val": 8})
    job = {"dataset": str(tmp_path), "arch": "fcn", "batch_size": 4, "image_size": [32, 32]}
    found = start.measure(job, lambda text: None)
    for phases in (found["first"], found["second"]):
        seconds = [phases[phase]["seconds"] for phase in start.PHASES]
        assert seconds == sorted(seconds)
    assert found["second"]["first step"]["seconds"] < found["first"]["first step"]["seconds"]
    lines = start.table({"machine": ABOUT, **found}).splitlines()
    assert [line.split(" |")[0][2:] for line in lines[4:10]] == [*start.PHASES, "peak"]
    assert found["loader"]["images_per_second"] > 0


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "require_backend", lambda cpu: pytest.fail("too late"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        benchmark.main(["--out", str(tmp_path / "file" / "out.json")])


def test_bad_flags(monkeypatch):
    with pytest.raises(InputError, match="--rounds 10001: must lie between"):
        benchmark.main(["--rounds", "10001"])
    with pytest.raises(InputError, match="--rounds 0: single layers are only timed"):
        benchmark.main(["--layers", "--rounds", "0", "--cpu"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="torch is not installed"):
        benchmark.main(["--layers", "--cpu"])
