"""Two processes make the run that one makes: the same losses, checkpoints that either may go on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from fcn_jax.data import batches, loader
from fcn_jax.runtime import distributed, files
from fcn_jax.training import loop, run_dir, trainer
from fcn_jax.types import Batch, InputError
from fcn_jax.weights import checkpoint
from tests import fakes

ROOT = Path(__file__).parents[2]
CHANGES = {"epochs": 2, "data.batch_size": 4}
TOLERANCE = 1e-5
"""Relative, of losses; absolute, of parameters of order 1: float32 sums in another order."""

PROGRAM = """
    import os, signal, sys
    from pathlib import Path
    from fcn_jax import models
    from fcn_jax.runtime import distributed as hosts
    from fcn_jax.training import loop, trainer
    from fcn_jax.types import InputError
    from tests import fakes

    process, port, cache, stop, *folders = sys.argv[1:]
    models.MODELS["tiny"] = fakes.TINY
    if stop == "stop" and process == "1":  # only this one hears of it; both have to stop
        step = trainer.Trainer.train_chunk
        trainer.Trainer.train_chunk = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), step(*a))
    runtime = loop.Runtime(show=False, cache=cache)
    with hosts.joined(f"localhost:{port}", int(process), 2):
        for folder in folders:
            try:
                config = fakes.config(**{CHANGES})
                result = loop.train(config, fakes.dataset(), Path(folder), runtime)
                print("loss", result["val"]["loss"])
            except loop.Interrupted as stopped:
                print(stopped)
        try:
            loop.train(fakes.config(), fakes.dataset(), Path(folder), runtime)
        except InputError as error:
            print("refused", "holds another run" in str(error))
"""


def _stop_at_the_first_step(patch) -> None:
    step = trainer.Trainer.train_chunk
    stopping = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), step(*a))
    patch.setattr(trainer.Trainer, "train_chunk", stopping)


def _pair(cache: str, stop: str, *folders: Path) -> list[str]:
    """Run the program in two processes of one device each; what both print is the same."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    code = textwrap.dedent(PROGRAM).replace("CHANGES", repr(CHANGES).strip("{}"))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(i), str(port), cache, stop, *map(str, folders)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    lines = [[line for line in text.splitlines() if "Gloo" not in line] for text, _ in outputs]
    assert lines[0] == lines[1]
    return lines[0]


def _single(folder: Path) -> None:
    loop.train(fakes.config(**CHANGES), fakes.dataset(), folder, loop.Runtime(show=False))


def _agree(ours: Path, theirs: Path) -> None:
    """The losses of each epoch, the result and the last parameters are the same."""
    losses = [
        [(row["train"]["loss"], row["val"]["loss"]) for row in run_dir.read_metrics(folder)]
        for folder in (ours, theirs)
    ]
    assert len(losses[0]) == 2
    np.testing.assert_allclose(*losses, rtol=TOLERANCE)
    results = [files.read_json(folder / "result.json")["val"]["loss"] for folder in (ours, theirs)]
    np.testing.assert_allclose(*results, rtol=TOLERANCE)
    states = [checkpoint.load(folder / "checkpoints", "latest")[0] for folder in (ours, theirs)]
    chex.assert_trees_all_close(*states, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_two_processes_agree_with_one(tmp_path, monkeypatch):
    one, pair, mixed, handed = (tmp_path / name for name in ("one", "pair", "mixed", "handed"))
    _single(one)
    # Two are stopped by a signal to one of them.
    assert _pair("none", "stop", pair) == [
        f"stopped after step 1; saved in {pair}",
        "refused True",
    ]
    shutil.copytree(pair, mixed)
    # One is stopped.
    with monkeypatch.context() as patch:
        _stop_at_the_first_step(patch)
        with pytest.raises(loop.Interrupted, match="after step 1;"):
            _single(handed)
    # Two resume their own and with the one's, one with the two's.
    lines = _pair("device", "", pair, handed)
    assert [line.split()[0] for line in lines] == ["loss", "loss", "refused"]
    _single(mixed)
    for folder in (pair, handed, mixed):
        _agree(folder, one)
    assert files.read_json(pair / "result.json")["environment"]["processes"] == 2


EIGHT = """
    import os, signal, sys
    from pathlib import Path
    import jax
    from fcn_jax import models
    from fcn_jax.training import loop, trainer
    from tests import fakes

    models.MODELS["tiny"] = fakes.TINY
    stopped, *others = map(Path, sys.argv[1:])
    assert jax.device_count() == 8

    def run(folder):
        config = fakes.config(**{CHANGES})
        return loop.train(config, fakes.dataset(16), folder, loop.Runtime(show=False))

    for folder in others:
        print("devices", run(folder)["environment"]["devices"])
    step = trainer.Trainer.train_chunk
    trainer.Trainer.train_chunk = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), step(*a))
    try:
        run(stopped)
    except loop.Interrupted as stopped:
        print(stopped)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_run_moves_between_one_device_and_eight(tmp_path, monkeypatch):
    """Stopped on one and ended on eight, and the other way, it is the run that never moved."""
    changes = {"epochs": 2, "data.batch_size": 8}
    stay, to_eight, to_one = (tmp_path / name for name in ("stay", "to eight", "to one"))

    def train(folder):
        runtime = loop.Runtime(devices=1, show=False)
        return loop.train(fakes.config(**changes), fakes.dataset(16), folder, runtime)

    train(stay)
    with monkeypatch.context() as patch:
        _stop_at_the_first_step(patch)
        with pytest.raises(loop.Interrupted, match="after step 1;"):
            train(to_eight)
    code = textwrap.dedent(EIGHT).replace("{CHANGES}", repr(changes))
    devices = {"JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", code, to_one, to_eight],
        cwd=ROOT,
        env={**os.environ, **devices},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["devices 8", f"stopped after step 1; saved in {to_one}"], (
        done.stderr
    )
    train(to_one)
    for folder in (to_eight, to_one):
        _agree(folder, stay)


@pytest.mark.parametrize("rows", [[[0, 3, 2, 5], [5, 5, 1, 0]], [4, 6, 9, 6]])
def test_a_share_is_read_by_its_process_alone(rows):
    """Rows 6 and 9 do not exist: filler. Two processes, one after the other."""
    rows = np.array(rows, np.int32)
    whole = batches.full_resolution(fakes.dataset(6, 0).splits["train"])
    asked, parts, numbers = [], [], []

    def read(wanted):
        asked.append(set(wanted.tolist()))
        return Batch(*(part[wanted] for part in whole))

    for process in range(2):
        own = lambda length, process=process: slice(
            process * length // 2, (process + 1) * length // 2
        )
        shard = loader.Shard(own, lambda tree: tree)
        ((padded, taken),) = loader.streamed(read, 6, lambda tree: tree, shard)(iter([rows]))
        parts.append(padded)
        numbers.append(taken)
    np.testing.assert_array_equal(*numbers)
    assembled = Batch(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    found = jax.tree.map(np.asarray, batches.take(assembled, numbers[0]))
    chex.assert_trees_all_equal(found, jax.tree.map(np.asarray, batches.take(whole, rows)))
    # The first process has the first half of each batch; 0 stands in where all is filler.
    halves = np.split(np.where(rows < 6, rows, 0), 2, axis=-1)
    assert asked == [set(half.ravel().tolist()) for half in halves]


@pytest.mark.parametrize("flag", [False, True])
def test_one_process_agrees_with_itself(flag):
    assert distributed.agree(flag) is flag
    assert distributed.from_primary(lambda: "read") == "read"
    assert distributed.is_primary()


def test_more_processes_than_the_batch_divides_by_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 3)
    monkeypatch.setattr(jax, "local_devices", lambda process=0: [f"device {process}"])
    with pytest.raises(InputError, match="batch_size=4: there are 3 processes"):
        distributed.mesh(4, None)


def test_a_coordinator_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(distributed, "CONNECT_SECONDS", 0)
    with (
        pytest.raises(InputError, match="coordinator=localhost:1: no answer"),
        distributed.joined("localhost:1", 1, 2),
    ):
        pass
