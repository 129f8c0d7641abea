"""The flags that describe a run, and how they change an experiment's configuration."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from experiments import paper, tuned
from experiments.cli import command
from fcn_jax import config as configs
from fcn_jax import losses
from fcn_jax.config import Config
from fcn_jax.models import MODELS
from fcn_jax.types import InputError
from fcn_jax.weights import initialize

EXPERIMENTS = {**tuned.EXPERIMENTS, **paper.EXPERIMENTS}


class Flag(NamedTuple):
    """A command-line flag that sets one field of `Config`."""

    name: str
    field: str
    type: Any
    help: str
    choices: Collection[str] | None = None


def _pair(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    return (float(low), float(high))


def _switch(text: str) -> bool:
    return {"yes": True, "no": False}[text]


GROUPS: dict[str, tuple[Flag, ...]] = {
    "data": (
        Flag("--dataset", "data.dataset", str, "voc2007, shapes, or a folder in VOC's layout"),
        Flag("--image-size", "data.image_size", command.image_size, "side, or HEIGHTxWIDTH, to train at"),
        Flag("--batch-size", "data.batch_size", int, "images a step"),
        Flag("--overfit", "data.overfit", int, "train and validate on the first N training images"),
        Flag("--split-train", "data.split_train", float, "train on this fraction of the train split and validate on the rest of it"),
        Flag("--void-as-background", "data.void_as_background", _switch, "the paper's reading of void", ("yes", "no")),
    ),
    "network": (
        Flag("--arch", "model.arch", str, "the network", MODELS),
        Flag("--init", "model.init", str, "initial weights", ("xavier", "he")),
        Flag("--pretrained", "model.pretrained", str, "imagenet, imagenet-v2, a .pth or .safetensors file, the folder of a run, or none"),
        Flag("--remat", "model.remat", _switch, "recompute activations: less memory, more time", ("yes", "no")),
    ),
    "training": (
        Flag("--epochs", "epochs", int, "passes over the train split"),
        Flag("--lr", "optim.lr", float, "peak learning rate"),
        Flag("--seed", "seed", int, "of everything random"),
        Flag("--patience", "patience", int, "stop after N epochs without a better miou; 0: never"),
        Flag("--precision", "precision", str, "of activations and convolutions", tuple(configs.MATMUL_PRECISION)),
    ),
    "recipe": (
        Flag("--optimizer", "optim.name", str, "adam decays by L2, adamw apart from it", ("adam", "adamw")),
        Flag("--weight-decay", "optim.weight_decay", float, "strength of the decay"),
        Flag("--schedule", "optim.schedule", str, "of the learning rate", ("constant", "cosine_annealing", "cosine")),
        Flag("--warmup", "optim.warmup", int, "steps of linear warm-up"),
        Flag("--backbone-scale", "optim.backbone_scale", float, "backbone's share of the learning rate; 0: frozen (default where it is pretrained)"),
        Flag("--clip-norm", "optim.clip_norm", float, "largest global norm of a gradient"),
        Flag("--ema", "optim.ema", float, "decay of the averaged parameters, such as 0.99"),
        Flag("--bn-batches", "bn_batches", int, "batches to take batch norm's statistics from before each validation; 0: running ones"),
        Flag("--flip", "augment.flip", float, "probability of a horizontal flip"),
        Flag("--crop-scale", "augment.crop_scale", _pair, "LOW,HIGH share of the area of a random crop"),
        Flag("--scale-jitter", "augment.scale_jitter", _pair, "LOW,HIGH random scale, then a window"),
        Flag("--colour-jitter", "augment.colour_jitter", float, "strength of colour changes, such as 0.3"),
        Flag("--rotation", "augment.rotation", float, "largest random angle, degrees"),
        Flag("--class-weights", "loss.class_weights", str, "weights of the classes in the loss", losses.WEIGHT_SCHEMES),
        Flag("--weight-cap", "loss.weight_cap", float, "largest class weight over the smallest"),
        Flag("--label-smoothing", "loss.label_smoothing", float, "share of the target spread out"),
        Flag("--focal-gamma", "loss.focal_gamma", float, "exponent of the focal factor"),
        Flag("--dice", "loss.dice", float, "weight of a Dice term"),
    ),
}  # fmt: skip


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag that changes the configuration; unset ones leave the experiment's value."""
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="default",
        help=f"whose settings to start from: {', '.join(EXPERIMENTS)} (default: default)",
    )
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title, "unset flags keep the experiment's value")
        for flag in flags:
            text = flag.help + (f": {', '.join(flag.choices)}" if flag.choices else "")
            group.add_argument(
                flag.name, dest=flag.field, type=str, help=text, metavar=flag.name[2:].upper()
            )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where data is found."""
    group = parser.add_argument_group("where the data is")
    group.add_argument(
        "--archives",
        type=Path,
        metavar="DIR",
        help="folder with the VOC-2007 tar files: no download",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where prepared data is kept (default: user cache)",
    )


def to_config(args: argparse.Namespace) -> Config:
    """The experiment's configuration with the given flags put over it.

    Raises:
      InputError: for an unknown experiment, or a value that a flag cannot take.
    """
    if args.experiment not in EXPERIMENTS:
        raise InputError(
            f"--experiment {args.experiment}: there is none of that name: "
            f"choose one of {', '.join(EXPERIMENTS)}"
        )
    base = EXPERIMENTS[args.experiment]()
    changes = {}
    for flags in GROUPS.values():
        for flag in flags:
            text = getattr(args, flag.field)
            if text is not None:
                changes[flag.field] = _parse(flag, text)
    config = untrained(configs.replace(base, **changes), changes.get("optim.backbone_scale", 1.0))
    _check(config)
    return _with_backbone(config)


def untrained(config: Config, scale: float = 1.0) -> Config:
    """`--pretrained none` taken at its word, and the backbone's share of the rate with it.

    Frozen or slow random weights would be of no use: unless told otherwise they learn like the
    rest.
    """
    if config.model.pretrained != "none":
        return config
    share = scale if config.model.arch in initialize.BACKBONES else config.optim.backbone_scale
    return configs.replace(config, **{"model.pretrained": None, "optim.backbone_scale": share})


def _with_backbone(config: Config) -> Config:
    """Give the backbone its learning rate: 0 where it is pretrained, as the paper, else the same."""
    scale, arch = config.optim.backbone_scale, config.model.arch
    if arch not in initialize.BACKBONES:
        if scale is not None:
            with_one = " or ".join(initialize.BACKBONES)
            raise InputError(f"--backbone-scale {scale}: {arch} has no backbone: use {with_one}")
        return config
    if scale is None:
        frozen = arch == "resnet50_fcn" and config.model.pretrained is not None
        scale = 0.0 if frozen else 1.0
    if scale == 0 and arch != "resnet50_fcn":
        raise InputError(f"--backbone-scale 0: only resnet50_fcn can freeze it: give {arch} 0.1")
    return configs.replace(config, **{"optim.backbone_scale": scale})


def _parse(flag: Flag, text: str):
    if flag.choices and text not in flag.choices:
        raise InputError(f"{flag.name} {text}: choose one of {', '.join(flag.choices)}")
    try:
        return flag.type(text)
    except InputError:
        raise
    except ValueError:
        kind = {int: "a whole number", float: "a number", _pair: "two numbers, as 0.5,2"}
        raise InputError(
            f"{flag.name} {text}: give {kind.get(flag.type, 'another value')}"
        ) from None


def _check(config: Config) -> None:
    """Refuse values no run can have."""
    limits = {
        "--epochs": (config.epochs, 1, 100_000),
        "--batch-size": (config.data.batch_size, 1, 65_536),
        "--overfit": (config.data.overfit, 0, 10**9),
        "--patience": (config.patience, 0, 10**9),
        "--seed": (config.seed, 0, 2**32 - 1),
        "--lr": (config.optim.lr, 0.0, 1e3),
        "--weight-decay": (config.optim.weight_decay, 0.0, 1e3),
        "--warmup": (config.optim.warmup, 0, 10**9),
        "--ema": (config.optim.ema, 0.0, 0.999999),
        "--bn-batches": (config.bn_batches, 0, 10**9),
        "--label-smoothing": (config.loss.label_smoothing, 0.0, 0.999),
        "--focal-gamma": (config.loss.focal_gamma, 0.0, 10.0),
        "--dice": (config.loss.dice, 0.0, 1e3),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise InputError(f"{name} {value}: must lie between {low} and {high}")
