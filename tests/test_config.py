"""The configuration survives JSON and names what differs."""

import json

import pytest

from experiments.cli import flags
from fcn_jax import config as configs
from fcn_jax.types import InputError


@pytest.mark.parametrize("name", flags.EXPERIMENTS)
def test_every_experiment_survives_json(name):
    config = flags.EXPERIMENTS[name]()
    text = json.dumps(configs.to_dict(config))
    assert configs.from_dict(json.loads(text)) == config
    assert config.experiment == name


def test_replace_reaches_nested_fields():
    config = configs.replace(configs.Config(), **{"optim.lr": 0.5, "epochs": 2})
    assert (config.optim.lr, config.epochs) == (0.5, 2)
    assert configs.Config().optim.lr != 0.5


def test_differences_name_the_fields():
    ours = configs.replace(configs.Config(), **{"data.image_size": (96, 64), "seed": 3})
    found = configs.differences(configs.Config(), ours)
    assert found == ["data.image_size: [224, 224] -> [96, 64]", "seed: 0 -> 3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "schema 99, this version reads 2"),
        ({"schema": 1, "model": {"freeze_backbone": True}}, "model.freeze_backbone, which was"),
        ({"colour": 1}, "unknown field 'colour'"),
    ],
)
def test_a_config_of_another_version_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        configs.from_dict({**configs.to_dict(configs.Config()), **change}, "config.json")


@pytest.mark.parametrize("name", ["label_smoothing", "focal_gamma"])
def test_a_loss_of_ones_own_has_no_settings_of_the_cross_entropy(name):
    with pytest.raises(InputError, match=rf"loss.{name}=0.5: belongs to the cross-entropy"):
        configs.replace(configs.Config(), **{"loss.function": "mine:loss", f"loss.{name}": 0.5})


def test_a_ratio_must_be_finite():
    with pytest.raises(InputError, match=r"augment.crop_ratio=.*must be \(min, max\)"):
        configs.AugmentConfig(crop_ratio=(1.0, float("inf")))


def test_the_last_configs_of_schema_1_are_read():
    data = configs.to_dict(configs.Config())
    assert configs.from_dict({**data, "schema": 1}) == configs.Config()


def _fields(data, prefix=""):
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{name}.")
        elif name != "schema":
            yield prefix + name


TEXTS = {
    "experiment", "data.dataset", "model.arch", "model.pretrained", "augment.function",
    "loss.function",
}  # fmt: skip


@pytest.mark.parametrize("field", list(_fields(configs.to_dict(configs.Config()))))
def test_a_value_of_another_type_is_an_error_that_names_the_field(field):
    """From Python, and from a config.json that was edited by hand; "no" is not false."""
    head, _, name = field.rpartition(".")
    for value in (float("nan"), -1, "" if field in TEXTS else "no", [], {}, ["a", "b"], object()):
        data = configs.to_dict(configs.Config())
        (data[head] if head else data)[name] = value
        with pytest.raises(InputError) as raised:
            configs.replace(configs.Config(), **{str(field): value})
        assert raised.value.field == field
        with pytest.raises(InputError) as raised:
            configs.from_dict(data, "config.json")
        assert field in (raised.value.field, str(raised.value)) or name in str(raised.value)


@pytest.mark.parametrize("data", [[], "text", None, 3])
def test_what_is_no_configuration_is_named(data):
    with pytest.raises(InputError, match=r"config.json: holds no configuration"):
        configs.from_dict(data, "config.json")
    with pytest.raises(InputError, match=r"config.json: .* is no DataConfig"):
        configs.from_dict({"schema": configs.SCHEMA, "data": data}, "config.json")
