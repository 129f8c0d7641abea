"""Checkpoints: exact round trips, best and latest, and none that is damaged is ever used."""

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fcn_jax import optim
from fcn_jax.runtime import files
from fcn_jax.types import InputError, TrainState, first_best
from fcn_jax.weights import checkpoint


def _state(step=0, ema=False, stats=True) -> TrainState:
    rng = np.random.default_rng(step)
    params = {
        "backbone": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        "head": {"bias": jnp.asarray(rng.normal(size=5), jnp.float32)},
    }
    statistics = {"bn": {"mean": jnp.full((2,), float(step))}} if stats else {}
    optimizer = optim.make_optimizer(optim.OptimConfig(backbone_scale=0.0), 10)
    average = (jax.tree.map(lambda x: x * 2, params), statistics) if ema else None
    return TrainState(
        jnp.asarray(step, jnp.int32), params, statistics, optimizer.init(params), average
    )


def _save(folder, scores):
    checkpoints = checkpoint.Checkpoints(folder)
    for step, score in enumerate(scores, 1):
        checkpoints.save(_state(step), {"epoch": step}, score)
    checkpoints.close()


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("stats", [False, True])
def test_round_trip_is_exact(tmp_path, ema, stats):
    state = _state(3, ema, stats)
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    checkpoints.save(state, {"epoch": 3, "text": "ä"}, 0.5)
    restored, meta = checkpoints.restore(_state(0, ema, stats)) or (None, {})
    checkpoints.close()
    chex.assert_trees_all_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert (meta["epoch"], meta["text"]) == (3, "ä")
    variables, _ = checkpoint.load(tmp_path / "c")
    used = state.ema if ema else (state.params, state.batch_stats)
    chex.assert_trees_all_equal((variables["params"], variables["batch_stats"]), used)


def test_best_and_the_latest_two_are_kept(tmp_path):
    _save(tmp_path / "c", [0.1, 0.9, 0.3, float("nan"), None, 0.2])
    kept = sorted(int(p.name) for p in (tmp_path / "c").iterdir())
    assert kept == [2, 5, 6]
    assert checkpoint.load(tmp_path / "c")[1]["epoch"] == 2
    assert checkpoint.load(tmp_path / "c", "latest")[1]["epoch"] == 6


def test_of_equal_scores_the_first_is_the_best(tmp_path):
    _save(tmp_path / "c", [0.1, 0.7, 0.7, 0.7, 0.2, 0.3])
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [2, 5, 6]
    assert checkpoint.load(tmp_path / "c")[1]["epoch"] == 2


def test_the_one_rule_of_what_is_best():
    nan = float("nan")
    assert first_best([None, 0.5, nan, 0.7, 0.7, 0.6]) == 3
    assert first_best([nan, None]) is None
    assert first_best([]) is None


@pytest.mark.parametrize("nothing", [float("nan"), None])
def test_a_score_that_is_none_is_never_the_best(tmp_path, nothing):
    _save(tmp_path / "c", [nothing, 0.2])  # no number is larger than a NaN that comes first
    assert checkpoint.load(tmp_path / "c")[1]["epoch"] == 2


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    state = _state(1)
    expected = jax.tree.map(np.array, state.params)
    checkpoints.save(state, {}, 0.0)
    jax.jit(lambda p: jax.tree.map(lambda x: x * 0 - 1, p), donate_argnums=0)(state.params)
    checkpoints.close()
    variables, _ = checkpoint.load(tmp_path / "c")
    chex.assert_trees_all_equal(variables["params"], expected)


def _files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def _harm(path, rng):
    """Flip a bit, cut the file short, or remove it."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "cut", "remove"])
    if kind == "remove":
        path.unlink()
    else:
        place = rng.randrange(len(data))
        if kind == "flip":
            data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data if kind == "flip" else data[:place])


@pytest.mark.slow
def test_no_damaged_checkpoint_is_used_silently(tmp_path, caplog):
    rng = random.Random(0)
    _save(tmp_path / "whole", [0.1, 0.2])
    valid = {1: _state(1), 2: _state(2)}
    for trial, path in enumerate(_files(tmp_path / "whole/2")):
        folder = tmp_path / f"c{trial}"
        shutil.copytree(tmp_path / "whole", folder)
        _harm(folder / path.relative_to(tmp_path / "whole"), rng)
        caplog.clear()
        checkpoints = checkpoint.Checkpoints(folder)
        restored, meta = checkpoints.restore(_state(0)) or (None, {})
        checkpoints.close()
        # Either the damage did not matter, or the one before was used and the damage was named.
        chex.assert_trees_all_equal(restored, valid[meta["epoch"]])
        assert bool(caplog.messages) == (meta["epoch"] == 1)
        # The others are notes of orbax's, and what each process had written before it was merged.
        if path.parent.name == "d" and path.parents[1].name in ("meta", "train", "variables"):
            assert meta["epoch"] == 1, path


def test_the_best_is_never_silently_another(tmp_path):
    """Where a meta is damaged nobody knows whether that one was the best."""
    _save(tmp_path / "c", [0.9, 0.2, 0.3])
    for path in _files(tmp_path / "c/1/meta"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"c/1: damaged .* move it away"):
        checkpoint.load(tmp_path / "c")
    assert checkpoint.load(tmp_path / "c", "latest")[1]["epoch"] == 3
    shutil.rmtree(tmp_path / "c/1")
    assert checkpoint.load(tmp_path / "c")[1]["epoch"] == 3


def test_a_checkpoint_that_a_training_replaces_meanwhile_is_not_called_damaged(
    tmp_path, monkeypatch
):
    _save(tmp_path / "c", [0.1, 0.2, 0.3])
    read, gone = checkpoint._read, []

    def replaced(path, *parts):
        if not gone:
            gone.append(path)
            shutil.rmtree(path)  # as orbax does with what need not be kept any more
        return read(path, *parts)

    monkeypatch.setattr(checkpoint, "_read", replaced)
    assert checkpoint.load(tmp_path / "c")[1]["epoch"] == 3
    assert len(gone) == 1


def test_another_word_than_best_or_latest_is_refused(tmp_path):
    _save(tmp_path / "c", [0.1])
    with pytest.raises(InputError, match="'Best': choose best or latest"):
        checkpoint.load(tmp_path / "c", "Best")


def _raised(error, cause=None):
    def load(*_):
        raise error from cause

    return load


REFUSALS = [
    (OSError(errno.EIO, "Input/output error"), None, InputError, "Input/output error"),
    (OSError(errno.EMFILE, "Too many open files"), None, InputError, "Too many open files"),
    (KeyError("handler"), PermissionError(errno.EACCES, "denied"), InputError, "Permission denied"),
    (
        ValueError("UNKNOWN: Error reading \"/x\" [os_error_code='5']"),
        None, InputError, "Input/output error",
    ),
    (ValueError("RESOURCE_EXHAUSTED: no memory"), None, ValueError, "RESOURCE_EXHAUSTED"),
    (MemoryError("4 GB"), None, MemoryError, "4 GB"),
    (KeyError("handler"), MemoryError("4 GB"), MemoryError, "4 GB"),
    (RuntimeError("Unable to initialize backend"), None, RuntimeError, "backend"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "cause", "expected", "words"), REFUSALS, ids=lambda v: str(v)[:20]
)
def test_what_is_no_damage_is_raised_and_moves_nothing(
    tmp_path, monkeypatch, error, cause, expected, words
):
    _save(tmp_path / "c", [0.1, 0.2])
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    monkeypatch.setattr(checkpoint, "_load", _raised(error, cause))
    with pytest.raises(expected, match=words):
        checkpoints.restore(_state(0))
    with pytest.raises(expected, match=words):
        checkpoint.load(tmp_path / "c")
    monkeypatch.undo()
    _, meta = checkpoints.restore(_state(0)) or (None, {})
    assert meta["epoch"] == 2
    checkpoints.close()
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_file_that_the_system_refuses_is_no_damage_whatever_orbax_says(tmp_path, monkeypatch):
    _save(tmp_path / "c", [0.1])
    open_file = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "_METADATA":
            raise OSError(errno.EIO, "Input/output error")
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(checkpoint, "_load", _raised(ValueError("cannot be parsed")))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"c/1: cannot be read \(Input/output error\)"):
        checkpoint.load(tmp_path / "c")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=rf"^{tmp_path}: cannot be read \(Permission denied\): "):
        checkpoint.load(tmp_path)


def test_a_missing_device_is_one_line_and_no_damage(tmp_path):
    """A checkpoint is read without any device; what needs one says so in one line."""
    _save(tmp_path / "c", [0.1])
    code = (
        "import sys\n"
        "from fcn_jax.runtime import distributed\n"
        "from fcn_jax.types import InputError\n"
        "from fcn_jax.weights import checkpoint\n"
        "print(checkpoint.load(sys.argv[1])[1]['epoch'])\n"
        "try: distributed.require_backend()\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "c"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "rocm"},
        capture_output=True,
        text=True,
        check=True,
    )
    epoch, line = done.stdout.splitlines()
    assert epoch == "1"
    assert line.startswith("no rocm device (Unable to initialize backend 'rocm'")
    assert line.endswith("set JAX_PLATFORMS=cpu to run on the CPU, or install JAX for the device")


def test_a_flipped_bit_in_an_array_is_found_by_its_checksum(tmp_path):
    """Orbax would restore it as it is; small arrays lie in files that it does check."""
    state, rng = _state(1), random.Random(0)
    state.params["head"]["bias"] = jax.random.normal(jax.random.key(0), (100_000,))
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    checkpoints.save(state, {}, 0.1)
    checkpoints.close()
    largest = max(_files(tmp_path / "c/1/variables"), key=lambda p: p.stat().st_size)
    whole, named = largest.read_bytes(), []
    for _ in range(8):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        largest.write_bytes(data)
        with pytest.raises(InputError, match=r"1: damaged") as caught:
            checkpoint.load(tmp_path / "c")
        named.append("checksum of variables/params/head/bias differs" in str(caught.value))
    assert sum(named) >= 4
    largest.write_bytes(whole)
    checkpoint.load(tmp_path / "c")


def test_if_none_is_valid_it_says_so(tmp_path, caplog):
    _save(tmp_path / "c", [0.1])
    for path in _files(tmp_path / "c"):
        path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(InputError, match=r"1: damaged"):
        checkpoint.load(tmp_path / "c")
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    with pytest.raises(InputError, match="none of the checkpoints 1 is valid"):
        checkpoints.restore(_state(0))
    assert "checkpoint 1 is damaged" in caplog.text
    # Asked again, it does not begin from scratch over what is left of the run.
    with pytest.raises(InputError, match=r"all checkpoints were damaged, and are in .*c-damaged"):
        checkpoints.restore(_state(0))
    checkpoints.close()


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        checkpoint.load(tmp_path / "nothing")
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    assert checkpoints.restore(_state(0)) is None
    checkpoints.close()


def test_a_full_disk_is_said_before_writing(tmp_path, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    monkeypatch.setattr(files, "free", lambda _: 10)
    checkpoints.save(_state(1), {}, 0.1)
    with pytest.raises(InputError, match=r"10 bytes free, a checkpoint needs .* make room"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.save(_state(1), {}, 0.1)
    checkpoints.close()
    checkpoint.load(tmp_path / "c")


def test_a_disk_that_fills_up_during_a_save(tmp_path, monkeypatch):
    """As orbax reports it: in the save, and once more when it is closed."""
    _save(tmp_path / "c", [0.1])
    error = ValueError("RESOURCE_EXHAUSTED: ... No space left on device [os_error_code='28']")

    def fill(number, *_, **__):
        (tmp_path / f"c/{number}.orbax-checkpoint-tmp").mkdir()
        raise error

    def fail():
        raise error

    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    close = checkpoints._orbax.close
    monkeypatch.setattr(checkpoints._orbax, "save_checkpointables", fill)
    monkeypatch.setattr(checkpoints._orbax, "close", fail)
    checkpoints.save(_state(2), {"epoch": 2}, 0.2)
    with pytest.raises(InputError, match=r"too full \(.* free, a checkpoint needs .* make room"):
        checkpoints.wait()
    checkpoints.close()
    close()
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["1"]
    checkpoints = checkpoint.Checkpoints(tmp_path / "c")
    _, meta = checkpoints.restore(_state(0)) or (None, {})
    checkpoints.close()
    assert meta["epoch"] == 1
