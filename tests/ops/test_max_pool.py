"""max_pool: values, ties and gradients against PyTorch, and every mode of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fcn_jax.ops.max_pool import max_pool


def xla_max_pool(x, size, stride, padding):
    after = [(-(-n // stride) - 1) * stride + size - n - padding for n in x.shape[1:3]]
    pads = ((0, 0), (padding, after[0]), (padding, after[1]), (0, 0))
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.sampled_from([(2, 2, 0), (3, 2, 1)]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_it_is_pytorchs_with_many_ties(kind, height, width, seed):
    torch = pytest.importorskip("torch")
    size, stride, padding = kind
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (2, height, width, 3)).astype(np.float32)  # ties everywhere
    tx = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    pool = torch.nn.MaxPool2d(size, stride, padding, ceil_mode=size == 2)
    ty = pool(tx)
    dy = rng.normal(size=ty.shape).astype(np.float32)
    (dx,) = torch.autograd.grad(ty, tx, torch.tensor(dy))
    y, pull = jax.vjp(lambda x: max_pool(x, size, stride, padding), x)
    np.testing.assert_array_equal(y, ty.detach().permute(0, 2, 3, 1))
    got = pull(dy.transpose(0, 2, 3, 1))[0]
    np.testing.assert_allclose(got, dx.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 3, 0), (5, 2, 2)]
)
def test_it_is_xlas_in_every_mode(size, stride, padding):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, dx = rng.normal(size=(2, 2, 7, 6, 3))

        def ours(x):
            return jnp.sin(max_pool(x, size, stride, padding)).sum()

        def stock(x):
            return jnp.sin(xla_max_pool(x, size, stride, padding)).sum()

        for transform in (
            jax.value_and_grad,
            lambda f: jax.grad(lambda x: (jax.grad(f)(x) ** 3).sum()),
        ):
            a, b = (jax.jit(transform(f))(x) for f in (ours, stock))
            jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-12), a, b)
        a, b = (jax.jvp(f, (x,), (dx,)) for f in (ours, stock))
        np.testing.assert_allclose(a, b, rtol=1e-12)
        mapped = jax.vmap(jax.grad(ours))(np.stack([x, -x]))
        np.testing.assert_allclose(mapped[1], jax.grad(stock)(-x), rtol=1e-12)


def test_nothing_is_scattered():
    x = jnp.ones((1, 8, 8, 2))
    text = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())).lower(x).as_text()
    assert "scatter" not in text
    assert "reduce_window" not in text


def test_nan_is_seen():
    x = jnp.array([1.0, jnp.nan, 3.0, 2.0]).reshape(1, 2, 2, 1)
    assert jnp.isnan(max_pool(x)).all()


def test_bfloat16():
    x = jnp.arange(16.0, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    y, dx = max_pool(x), jax.grad(lambda x: max_pool(x).sum())(x)
    assert y.dtype == dx.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.ravel(), [5, 7, 13, 15])
    np.testing.assert_array_equal(np.flatnonzero(dx.ravel()), [5, 7, 13, 15])


def test_max_pool_keeps_the_last_row_and_column():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(
        max_pool(x)[0, :, :, 0], [[6, 8, 9], [11, 13, 14]]
    )  # fmt: skip


def test_max_pool_of_negative_values_is_not_zero_at_the_border():
    y = max_pool(-jnp.ones((1, 3, 3, 1)), size=3, stride=2, padding=1)
    np.testing.assert_array_equal(y, -jnp.ones((1, 2, 2, 1)))
