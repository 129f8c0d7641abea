"""Study the ingredients of a recipe: `python -m experiments.study ablation | networks`."""

from functools import partial

from experiments import paper, tuned
from experiments.cli import arguments, command, flags, stopping, sweep
from fcn_jax import config as configs
from fcn_jax.config import plugins
from fcn_jax.models import registry

EPILOG = """examples:
  python -m experiments.study ablation --arch fcn --split-train 0.75 --seeds 0,1
  python -m experiments.study ablation --arch unet --dataset DIR --only base "+ Dice"
  python -m experiments.study networks --dataset DIR --image-size 360x480 --seeds 0,1,2

Finished runs are reused and interrupted ones resumed, so the command can be repeated."""

BASE = "base"

SHARED: dict[str, dict[str, object]] = {
    "no class weights": {"loss.class_weights": "none", "loss.weight_cap": None},
    "no scale jitter": {"augment.scale_jitter": None},
    "scale jitter 0.5 to 2": {"augment.scale_jitter": (0.5, 2.0)},
    "the paper's crops": {"augment.scale_jitter": None, "augment.crop_scale": (0.08, 1.0)},
    "+ colour jitter": {"augment.colour_jitter": 0.3},
    "+ rotation": {"augment.rotation": 10.0},
    "+ Dice": {"loss.dice": 1.0},
    "+ Lovasz": {"loss.lovasz": 1.0},
    "+ averaged parameters": {"optim.ema": 0.98},
    "rate 3e-4": {"optim.lr": 3e-4},
    "rate 3e-3": {"optim.lr": 3e-3},
    "batches of 4": {"data.batch_size": 4},
    "twice the epochs": {"epochs": 120},
    "320x320": {"data.image_size": (320, 320)},
}
"""Name -> what is changed in the base of any network."""

SCRATCH: dict[str, dict[str, object]] = {
    "Xavier initialisation": {"model.init": "xavier"},
    "four times the epochs": {"epochs": 240},
}
"""The same for networks without a backbone."""

TRANSFER: dict[str, dict[str, object]] = {
    "frozen backbone": {"optim.backbone_scale": 0.0},
    "backbone at the full rate": {"optim.backbone_scale": 1.0},
    "batch norm not frozen": {"model.freeze_bn": False},
    "head first": {"optim.backbone_delay": 150},
    "random backbone": {
        "model.pretrained": None,
        "model.freeze_bn": False,
        "optim.backbone_scale": 1.0,
    },
}
"""The same for networks with a backbone."""

PAPER = {
    "fcn": "weighted",
    "simplified_unet": "simplified_unet",
    "unet": "unet",
    "resnet50_fcn": "resnet50",
}
"""Network -> the paper's last experiment with it, which has all that the paper adds."""


def parser() -> arguments.Parser:
    """The flags of this command."""
    parser = arguments.Parser(
        "study",
        "Two studies, each a page with its table.md and table.json. ablation: the base recipe of "
        "one network, and the base with one change at a time; use --split-train, so that nothing "
        "is chosen on val. networks: the paper's recipe and the tuned one, for the networks of "
        "experiments/tuned.py.",
        EPILOG,
    )
    parser.add_argument(
        "study",
        type=arguments.choice(("ablation", "networks")),
        metavar="STUDY",
        help="ablation or networks",
    )
    parser.add_argument(
        "--arch",
        metavar="NAME",
        default="fcn",
        help="network of the ablation, as for experiments.run (default: fcn)",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="some of the study's lines, such as 'fcn, tuned'"
    )
    flags.add_plugin_flag(parser)
    sweep.add_flags(parser, "runs/study")
    return parser


@command.resumable("study")
def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parser().parse_args(argv)
    if plugins.is_plugin(args.arch):
        args.plugin = [*args.plugin, args.arch]
    flags.load_plugins(args)
    specs = ablation(args.arch) if args.study == "ablation" else networks()
    specs = [spec._replace(config=sweep.adapted(spec.config, args)) for spec in specs]
    if args.study == "ablation":  # a flag may have set what a line would change
        unique: dict[configs.Config, sweep.RunSpec] = {}
        for spec in specs:
            unique.setdefault(spec.config, spec)
        specs = list(unique.values())
    specs = sweep.chosen(specs, args.only)
    opened = sweep.open_sweep(args, stopping.command("study", argv))
    title = f"{args.study.capitalize()} on {opened.dataset.name}"
    sweep.make(specs, opened, title, partial(compared, args.study))
    return 0


def ablation(arch: str) -> list[sweep.RunSpec]:
    """A network's base recipe, then the base with one change at a time."""
    base = tuned.base(arch)
    special = TRANSFER if registry.get(arch).backbone else SCRATCH
    specs = [sweep.RunSpec(BASE, base)]
    for name, changes in {**special, **SHARED}.items():
        config = configs.replace(base, **changes)
        note = "; ".join(configs.differences(base, config))
        specs.append(sweep.RunSpec(name, config, note=note))
    return specs


def networks() -> list[sweep.RunSpec]:
    """The paper's recipe for each of its networks, and the tuned ones."""
    specs = []
    for arch in tuned.KEPT:
        if arch in PAPER:
            specs.append(sweep.RunSpec(f"{arch}, paper", paper.EXPERIMENTS[PAPER[arch]]()))
        specs.append(sweep.RunSpec(f"{arch}, tuned", tuned.tuned(arch)))
    return specs


def compared(study: str, names: list[str]) -> list[tuple[str, str]]:
    """Pairs for the bootstrap: each variant and the base, or the tuned and the paper's."""
    if study == "ablation":
        return [(name, BASE) for name in names if name != BASE and BASE in names]
    pairs = [(f"{arch}, tuned", f"{arch}, paper") for arch in PAPER]
    return [pair for pair in pairs if set(pair) <= set(names)]


if __name__ == "__main__":
    command.start(main)
