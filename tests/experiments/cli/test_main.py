"""The console script."""

import sys
from pathlib import Path

import pytest

import fcn_jax
from experiments.cli import command, main, stopping

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _within_this_process(monkeypatch):
    monkeypatch.setattr(command, "start", command.run)


def call(monkeypatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/fcn-jax", *words])
    with pytest.raises(SystemExit) as left:
        main.main()
    return left.value.code


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_shows_its_help_under_the_name_it_was_called_by(name, monkeypatch, capsys):
    assert call(monkeypatch, name, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: fcn-jax {name}")
    assert "python -m" not in out


def test_the_overview_lists_every_command(monkeypatch, capsys):
    assert call(monkeypatch) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(main.COMMANDS)


def test_the_version(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"fcn_jax {fcn_jax.__version__}\n"


def test_a_wrong_command(monkeypatch, capsys):
    assert call(monkeypatch, "evalute") == 2
    assert capsys.readouterr().err.endswith("did you mean evaluate?\n")


def test_every_command_has_a_module():
    for name in main.COMMANDS:
        assert (ROOT / f"experiments/{name}.py").exists()


def test_the_command_that_resumes_is_the_one_that_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/fcn-jax", "--lr", "1"])
    assert stopping.command("run") == "fcn-jax run --lr 1"
