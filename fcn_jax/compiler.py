"""What is asked of XLA for the programs of this package, beyond its defaults."""

from functools import cache

import jax
import jax.numpy as jnp

CPU_OPTIONS = {
    # Convolutions by Eigen, on all threads. YNNPACK's run on one thread when their rows are short
    # or their channels few (64 channels at 56x56: 95 GFLOP/s instead of 173 on two cores), because
    # they divide their work over columns and channels and never over images and rows.
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    ),
}


@cache
def options() -> dict[str, str] | None:
    """`compiler_options` for `jax.jit`, on the backend that JAX uses now; None: the defaults.

    Options are XLA's own business and come and go: a version that does not know one of them gets
    none, and is only slower.
    """
    if jax.default_backend() != "cpu":
        return None
    probe = jax.jit(lambda x: x + 1, compiler_options=CPU_OPTIONS)
    try:
        probe.lower(jnp.zeros(())).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return CPU_OPTIONS
