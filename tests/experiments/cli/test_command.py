"""What the commands share: jax is set up as the machine needs it."""

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.cli import command
from fcn_jax.runtime import machine

PROGRAM = (
    "from experiments.cli import command; command.setup_jax({}); "
    "import jax; print(jax.device_count())"
)


def devices(arguments: str = "", **variables: str) -> int:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", **variables}
    printed = subprocess.check_output(
        [sys.executable, "-c", PROGRAM.format(arguments)], env=environment, text=True
    )
    return int(printed)


def test_a_cpu_is_a_device_for_each_core_up_to_a_few():
    assert devices() == min(machine.cores(), command.CPU_DEVICES)


def test_a_cpu_is_one_device_of_each_of_several_processes():
    assert devices("alone=False") == 1


def test_a_number_of_devices_that_was_asked_for_stays():
    assert devices(XLA_FLAGS="--xla_force_host_platform_device_count=3") == 3
    assert devices(JAX_NUM_CPU_DEVICES="3") == 3


@pytest.mark.slow
def test_a_device_waits_for_another_that_has_no_core():
    """Here 4 s, with a limit of 1 s and with ours: XLA ends the process in the first case only."""
    code = (
        "import time; from experiments.cli import command; command.setup_jax(); import jax; "
        "jax.config.update('jax_num_cpu_devices', 2); "
        "late = lambda i: (time.sleep(4 * int(i)), i)[1]; "
        "like = jax.ShapeDtypeStruct((), 'int32'); "
        "f = lambda i: jax.lax.psum(jax.pure_callback(late, like, i), 'd'); "
        "print(*jax.pmap(f, 'd')(jax.numpy.arange(2)))"
    )
    warn = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=1"
    limited = f"{warn} --xla_cpu_collective_call_terminate_timeout_seconds=1"
    for flags, ended, printed in ((limited, False, ""), (warn, True, "1 1\n")):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert (done.returncode == 0, done.stdout) == (ended, printed), done.stderr[-500:]


def test_tasks_of_a_failed_save_are_not_reported_one_by_one(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "__unraisablehook__", lambda e: reported.append(str(e.exc_value)))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back what run replaces
    with pytest.raises(SystemExit):
        command.run(lambda _: 0)
    for words in ("Event loop is closed", "of another kind"):
        error: Any = SimpleNamespace(exc_value=RuntimeError(words))
        sys.unraisablehook(error)
    assert reported == ["of another kind"]
