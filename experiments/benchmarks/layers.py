"""Single convolutions: `fcn_jax.ops` against XLA's own and PyTorch's, each in a process of its own.

Forward is one image without derivatives; training is a batch, forward with both gradients.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.benchmarks import tables, worker
from experiments.cli import command
from fcn_jax.report.tables import markdown
from fcn_jax.runtime import machine

FRAMEWORKS = ("ours", "xla", "torch")
BATCH = 8
"""Images of a training step."""


class Layer(NamedTuple):
    """A convolution, or a transposed one (`up`) that doubles the size."""

    kind: str
    side: int
    """Of the square images that go in."""
    inputs: int
    features: int
    taps: int = 3
    stride: int = 1
    dilation: int = 1

    def __str__(self) -> str:
        """What stands in the table."""
        more = [f"stride {self.stride}"] * (self.stride > 1 and self.kind == "conv")
        more += [f"dilation {self.dilation}"] * (self.dilation > 1)
        name = "transposed" if self.kind == "up" else ""
        words = [name, f"{self.taps}x{self.taps}", f"{self.inputs} -> {self.features}", *more]
        return f"{', '.join(filter(None, words))} at {self.side}x{self.side}"


LAYERS = (
    Layer("conv", 224, 3, 64),
    Layer("conv", 224, 64, 64),
    Layer("conv", 112, 128, 128),
    Layer("conv", 56, 64, 64),
    Layer("conv", 28, 512, 512),
    Layer("conv", 14, 1024, 1024),
    Layer("conv", 28, 512, 512, dilation=2),
    Layer("conv", 56, 128, 128, stride=2),
    Layer("conv", 224, 3, 64, taps=7, stride=2),
    Layer("conv", 28, 512, 256, taps=1),
    Layer("up", 112, 64, 21, stride=2),
    Layer("up", 28, 256, 128, stride=2),
    Layer("up", 7, 512, 512, stride=2),
    Layer("up", 28, 512, 256, taps=2, stride=2),
)
"""What the networks have at 224x224."""


def measure(rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Time all layers.

    Returns:
        "layers": for each {"layer", "forward", "training"}, framework -> median seconds; "limits":
        of the machine.
    """
    limits, times = {}, [{"layer": str(layer), "forward": {}, "training": {}} for layer in LAYERS]
    for number in range(rounds):
        for framework in FRAMEWORKS:
            report(f"round {number + 1} of {rounds}: {framework}")
            line = [sys.executable, "-m", "experiments.benchmarks.layers", framework]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            limits = found["limits"] or limits
            for entry, seconds in zip(times, found["layers"], strict=True):
                for mode, value in seconds.items():
                    entry[mode].setdefault(framework, []).append(value)
    for entry in times:
        for mode in ("forward", "training"):
            entry[mode] = {name: statistics.median(v) for name, v in entry[mode].items()}
    return {"layers": times, "limits": limits}


def table(data: dict[str, Any]) -> str:
    """Markdown: milliseconds of each, forward and in training."""
    header = ["layer", "one image: ours", "XLA", "PyTorch"]
    rows = [[*header, f"training, {BATCH} images: ours", "XLA", "PyTorch"]]
    for entry in data["layers"]:
        times = [entry[mode][name] for mode in ("forward", "training") for name in FRAMEWORKS]
        rows.append([entry["layer"], *(f"{1e3 * seconds:.3g} ms" for seconds in times)])
    about = f"{tables.machine(data['machine'])}; {tables.allowed(data['limits'])}"
    return f"{about}\n\n{markdown(rows)}"


def seconds(step: Callable[[], Any]) -> float:
    """The median of as many calls as take half a second, seven at least."""
    times, end = [], time.perf_counter() + 0.5
    step()
    while len(times) < 7 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def jax_steps(layer: Layer, ours: bool) -> tuple[Callable, Callable]:
    """(forward, training), each of which waits for its result."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from fcn_jax.ops import conv
    from fcn_jax.runtime import xla_options

    pad, taps = layer.dilation * (layer.taps // 2), (layer.taps, layer.taps)
    extra = layer.taps % 2

    def plain(x, kernel):
        up = layer.kind == "up"
        low, high = (layer.taps - 1 - pad, layer.taps - 1 - pad + extra) if up else (pad, pad)
        return lax.conv_general_dilated(
            x, kernel, (1, 1) if up else (layer.stride,) * 2, [(low, high)] * 2,
            lhs_dilation=(layer.stride,) * 2 if up else (1, 1),
            rhs_dilation=(layer.dilation,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    def fast(x, kernel):
        pads = ((pad, pad), (pad, pad))
        if layer.kind == "up":
            return conv.conv_transpose(x, kernel, padding=pads, output_padding=(extra, extra))
        stride, dilation = (layer.stride, layer.stride), (layer.dilation, layer.dilation)
        return conv.conv(x, kernel, stride=stride, padding=pads, dilation=dilation)

    function = fast if ours else plain
    options = xla_options.options() if ours else None

    def forward(x, kernel):
        with conv.fast_on_cpu(forward_only=True):
            return function(x, kernel)

    def training(x, kernel):
        return jax.grad(lambda x, kernel: jnp.square(function(x, kernel)).sum(), (0, 1))(x, kernel)

    kernel = jnp.full((*taps, layer.inputs, layer.features), 0.01)
    steps = []
    for work, count in ((forward, 1), (training, BATCH)):
        x = jnp.ones((count, layer.side, layer.side, layer.inputs))
        program = jax.jit(work, compiler_options=options).lower(x, kernel).compile()
        steps.append(lambda p=program, x=x: jax.block_until_ready(p(x, kernel)))
    return steps[0], steps[1]


def torch_steps(layer: Layer) -> tuple[Callable, Callable]:
    """The same in PyTorch, channels last."""
    import torch
    from torch import nn

    torch.set_num_threads(machine.cores())
    if layer.kind == "up":
        pad, extra = layer.taps // 2 if layer.taps % 2 else 0, layer.taps % 2
        module = nn.ConvTranspose2d(
            layer.inputs, layer.features, layer.taps, 2, pad, extra, bias=False
        )
    else:
        module = nn.Conv2d(
            layer.inputs, layer.features, layer.taps, layer.stride,
            layer.dilation * (layer.taps // 2), layer.dilation, bias=False,
        )  # fmt: skip
    module = module.to(memory_format=torch.channels_last)  # type: ignore

    def images(count: int):
        x = torch.ones(count, layer.inputs, layer.side, layer.side)
        return x.contiguous(memory_format=torch.channels_last)

    one, many = images(1), images(BATCH).requires_grad_()

    def forward():
        with torch.inference_mode():
            return module(one)

    def training():
        module.zero_grad(set_to_none=True)
        many.grad = None
        module(many).square().sum().backward()

    return forward, training


def main(framework: str) -> None:
    """Time every layer; JSON on stdout."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported
    if framework == "ours":
        command.setup_jax()
    found = []
    for layer in LAYERS:
        make = torch_steps if framework == "torch" else lambda x: jax_steps(x, framework == "ours")
        forward, training = make(layer)
        found.append({"forward": seconds(forward), "training": seconds(training)})
    limits = worker.limits("f32") if framework == "ours" else None
    print(json.dumps({"layers": found, "limits": limits}))


if __name__ == "__main__":
    main(sys.argv[1])
