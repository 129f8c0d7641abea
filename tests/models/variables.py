"""Random variables for a network, without compiling its initialisation."""

import jax
import numpy as np


def abstract(model, size=32):
    """The variables as shapes."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def random_variables(model, seed=0):
    """Kernels by He's rule, statistics and scales near 1, all different."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0.0, (2.0 / np.prod(leaf.shape[:3])) ** 0.5, leaf.shape)
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0.0, 0.1, leaf.shape)

    def draw32(path, leaf):
        return draw(path, leaf).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw32, abstract(model))
