"""Compiler options of XLA for the programs of this package."""

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
    # The order of operations that needs the least memory, not the one that offers the most to run
    # side by side: a core has a program of its own. (U-Net: 857 MiB instead of 1069, 3 % faster.)
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}


@cache
def options() -> dict[str, str] | None:
    """`compiler_options` for `jax.jit`, on the backend that JAX uses now; None: the defaults.

    Options are XLA's own business and come and go: those that a version does not know are left out,
    and it is only slower.
    """
    if jax.default_backend() != "cpu":
        return None
    return {name: value for name, value in CPU_OPTIONS.items() if _is_known(name, value)} or None


def _is_known(name: str, value: str) -> bool:
    probe = jax.jit(lambda x: x + 1, compiler_options={name: value})
    try:
        probe.lower(jnp.zeros(())).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
