"""The flags that describe a run: one for each field of `Config`, over an experiment's values."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

from experiments import paper, tuned
from experiments.cli import arguments, command
from fcn_jax import config as configs
from fcn_jax.config import Config, plugins
from fcn_jax.models import MODELS, registry
from fcn_jax.types import InputError

EXPERIMENTS = {**tuned.EXPERIMENTS, **paper.EXPERIMENTS}

GROUPS = {
    "": "training",
    "data": "data",
    "model": "network",
    "optim": "optimizer",
    "loss": "loss",
    "augment": "augmentation",
}
"""Dataclass of `Config` ("" for its own fields) -> title of its flags in the help."""


def experiment(name: str) -> Config:
    """The configuration of a named experiment.

    Raises:
      InputError: for an unknown name.
    """
    if name not in EXPERIMENTS:
        raise InputError(
            f"choose one of {', '.join(EXPERIMENTS)}{arguments.nearest(name, EXPERIMENTS)}",
            field="experiment",
            value=name,
        )
    return EXPERIMENTS[name]()


def base_of(words: Sequence[str]) -> Config:
    """The experiment that a command line names, read before it is parsed; else the default one."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--experiment", default="default")
    try:
        return experiment(first.parse_known_args(list(words))[0].experiment)
    except argparse.ArgumentError:  # no value: the whole parser will say so
        return experiment("default")


def add_run_flags(parser: argparse.ArgumentParser, base: Config) -> None:
    """Add a flag for every field; the help shows the values of `base` as the defaults."""
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        default="default",
        help=f"recipe whose settings to start from: {', '.join(EXPERIMENTS)} (default: default)",
    )
    for prefix, title in GROUPS.items():
        group = parser.add_argument_group(f"{title}, as in the experiment {base.experiment}")
        part = getattr(base, prefix) if prefix else base
        names = [f.name for f in dataclasses.fields(part) if f.name not in (*GROUPS, "experiment")]
        text = (
            f"The network: {', '.join(MODELS)}, or module:name of a Flax module of your own. "
            f"(default: {base.model.arch})"
        )
        more = {
            "model": {"arch": {"help": text}, "pretrained": {"metavar": "NAME|PATH"}},
            "data": {"dataset": {"metavar": "NAME|FOLDER"}},
        }.get(prefix, {})
        arguments.add_fields(group, prefix, part, names, **more)


def add_config_flags(parser: Any, fields: Sequence[str]) -> None:
    """Add the flags of some fields, for commands where each run has defaults of its own."""
    for field in fields:
        prefix, _, name = field.rpartition(".")
        part = getattr(Config(), prefix) if prefix else Config()
        text = arguments.docstrings(type(part))[name].replace("`", "").replace("%", "%%")
        arguments.add_fields(parser, prefix, part, [name], **{name: {"help": text}})


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where data is found."""
    group = parser.add_argument_group("where the data is")
    group.add_argument(
        "--archives",
        type=arguments.path,
        metavar="DIR",
        help="folder with the VOC-2007 tar files: no download",
    )
    group.add_argument(
        "--data-dir",
        type=arguments.path,
        metavar="DIR",
        help="where prepared data is kept (default: the user's cache)",
    )


def add_plugin_flag(parser: Any) -> None:
    """Add the flag that lets code from outside the package be imported."""
    parser.add_argument(
        "--plugin",
        nargs="+",
        metavar="MODULE",
        default=[],
        help="import these modules: of networks, losses and so on that are named module:name, or "
        "registered by them under a name",
    )


def load_plugins(args: argparse.Namespace) -> None:
    """Import the modules that the command line names; nothing else is ever imported.

    A module in the current folder is found, as by `python -m`.
    """
    names = [*args.plugin, *(str(v) for k, v in given(args).items() if k in configs.PLUGIN_FIELDS)]
    modules = dict.fromkeys(n.partition(":")[0] for n in names if ":" in n or n in args.plugin)
    if not modules:
        return
    command.tune()
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        plugins.allow(module)


def origin(args: argparse.Namespace) -> dict[str, str]:
    """How the data was found, as `Runtime.origin` keeps it."""
    return {k: str(v.resolve()) for k in ("archives", "data_dir") if (v := getattr(args, k))}


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Field of `Config` -> value, for the flags that were given."""
    fields = {f.name for f in dataclasses.fields(Config)} - {"experiment"}
    return {k: v for k, v in vars(args).items() if k.partition(".")[0] in fields}


def to_config(args: argparse.Namespace) -> Config:
    """The experiment's configuration with the given flags put over it.

    Raises:
      InputError: for an unknown experiment, or a value that a field cannot have.
    """
    return apply(experiment(args.experiment), given(args))


def apply(base: Config, changes: dict[str, Any]) -> Config:
    """`base` with some fields changed, and what depends on them resolved.

    Without pretrained weights a backbone learns like the rest, unless a flag says otherwise: frozen
    or slow random weights would be of no use, nor would be the statistics that they start with.
    """
    if "model.pretrained" in changes and changes["model.pretrained"] is None:
        changes = {"optim.backbone_scale": None, "model.freeze_bn": False, **changes}
    return with_backbone(configs.replace(base, **changes))


def with_backbone(config: Config) -> Config:
    """Give the backbone its learning rate, and check what the network has no use for."""
    arch = config.model.arch
    if not registry.is_known(arch):
        raise InputError(
            f"choose one of {', '.join(MODELS)}{arguments.nearest(arch, MODELS)}",
            field="model.arch",
            value=arch,
        )
    return registry.resolve(config)
