"""The cache of compiled programs: whose it is, and what a killed process leaves in it."""

import os
import subprocess
import sys

import pytest

SET_UP = "from experiments.cli import command; command.setup_jax(); import jax; "
COMPILE = "print(float(jax.jit(lambda x: x + 1)(1.0)))"


def python(code: str, cache: os.PathLike, **environment: str) -> str:
    """What the code prints, in a process whose user cache is that folder; warnings are errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    kept |= {"XDG_CACHE_HOME": str(cache), **environment}
    command = [sys.executable, "-W", "error::UserWarning", "-c", SET_UP + code]
    return subprocess.check_output(command, env=kept, text=True).strip()


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    for name, expected in (("file", "None"), ("new", f"{tmp_path}/new/fcn_jax/xla")):
        printed = python("print(jax.config.jax_compilation_cache_dir)", tmp_path / name)
        assert printed == expected


def test_a_cache_of_the_users_own_keeps_its_size(tmp_path):
    code = "print(jax.config.values['jax_compilation_cache_max_size'])"
    assert python(code, tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own")) == "-1"


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_the_smallest_program_is_kept(tmp_path):
    assert python(COMPILE, tmp_path) == "2.0"
    assert list((tmp_path / "fcn_jax" / "xla").glob("jit__lambda*-cache"))


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_what_a_killed_process_has_left_is_removed_and_others_are_kept(tmp_path):
    """jax keeps nothing, with a warning each, while the time of an entry's last use is missing."""
    cache = tmp_path / "fcn_jax" / "xla"
    cache.mkdir(parents=True)
    (cache / "half-cache").write_bytes(b"cut off")
    assert python(COMPILE, tmp_path) == "2.0"
    programs = sorted(cache.glob("*-cache"))
    assert programs
    assert cache / "half-cache" not in programs
    (cache / "half-cache").write_bytes(b"cut off")
    assert python(COMPILE, tmp_path) == "2.0"
    assert sorted(cache.glob("*-cache")) == programs
