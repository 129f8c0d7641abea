"""The paper's networks in PyTorch, written from its tables, and comparisons with ours.

The attribute names are those of the released networks, so `state_dict()` has the released keys.
Sizes that the released networks cannot take (or change) follow the docstrings of ours: pooling
rounds up, and what is too large is cropped below and to the right.
"""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from experiments.benchmarks.torch_worker import torchvision_models as torchvision_models
from fcn_jax import losses, optim
from fcn_jax.models import create_model
from fcn_jax.weights.torch_weights import load_torch_weights, to_torch


class FCN(nn.Module):
    def __init__(self, classes=21, width=32):
        super().__init__()
        down = [3, *(width * 2**i for i in range(5))]
        up = [down[-1], *down[:1:-1], classes]
        for i in range(5):
            setattr(self, f"conv{i + 1}", nn.Conv2d(down[i], down[i + 1], 3, 2, 1))
            setattr(self, f"bnd{i + 1}", nn.BatchNorm2d(down[i + 1]))
            setattr(self, f"deconv{i + 1}", nn.ConvTranspose2d(up[i], up[i + 1], 3, 2, 1, 1))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(up[i + 1]))
        self.classifier = nn.Conv2d(classes, classes, 1)

    def forward(self, x):
        height, width = x.shape[2:]
        for conv, bn in (("conv", "bnd"), ("deconv", "bn")):
            for i in range(1, 6):
                x = getattr(self, f"{bn}{i}")(torch.relu(getattr(self, f"{conv}{i}")(x)))
        return self.classifier(x)[:, :, :height, :width]


class SimplifiedUNet(nn.Module):
    def __init__(self, classes=21, width=64):
        super().__init__()
        c = [3, width, 2 * width, 4 * width, 8 * width]
        for i in (1, 2, 3):
            setattr(self, f"enc_conv{i}", nn.Conv2d(c[i - 1], c[i], 3, padding=1))
            setattr(self, f"dec_upconv{i}", nn.ConvTranspose2d(c[5 - i], c[4 - i], 2, 2))
            setattr(self, f"dec_conv{i}", nn.Conv2d(c[4 - i], c[4 - i], 3, padding=1))
        self.bottleneck_conv = nn.Conv2d(c[3], c[4], 3, padding=1)
        self.final_conv = nn.Conv2d(c[1], classes, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, x):
        height, width = x.shape[2:]
        for i in (1, 2, 3):
            x = self.pool(torch.relu(getattr(self, f"enc_conv{i}")(x)))
        x = torch.relu(self.bottleneck_conv(x))
        for i in (1, 2, 3):
            x = torch.relu(getattr(self, f"dec_upconv{i}")(x))
            x = torch.relu(getattr(self, f"dec_conv{i}")(x))
        return self.final_conv(x)[:, :, :height, :width]


class UNet(nn.Module):
    """`shared`: the released network, with one normalisation in a stage."""

    def __init__(self, classes=21, width=64, shared=False):
        super().__init__()
        c = [3, *(width * 2**i for i in range(5))]
        stages = []
        for i in range(1, 5):
            stages.append((c[i - 1], c[i], f"conv{i}1", f"conv{i}", f"bn{i}1", f"bn{i}"))
        norms = ("bn_bottleneck1", "bn_bottleneck2")
        stages.append((c[4], c[5], "bottleneck1", "bottleneck2", *norms))
        for i in range(1, 5):
            out = c[5 - i]
            names = (f"up_conv{i}1", f"up_conv{i}")
            stages.append((2 * out, out, *names, *(f"bn_{name}" for name in names)))
            setattr(self, f"up_pool{i}", nn.ConvTranspose2d(2 * out, out, 2, 2))
        self.stages = []
        for inputs, out, first, second, bn1, bn2 in stages:
            setattr(self, first, nn.Conv2d(inputs, out, 3, padding=1))
            setattr(self, second, nn.Conv2d(out, out, 3, padding=1))
            if shared:
                bn1 = bn2 = "bn_bottleneck1" if out == c[5] else bn2
            for bn in {bn1, bn2}:
                setattr(self, bn, nn.BatchNorm2d(out))
            self.stages.append((first, bn1, second, bn2))
        self.classifier = nn.Conv2d(c[1], classes, 1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def stage(self, index, x):
        first, bn1, second, bn2 = (getattr(self, name) for name in self.stages[index])
        return torch.relu(bn2(second(torch.relu(bn1(first(x))))))

    def forward(self, x):
        skips = []
        for i in range(4):
            skips.append(self.stage(i, x))
            x = self.pool(skips[-1])
        x = self.stage(4, x)
        for i in range(4):
            skip = skips[3 - i]
            x = getattr(self, f"up_pool{i + 1}")(x)[:, :, : skip.shape[2], : skip.shape[3]]
            x = self.stage(5 + i, torch.cat([x, skip], 1))
        return self.classifier(x)


class ResNet50FCN(nn.Module):
    """Table 2 on torchvision's ResNet, whose statistics stay frozen."""

    def __init__(self, resnet, classes=21, channels=2048, width=64, frozen=True):
        super().__init__()
        self.backbone = nn.Sequential(*list(resnet.children())[:-2])
        self.frozen = frozen
        c = [channels, 16 * width, 8 * width, 4 * width, 2 * width, width, width]
        self.conv1, self.conv2 = nn.Conv2d(c[0], c[1], 1), nn.Conv2d(c[1], c[2], 1)
        for i in range(1, 5):
            self.add_module(f"deconv{i}", nn.ConvTranspose2d(c[i + 1], c[i + 2], 3, 2, 1, 1))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        size = x.shape[2:]
        self.backbone.train(self.training and not self.frozen)
        x = self.backbone(x)
        if self.frozen:
            x = x.detach()
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        deconvs = [self.get_submodule(f"deconv{i}") for i in range(1, 5)]
        x = torch.relu(deconvs[1](torch.relu(deconvs[0](x))))
        x = self.bn1(torch.relu(deconvs[2](x)))
        x = self.classifier(self.bn2(torch.relu(deconvs[3](x))))
        return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


# ---- random weights and pictures -----------------------------------------------------------------


def randomise(module, seed=0, size=128):
    """Random weights of every kind, and statistics that fit them: signals keep their size."""
    momenta = {}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                fan = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.in_channels
                layer.weight.normal_(0.0, (2.0 / fan) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0.0, 0.1, generator=generator)
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.4, 1.2, generator=generator)
                layer.bias.normal_(0.0, 0.1, generator=generator)
                momenta[layer] = layer.momentum
                layer.momentum = None  # the mean over all calls: a shared one has two
        module.train()(torch.from_numpy(nchw(pictures(4, size, size, seed))))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = momenta[layer]
            for name, buffer in layer.named_buffers():
                if name != "running_mean":
                    buffer.clamp_(min=0.1) if name == "running_var" else buffer.zero_()
    return module.eval()


def pictures(n, height, width, seed=0):
    """Normalised float32 [n, height, width, 3], smooth like photographs, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(n, 3, 5, 5)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").numpy()
    noise = 0.1 * rng.normal(size=(n, height, width, 3)).astype(np.float32)
    return smooth.transpose(0, 2, 3, 1) + noise


class Depthwise(TorchFunctionMode):
    """Depthwise convolutions as products of patches.

    PyTorch's own take a hundred times as long in float64.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.conv2d or args[6] == 1:
            return func(*args, **(kwargs or {}))
        x, weight, bias, stride, padding, dilation, groups = args
        taps = weight.shape[2:]
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x.shape[2:], taps, stride, padding, dilation, strict=True)
        ]
        patches = nn.functional.unfold(x, taps, dilation, padding, stride)
        y = weight.flatten(1).unflatten(0, (groups, -1)) @ patches.unflatten(1, (groups, -1))
        y = y.flatten(1, 2).unflatten(2, size)
        return y if bias is None else y + bias[:, None, None]


class Kinks(TorchFunctionMode):
    """The smallest distance of an activation from the kink of a ReLU or the tie of a max-pool.

    Or from one of the two kinks, at -3 and 3, of hard-swish and hard-sigmoid.

    Relative to the standard deviation of the layer's activations. Within rounding of a kink two
    exact implementations fall on different sides, and their gradients differ by a whole pixel.
    """

    margin = np.inf

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.relu, nn.functional.relu):
            self._note(args[0].abs(), args[0])
        elif func in (nn.functional.hardswish, nn.functional.hardsigmoid):
            self._note((args[0].abs() - 3.0).abs(), args[0])
        elif func is nn.functional.max_pool2d:
            (x, k), stride, pad = args, kwargs["stride"], kwargs["padding"]
            height, width = func(*args, **kwargs).shape[2:]
            x = nn.functional.pad(x, 2 * (pad, pad + k + stride), value=-1e9)
            views = [x[..., i::stride, j::stride] for i in range(k) for j in range(k)]
            best, second = torch.stack([v[..., :height, :width] for v in views]).topk(2, 0).values
            self._note((best - second)[best > 0], args[0])
        return func(*args, **kwargs)

    def _note(self, distances, activations):
        self.margin = min(self.margin, float(distances.min() / activations.std()))


def pictures_off_the_kinks(module, size, wanted=5, tries=16):
    """The `wanted` of `tries` triples of pictures whose activations keep off the kinks most."""
    module = copy.deepcopy(module).double().train()

    def margin(seed):
        with torch.no_grad(), Depthwise(), Kinks() as kinks:
            module(torch.from_numpy(nchw(pictures(3, *size, seed=seed))).double())
        return kinks.margin

    seeds = sorted(range(tries), key=margin, reverse=True)[:wanted]
    return [pictures(3, *size, seed=seed) for seed in seeds]


def nchw(x):
    return np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2))


# ---- comparisons ---------------------------------------------------------------------------------


def eval_error(arch, module, size, **options):
    """Largest difference of the logits at that size, relative to the largest logit above 1."""
    model = create_model(arch, **options)
    variables = load_torch_weights(arch, module.state_dict(), **shapes(options))
    images = pictures(1, *size)
    with torch.no_grad():
        theirs = module.eval()(torch.from_numpy(nchw(images))).numpy()
    ours = jax.jit(model.apply)(variables, images)
    assert ours.shape == (1, *size, theirs.shape[1])
    assert ours.dtype == jnp.float32
    largest = np.abs(theirs).max()
    assert 0.1 < largest < 100  # or the difference would say nothing
    return np.abs(nchw(ours) - theirs).max() / max(1.0, largest)


def exact_logits(module, size):
    """PyTorch's logits in float64."""
    module = copy.deepcopy(module).double()
    with torch.no_grad():
        return module(torch.from_numpy(nchw(pictures(1, *size))).double()).numpy()


def rounding_error(module, size):
    """PyTorch's own error in float32, as `exact_error`: 2e-4 a hundred random layers deep."""
    exact = exact_logits(module, size)
    with torch.no_grad():
        rounded = module(torch.from_numpy(nchw(pictures(1, *size)))).numpy()
    return np.abs(rounded - exact).max() / max(1.0, np.abs(exact).max())


def exact_error(arch, module, size, **options):
    """As `eval_error`, from PyTorch's logits in float64."""
    model = create_model(arch, **options)
    variables = load_torch_weights(arch, module.state_dict(), **shapes(options))
    exact = exact_logits(module, size)
    ours = nchw(jax.jit(model.apply)(variables, pictures(1, *size)))
    assert ours.shape == exact.shape
    assert 0.1 < np.abs(exact).max() < 100  # or the difference would say nothing
    return np.abs(ours - exact).max() / max(1.0, np.abs(exact).max())


def shapes(options):
    """The options that change a network's shapes."""
    return {k: v for k, v in options.items() if k in ("width", "backbone", "aux")}


LR = 1e-4
WEIGHTS = np.linspace(0.2, 1.8, 5, dtype=np.float32)


def compare_training(arch, module, size, logits=1e-5, **options):
    """Assert that ours and PyTorch's training agree, on one of some triples of pictures.

    A single activation within rounding of a kink spoils a triple; a wrong formula spoils all.
    PyTorch's runs in float64, so that only our own rounding can spoil one.
    """
    *candidates, last = pictures_off_the_kinks(module, size)
    for images in candidates:
        result = train_both(arch, copy.deepcopy(module), images, **options)
        try:
            return check_training(result, logits)
        except AssertionError as error:
            print(f"other pictures, because of {error}")
    return check_training(train_both(arch, module, last, **options), logits)


def train_both(arch, module, images, steps=5, **options):
    """Some steps of Adam with L2 on a weighted loss with void pixels, here and there.

    Returns a dict of (ours, theirs): `logits`, `grads` and `stats` (name -> array) of the first
    step, `losses` of all, and `moves`: what they did to the parameters, as one vector.
    """
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, images.shape[:3]).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    variables = load_torch_weights(arch, module.state_dict(), **shapes(options))
    ours = _train_ours(arch, variables, images, labels, steps, options)
    theirs = _train_theirs(module, images, labels, steps)
    return {key: (ours[key], theirs[key]) for key in ours}


def _train_ours(arch, variables, images, labels, steps, options):
    model = create_model(arch, num_classes=5, **options)
    scale = 0.0 if getattr(model, "freeze_backbone", False) else None
    config = optim.OptimConfig(lr=LR, weight_decay=1e-2, backbone_scale=scale)
    optimizer = optim.make_optimizer(config, steps)

    def objective(params, stats):
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats}, images, True, mutable=["batch_stats"]
        )
        total, weight = losses.softmax_cross_entropy(logits, labels, jnp.asarray(WEIGHTS))
        return total / weight, (logits, updated.get("batch_stats", {}))

    @jax.jit
    def step(params, stats, state):
        (loss, (logits, stats)), grads = jax.value_and_grad(objective, has_aux=True)(params, stats)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return params, stats, state, loss, logits, grads

    params, stats = variables["params"], variables["batch_stats"]
    result: dict[str, Any] = {"losses": []}
    state = optimizer.init(params)
    for i in range(steps):
        params, stats, state, loss, logits, grads = step(params, stats, state)
        result["losses"].append(float(loss))
        if i == 0:
            result["logits"] = nchw(logits)
            result["grads"] = to_torch(arch, {"params": grads}, shared_bn=False)
            result["stats"] = to_torch(arch, {"batch_stats": stats}, shared_bn=False)
    before, after = (to_torch(arch, {"params": p}, False) for p in (variables["params"], params))
    result["moves"] = np.concatenate([(after[k] - before[k]).ravel() for k in sorted(before)])
    return result


def _train_theirs(module, images, labels, steps):
    module.double()
    trained = [
        p
        for name, p in module.named_parameters()
        if not (getattr(module, "frozen", False) and name.startswith("backbone"))
    ]
    optimizer = torch.optim.Adam(trained, lr=LR, weight_decay=1e-2)
    criterion = nn.CrossEntropyLoss(weight=torch.from_numpy(WEIGHTS).double(), ignore_index=255)
    images, labels = torch.from_numpy(nchw(images)).double(), torch.from_numpy(labels).long()
    result: dict[str, Any] = {"losses": []}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    module.train()
    for i in range(steps):
        optimizer.zero_grad()
        with Depthwise():
            logits = module(images)
        loss = criterion(logits, labels)
        loss.backward()
        if i == 0:
            result["logits"] = logits.detach().numpy()
            result["grads"] = {
                name: np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy()
                for name, p in module.named_parameters()
            }
            result["stats"] = {name: value.numpy().copy() for name, value in module.named_buffers()}
        optimizer.step()
        result["losses"].append(loss.item())
    after = {name: p.detach() for name, p in module.named_parameters()}
    moves = [(after[name] - before[name]).numpy().ravel() for name in sorted(before)]
    result["moves"] = np.concatenate(moves)
    return result


def check_training(result, logits=1e-5, grads=1e-3, moves=1e-1):
    """Assert that the two trainings agree.

    `grads` is relative, leaf by leaf: if the pictures keep off the kinks (see `Kinks`), what is
    left is rounding. `moves` is relative, of all parameters together, and wide for a reason: Adam
    divides a gradient by its own size, and later steps meet kinks. A wrong formula is off by the
    whole.
    """
    ours, theirs = result["logits"]
    np.testing.assert_allclose(ours, theirs, atol=logits * max(1.0, np.abs(theirs).max()))
    ours, theirs = result["stats"]
    names = {name for name in theirs if name.endswith(("running_mean", "running_var"))}
    assert names == {name for name in ours if not name.endswith("num_batches_tracked")}
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
    ours, theirs = result["grads"]
    assert ours.keys() == theirs.keys()
    whole = max(np.linalg.norm(g) for g in theirs.values())
    for name, g in theirs.items():
        # A bias before a normalisation has no gradient but rounding: hence the second scale.
        scale = max(np.linalg.norm(g), 1e-3 * whole)
        assert np.linalg.norm(ours[name] - g) <= grads * scale, name
    np.testing.assert_allclose(*result["losses"], rtol=2e-3)
    ours, theirs = result["moves"]
    assert np.abs(theirs).max() > LR  # something was learnt
    assert np.linalg.norm(ours - theirs) < moves * np.linalg.norm(theirs)
