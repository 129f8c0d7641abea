"""The benchmark's PyTorch: the same networks and steps, in each of its modes."""

import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from experiments.benchmarks.networks import TORCHVISION, Op, network


class Block(nn.Module):
    """ResNet's bottleneck, or its basic block."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()

        def conv_bn(i: int, o: int, size: int, stride: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(i, o, size, stride, size // 2, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(o))

        outputs = 4 * features if bottleneck else features
        if bottleneck:
            layers = [
                (inputs, features, 1),
                (features, features, 3, stride),
                (features, outputs, 1),
            ]
        else:
            layers = [(inputs, features, 3, stride), (features, features, 3)]
        self.layers = nn.ModuleList(conv_bn(*layer) for layer in layers)
        straight = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if straight else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x):
        """[N, C, H, W] -> [N, C', H / stride, W / stride]."""
        *before, last = self.layers
        y = x
        for layer in before:
            y = functional.relu(layer(y), inplace=True)
        return functional.relu(last(y) + self.shortcut(x), inplace=True)


class Network(nn.Module):
    """A list of layers, run in order."""

    def __init__(self, ops: list[Op]):
        super().__init__()
        self.ops = ops
        layers, channels, kept = [], 3, []
        for op in ops:
            layers.append(self._layer(op, channels))
            if op.kind == "push":
                kept.append(channels)
            elif op.kind == "cat":
                channels += kept.pop()
            elif op.features:
                channels = op.features * (4 if op.kind == "block" else 1)
        self.layers = nn.ModuleList(layers)

    @staticmethod
    def _layer(op: Op, channels: int) -> nn.Module:
        match op.kind:
            case "conv":
                return nn.Conv2d(
                    channels, op.features, op.size, op.stride, op.size // 2, bias=op.bias
                )
            case "up":
                pad = op.size // 2 if op.size % 2 else 0
                return nn.ConvTranspose2d(channels, op.features, op.size, 2, pad, op.size % 2)
            case "bn":
                return nn.BatchNorm2d(channels)
            case "relu":
                return nn.ReLU(inplace=True)
            case "pool":
                return nn.MaxPool2d(op.size, op.stride, (op.size - 1) // 2)
            case "block" | "basic":
                return Block(channels, op.features, op.stride, op.kind == "block")
        return nn.Identity()

    def train(self, mode: bool = True):
        """Train, but for what is frozen."""
        super().train(mode)
        frozen = [i for i, op in enumerate(self.ops) if op.kind == "freeze"]
        for layer in self.layers[: max(frozen, default=0)]:
            layer.eval().requires_grad_(False)
        return self

    def forward(self, x):
        """Normalised images [N, 3, H, W] -> logits [N, classes, H, W]."""
        size, kept = x.shape[2:], []
        for op, layer in zip(self.ops, self.layers, strict=True):
            if op.kind == "push":
                kept.append(x)
            elif op.kind == "cat":
                x = torch.cat([x, kept.pop()], 1)
            elif op.kind == "double":
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            elif op.kind == "resize":
                x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
            else:
                x = layer(x)
        return x


class Torchvision(nn.Module):
    """A network of torchvision, without its auxiliary head."""

    def __init__(self, arch: str, classes: int):
        super().__init__()
        make = getattr(torchvision_models().segmentation, arch)
        self.inner = make(weights=None, weights_backbone=None, num_classes=classes)

    def forward(self, x):
        """Normalised images [N, 3, H, W] -> logits [N, classes, H, W]."""
        return self.inner(x)["out"]


def torchvision_models() -> Any:
    """`torchvision.models`, also where torchvision's compiled operators do not fit this torch.

    Importing torchvision needs two of them to be known by name; no network calls one.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
        import torchvision
    return torchvision.models


def module(arch: str, classes: int, frozen: bool) -> nn.Module:
    """The network of that name."""
    if arch in TORCHVISION:
        return Torchvision(arch, classes)
    return Network(network(arch, classes, frozen))


def _inner_steps(model: nn.Module, classes: int, device: str, precision: str, layout: Any):
    """train, eval or predict -> what torch.compile may be given: (image, mask) -> result."""
    mean = torch.tensor((0.485, 0.456, 0.406), device=device).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225), device=device).view(1, 3, 1, 1)

    def forward(image):
        x = (image.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return model(x.contiguous(memory_format=layout))

    def objective(image, mask):
        logits = forward(image).float()
        return functional.cross_entropy(logits, mask.long(), ignore_index=255), logits

    def summary(image, mask):
        loss, logits = objective(image, mask)
        cells = torch.where(mask == 255, classes, mask).long() * classes + logits.argmax(1)
        return loss, torch.bincount(cells.flatten(), minlength=(classes + 1) * classes)

    def classify(image, mask):
        return forward(image).argmax(1).to(torch.uint8)

    return {"train": objective, "eval": summary, "predict": classify}


def make(job: dict[str, Any], classes: int, device: str):
    """A function (image uint8 NHWC, mask uint8) -> a small result, that does one step.

    Args:
        job: arch; mode: train, eval or predict; torch_mode: eager, channels_last, compile, or
            compile_graphs (CUDA graphs, for a GPU only; the last two are channels_last); precision:
            f32, tf32, or bf16: automatic mixed precision (torch.autocast); frozen: whether the
            backbone is not trained.
        classes: of the logits.
        device: cpu or cuda.
    """
    work, mode, precision = job["mode"], job["torch_mode"], job["precision"]
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    layout = torch.contiguous_format if mode == "eager" else torch.channels_last
    model = module(job["arch"], classes, job["frozen"]).to(device).to(memory_format=layout)  # type: ignore
    model.train(work == "train")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5, fused=True)
    inner = _inner_steps(model, classes, device, precision, layout)[work]
    if mode.startswith("compile"):
        kind = "reduce-overhead" if mode == "compile_graphs" else "default"
        inner = torch.compile(inner, mode=kind)

    def train(image, mask):
        optimizer.zero_grad(set_to_none=True)
        loss = inner(image, mask)[0]
        loss.backward()
        optimizer.step()
        return loss.detach()

    def infer(image, mask):
        with torch.inference_mode():
            return inner(image, mask)

    return train if work == "train" else infer
