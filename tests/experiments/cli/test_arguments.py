"""Flags made from fields: their help, their values, and what is said of a mistake."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from experiments import export, predict, run
from experiments.cli import arguments, command, flags
from fcn_jax import config as configs
from fcn_jax.inference import export as exporting
from fcn_jax.inference import predict as predicting
from fcn_jax.types import InputError


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    size: tuple[int, int] = (8, 9)
    """Height and `width`."""
    rate: float | None = None
    """A rate."""
    mode: Literal["a", "b"] = "a"
    """Either, 100 % of the time."""
    fast: bool = False
    """Whether to hurry."""

    def __post_init__(self):
        """Nothing is checked."""


def parsed(*words):
    parser = arguments.Parser("test", "A test.")
    arguments.add_fields(parser, "", Settings())
    return vars(parser.parse_args(words))


def test_values_have_the_type_of_their_field():
    assert parsed() == {}
    assert parsed("--size", "3x4", "--rate", "0.5", "--mode", "b", "--fast") == {
        "size": (3, 4), "rate": 0.5, "mode": "b", "fast": True,
    }  # fmt: skip
    assert parsed("--size", "5", "--rate", "none", "--no-fast") == {
        "size": (5, 5), "rate": None, "fast": False,
    }  # fmt: skip
    assert [parsed("--fast", word)["fast"] for word in ("yes", "no")] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "3x4x5"], "--size 3x4x5: give one side (224) or HEIGHTxWIDTH (360x480)"),
        (["--rate", "fast"], "--rate fast: give a number"),
        (["--mode", "c"], "--mode c: choose one of a, b"),
        (["--fast", "maybe"], "--fast maybe: give yes or no, or nothing"),
        (["--sise", "3"], "--sise: there is no such flag: did you mean --size?"),
        (["--sise=3"], "--sise: there is no such flag: did you mean --size?"),
        (["--mode"], "--mode: expected one argument"),
        (["more"], "more: not expected here: see python -m experiments.test --help"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    with pytest.raises(InputError) as caught:
        parsed(*words)
    assert str(caught.value) == message


def test_the_help_comes_from_the_fields():
    parser = arguments.Parser("test", "A test.")
    arguments.add_fields(parser, "", Settings())
    text = " ".join(parser.format_help().split())
    assert "--size HEIGHTxWIDTH Height and width. (default: 8x9)" in text
    assert "--mode {a,b} Either, 100 % of the time. (default: a)" in text
    assert "--fast, --no-fast Whether to hurry. (default: no)" in text
    assert "usage: python -m experiments.test [flags]" in text


def fields():
    """(dotted name, dataclass) of every setting of a run."""
    base = configs.Config()
    for prefix in flags.GROUPS:
        part = getattr(base, prefix) if prefix else base
        for field in dataclasses.fields(part):
            if field.name not in (*flags.GROUPS, "experiment"):
                yield f"{prefix}.{field.name}".lstrip("."), part


@pytest.mark.parametrize(
    ("field", "part"), list(fields()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_setting_is_documented_and_has_a_flag_of_its_own(field, part):
    assert arguments.docstrings(type(part))[field.rpartition(".")[2]]
    options = run.parser()._option_string_actions
    assert options[arguments.flag(field)].dest == field


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--optimizer", "adamw"], "optim.name", "adamw"),
        (["--color-jitter", "0.3"], "augment.colour_jitter", 0.3),
        (["--colour-jitter", "0.3"], "augment.colour_jitter", 0.3),
        (["--image-size", "360x480"], "data.image_size", (360, 480)),
        (["--crop-scale", "0.5,1"], "augment.crop_scale", (0.5, 1.0)),
        (["--weight-cap", "none"], "loss.weight_cap", None),
        (["--void-as-background", "yes"], "data.void_as_background", True),
        (["--no-void-as-background"], "data.void_as_background", False),
    ],
)
def test_flags_set_fields(words, field, value):
    config = flags.to_config(run.parser().parse_args(["--experiment", "weighted", *words]))
    group, _, name = field.rpartition(".")
    assert getattr(getattr(config, group), name) == value


def test_the_help_shows_the_values_of_the_experiment_that_is_named():
    base = flags.base_of(["--lr", "1", "--experiment", "baseline"])
    text = " ".join(run.parser(base).format_help().split())
    assert "Peak learning rate. (default: 0.0001)" in text
    assert "Peak learning rate. (default: 0.001)" in " ".join(run.parser().format_help().split())


def test_settings_that_depend_on_each_other_are_set_together():
    base = configs.replace(configs.Config(), **{"data.batch_size": 16, "optim.accumulate": 4})
    changed = configs.replace(base, **{"data.batch_size": 6, "optim.accumulate": 3})
    assert (changed.data.batch_size, changed.optim.accumulate) == (6, 3)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("too few", field="data.batch_size", value=0), "--batch-size 0: too few"),
        (InputError("no", field="optim.name", value="x"), "--optimizer x: no"),
        (InputError("no", field="data.image_size", value=(8, 9)), "--image-size 8x9: no"),
        (InputError("give optim.lr, see data.json"), "give --lr, see data.json"),
        (InputError("a file"), "a file"),
    ],
)
def test_an_error_names_the_flag_instead_of_the_field(error, line):
    assert command.message(error) == line


def test_the_words_that_are_accepted_are_those_of_the_library():
    assert predict.SCALES == predicting.SCALES
    assert export.ANY == exporting.ANY


@pytest.mark.parametrize(
    "words",
    [
        "RUN --out d a.png -x.png", "RUN a.png --out d -- -x.png", "RUN --out d -- a.png -x.png",
        "--out d -- RUN a.png -x.png", "--out d RUN a.png -- -x.png",
    ],
)  # fmt: skip
def test_flags_may_stand_anywhere(words):
    parser = arguments.Parser("test", "Tests.")
    parser.add_argument("inputs", nargs="*", metavar=("WORKDIR IMAGE", "IMAGE"))
    parser.add_argument("--out", required=True)
    if "--" not in words.split():
        words = words.replace("-x.png", "x.png")
    parsed = parser.parse_args(words.split())
    assert parsed.out == "d"
    assert [name.lstrip("-") for name in parsed.inputs] == ["RUN", "a.png", "x.png"]
    with pytest.raises(SystemExit):
        parser.parse_args(["RUN", "--help"])


def test_help_names_the_positional_arguments(capsys):
    parser = arguments.Parser("test", "Tests.")
    parser.add_argument("inputs", nargs="*", metavar=("WORKDIR IMAGE", "IMAGE"))
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "test [WORKDIR IMAGE [IMAGE ...]] [flags]" in capsys.readouterr().out
