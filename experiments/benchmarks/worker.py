"""One contender of the benchmark in a process of its own: its memory and allocator are its own.

It is started by `experiments.benchmark` with a job as JSON, answers with one line when it is ready
(compile times, FLOPs), then runs as many steps as each line on stdin asks for, after one that does
not count, and answers with the seconds they took; an empty line asks for the memory it needed and
for what the device allows, and ends it.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

CLASSES = 21
WARM_UP = 3
"""Steps that are not timed: the first ones allocate, and a GPU raises its clock."""


class Contender(NamedTuple):
    """What a framework's part hands over."""

    step: Callable[[], Any]
    """Start one step; it need not have finished on return."""
    wait: Callable[[Any], Any]
    """Wait for the result of the last one."""
    facts: dict[str, Any]
    memory: Callable[[], int | None]
    """Peak bytes on the device; None where that is the process's own memory."""
    limits: Callable[[], dict[str, float]] = dict
    """What the device allows, measured; it needs memory of its own."""


def main() -> None:
    """Serve one job."""
    channel = os.fdopen(os.dup(1), "w")  # what a library prints goes to stderr instead
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    try:
        serve(job, channel)
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        answer(channel, {"error": f"{type(error).__name__}: {reason}"})


def serve(job: dict[str, Any], channel) -> None:
    """Set up, say so, then time what is asked for; a job "again" says what it needed, no more."""
    if job["framework"] == "backend":  # whether there is one
        from fcn_jax.runtime import distributed

        distributed.require_backend()
        return answer(channel, {})
    build = {"torch": torch_contender, "onnx": onnx_contender}.get(job["framework"], jax_contender)
    contender = build(job)
    for _ in range(WARM_UP):
        contender.wait(contender.step())
    if job.get("again"):
        return answer(channel, {**contender.facts, **peak(contender)})
    answer(channel, contender.facts)
    for line in sys.stdin:
        if not line.strip():
            break
        contender.wait(contender.step())  # caches and threads are another's still
        start, result = time.perf_counter(), None
        for _ in range(int(line)):
            result = contender.step()
        contender.wait(result)
        answer(channel, {"seconds": time.perf_counter() - start})
    answer(channel, {**peak(contender), **contender.limits()})


def peak(contender: Contender) -> dict[str, int]:
    """The most memory it has needed so far: of the device, or else of this process."""
    return {"peak_bytes": contender.memory() or peak_bytes()}


def peak_bytes() -> int:
    """The most memory this process has had."""
    if Path("/proc/self/status").exists():
        return process_memory()["VmHWM"]  # getrusage's is also that of the process that started it
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_memory() -> dict[str, int]:
    """Linux's numbers of this process that are sizes, in bytes; see proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}


def answer(channel, value: dict[str, Any]) -> None:
    """One line of JSON."""
    channel.write(json.dumps(value) + "\n")
    channel.flush()


def random_images(job: dict[str, Any]):
    """The same random batch for everybody: image uint8 [N, H, W, 3], mask uint8 [N, H, W]."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (job["batch_size"], *job["image_size"])
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    mask = rng.integers(0, CLASSES, shape, np.uint8)
    mask[:, :4] = 255  # some void
    return image, mask


# ---- JAX -----------------------------------------------------------------------------------------


def jax_contender(job: dict[str, Any]) -> Contender:
    """Ours, or plain Flax."""
    import jax

    from experiments.cli import command
    from fcn_jax.config import MATMUL_PRECISION
    from fcn_jax.runtime import xla_options

    jax.config.update("jax_compilation_cache_dir", job["cache"])
    if job["framework"] == "ours":
        command.setup_jax()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION[job["precision"]])
    state, function, place = (ours if job["framework"] == "ours" else stock)(job)
    state, image, mask = place(state, *random_images(job))
    parts = [(image, mask)]
    if job["framework"] == "ours" and job["mode"] == "predict":  # one by one, as `predict` does it
        parts = [(image[i : i + 1], mask[i : i + 1]) for i in range(len(image))]
    trains = job["mode"] == "train"
    donate = (0,) if trains else ()  # what does not train must not return the state: it is a copy
    options = xla_options.options() if job["framework"] == "ours" else None

    start = time.perf_counter()
    program = jax.jit(function, donate_argnums=donate, compiler_options=options)
    step = program.lower(state, *parts[0]).compile()
    compile_seconds = time.perf_counter() - start

    def run():
        nonlocal state
        result = step(state, *parts[0])
        if trains:
            state, result = result
        return result

    def run_in_threads():
        from experiments.cli import segment

        with segment.threads() as pool:
            return list(pool.map(lambda part: jax.block_until_ready(step(state, *part)), parts))

    device = jax.devices()[0]
    facts = {
        "compile_seconds": compile_seconds,
        "flops": step_flops(job) if job["mode"] == "train" else forward_flops(job),
        "device": device.device_kind,
    }

    def memory():
        stats = device.memory_stats() or {}
        return stats.get("peak_bytes_in_use")

    work = run_in_threads if len(parts) > 1 else run
    return Contender(work, jax.block_until_ready, facts, memory, partial(limits, job["precision"]))


def _model(job: dict[str, Any]):
    from fcn_jax.inference.predict import DTYPES
    from fcn_jax.models import create_model

    options: dict[str, Any] = {}
    if _freezes(job):
        options["freeze_backbone"] = job["frozen"]
    return create_model(job["arch"], CLASSES, dtype=DTYPES[job["precision"]], **options)


def _freezes(job: dict[str, Any]) -> bool:
    """Whether the network's backbone is frozen by default."""
    from fcn_jax.models import MODELS

    return MODELS[job["arch"]].freezes_pretrained


def ours(job: dict[str, Any]):
    """(state, step, placement on the devices) from fcn_jax's own steps."""
    import jax
    import jax.numpy as jnp

    from fcn_jax import optim
    from fcn_jax.data import batches
    from fcn_jax.models import convention
    from fcn_jax.runtime import distributed
    from fcn_jax.training import steps
    from fcn_jax.types import Batch
    from fcn_jax.weights import initialize

    model, size, key = _model(job), tuple(job["image_size"]), jax.random.key(0)
    scale = 0.0 if job["frozen"] and _freezes(job) else None
    optimizer = optim.make_optimizer(optim.OptimConfig(backbone_scale=scale), 1000)
    state = steps.init_state(optimizer, initialize.random_init(model, key, size))
    sizes = jnp.tile(jnp.array([size], jnp.int32), (job["batch_size"], 1))
    mesh = distributed.mesh(job["batch_size"], None)
    shared = distributed.batch_sharding(mesh)

    def place(state, image, mask):
        place_state = distributed.put_state if job["mode"] == "train" else distributed.replicate
        return place_state(state, mesh), *distributed.assemble((image, mask), mesh)

    if job["mode"] == "train":
        train = steps.make_train_step(model, optimizer, image_size=size, sharding=shared)
        return state, lambda state, image, mask: train(state, Batch(image, mask, sizes), key), place
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if job["mode"] == "eval":
        evaluate = steps.make_eval_step(model, CLASSES, sharding=shared)
        return variables, lambda v, image, mask: evaluate(v, Batch(image, mask, sizes)), place

    def predict(variables, image, mask):
        logits = convention.infer(model, variables, batches.normalize(image))
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    return variables, predict, lambda *arrays: jax.device_put(arrays)  # as `predict` does, on one


def stock(job: dict[str, Any]):
    """(state, step, placement) of plain Flax and optax."""
    import jax

    from experiments.benchmarks import stock as benchmark_stock
    from fcn_jax.inference.predict import DTYPES

    dtype = DTYPES[job["precision"]]
    size = tuple(job["image_size"])
    made = benchmark_stock.make(job["arch"], CLASSES, job["mode"], dtype, size, job["frozen"])
    return *made, lambda *arrays: jax.device_put(arrays)


def step_flops(job: dict[str, Any]) -> int:
    """A training step: three times forward, once where the backbone is frozen."""
    forward, model = forward_flops(job), _model(job)
    if not (job["frozen"] and _freezes(job)):
        return 3 * forward
    from fcn_jax.models.resnet import ResNet

    backbone = ResNet(model.backbone, width=model.width, dtype=model.dtype)
    return 3 * forward - 2 * forward_flops(job, backbone)


def forward_flops(job: dict[str, Any], model: Any = None) -> int:
    """FLOPs of a batch's convolutions in the job's network, or in `model`."""
    from fcn_jax.models import flops

    return flops.forward_flops(model or _model(job), (job["batch_size"], *job["image_size"], 3))


def limits(precision: str) -> dict[str, float]:
    """What this device allows: FLOP/s of a large matrix product, and bytes/s of memory.

    The best of five. Bytes are those that adding 1 to a large array reads and writes.
    """
    import jax
    import jax.numpy as jnp

    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), jnp.bfloat16 if precision == "bf16" else jnp.float32)
    repeat = jax.jit(lambda a: jax.lax.fori_loop(0, 4, lambda _, b: (a @ b) / n, a))
    long = jnp.ones((2**26,), jnp.float32)
    add = jax.jit(lambda a: a + 1, donate_argnums=0)
    add(jnp.ones_like(long))

    def best(function: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)

    def move() -> None:
        nonlocal long
        long = add(long).block_until_ready()

    repeat(a).block_until_ready()
    product = best(lambda: repeat(a).block_until_ready())
    return {"peak_flops": 4 * 2 * n**3 / product, "bytes_per_second": 2 * long.nbytes / best(move)}


# ---- PyTorch -------------------------------------------------------------------------------------


def torch_contender(job: dict[str, Any]) -> Contender:
    """PyTorch in one of its modes; its compile time is that of the first step."""
    import torch

    from experiments.benchmarks import torch_worker
    from fcn_jax.runtime import machine

    device = "cuda" if torch.cuda.is_available() and not job["cpu"] else "cpu"
    if device == "cpu":
        torch.set_num_threads(machine.cores())
    run = torch_worker.make(job, CLASSES, device)
    image, mask = (torch.from_numpy(v).to(device) for v in random_images(job))

    def wait(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    start = time.perf_counter()
    wait(run(image, mask))
    facts = {"compile_seconds": time.perf_counter() - start, "device": device}
    memory = torch.cuda.max_memory_allocated if device == "cuda" else lambda: None
    return Contender(lambda: run(image, mask), wait, facts, memory)


# ---- onnxruntime ---------------------------------------------------------------------------------


def onnx_contender(job: dict[str, Any]) -> Contender:
    """onnxruntime on our own export, with the choice of the class inside the graph."""
    import jax
    import numpy as np
    import onnx
    import onnxruntime

    from fcn_jax.inference import export, predict
    from fcn_jax.runtime import machine
    from fcn_jax.weights import initialize

    model = _model(job)
    size = (job["image_size"][0], job["image_size"][1])
    variables = initialize.random_init(model, jax.random.key(0), size)
    palette = np.zeros((CLASSES, 3), np.uint8)
    checkpoint = predict.Checkpoint(model, variables, ("",) * CLASSES, palette, size, {})
    graph = onnx.load_from_string(export.to_onnx(checkpoint, size).data)
    make = onnx.helper
    graph.graph.node.append(make.make_node("ArgMax", ["logits"], ["best"], axis=3, keepdims=0))
    uint8 = onnx.TensorProto.UINT8
    graph.graph.node.append(make.make_node("Cast", ["best"], ["classes"], to=uint8))
    graph.graph.output[0].CopyFrom(make.make_tensor_value_info("classes", uint8, ["batch", *size]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.cores()
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    facts = {"compile_seconds": time.perf_counter() - start, "device": "cpu"}
    image, _ = random_images(job)
    return Contender(lambda: session.run(None, {"image": image}), lambda x: x, facts, lambda: None)


if __name__ == "__main__":
    main()
