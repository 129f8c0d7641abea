"""The U-Net: against PyTorch, and recomputation."""

import jax
import numpy as np
import pytest

from fcn_jax.models import create_model
from tests.models.variables import abstract, random_variables


@pytest.mark.slow
@pytest.mark.parametrize(("size", "width"), [((224, 224), 64), ((65, 97), 16)])
def test_logits_of_a_released_checkpoint(size, width):
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    module = reference.randomise(reference.UNet(21, width, shared=True))
    assert reference.eval_error("unet", module, size, width=width) < 1e-5


@pytest.mark.slow
def test_training_with_a_normalisation_per_convolution():
    pytest.importorskip("torch")
    from tests.models import torch_reference as reference

    module = reference.randomise(reference.UNet(5, 8))
    reference.compare_training("unet", module, (35, 42), width=8)


@pytest.mark.slow
def test_recomputing_the_stages_changes_neither_names_nor_results():
    images = jax.random.normal(jax.random.key(1), (2, 17, 23, 3))
    plain, saving = (create_model("unet", 3, width=2, remat=remat) for remat in (False, True))
    variables = random_variables(plain)
    assert abstract(saving) == abstract(plain)

    def train(model):
        def apply(variables):
            return model.apply(variables, images, True, mutable=["batch_stats"])

        assert (str(jax.make_jaxpr(apply)(variables)).count("remat2[") == 9) == model.remat
        return jax.jit(apply)(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), train(plain), train(saving)
    )
