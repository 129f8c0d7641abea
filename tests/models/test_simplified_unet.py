"""The simplified U-Net against PyTorch."""

import pytest

pytest.importorskip("torch")

from tests.models import torch_reference as reference


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
def test_logits(size):
    module = reference.randomise(reference.SimplifiedUNet())
    assert reference.eval_error("simplified_unet", module, size) < 1e-5


@pytest.mark.slow
def test_training():
    module = reference.randomise(reference.SimplifiedUNet(5, 8))
    reference.compare_training("simplified_unet", module, (31, 42), width=8)
