"""What is asked of XLA is asked where it is understood, and nowhere else."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fcn_jax.runtime import xla_options


@pytest.fixture(autouse=True)
def fresh():
    xla_options.options.cache_clear()
    yield
    xla_options.options.cache_clear()


def test_the_convolution_leaves_ynnpack():
    def program(options):
        def f(x, kernel):
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

        x, kernel = jnp.ones((16, 56, 56, 64)), jnp.ones((3, 3, 64, 64))
        return jax.jit(f, compiler_options=options).lower(x, kernel).compile().as_text() or ""

    if "__ynn_fusion" not in program(None):
        pytest.skip("this XLA has no YNNPACK")
    assert "__ynn_fusion" not in program(xla_options.options())


def test_an_option_that_xla_does_not_know_is_no_harm(monkeypatch):
    known = xla_options.options()
    xla_options.options.cache_clear()
    monkeypatch.setitem(xla_options.CPU_OPTIONS, "xla_cpu_no_such_option", "1")
    assert xla_options.options() == known


def test_other_devices_keep_their_defaults(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert xla_options.options() is None
