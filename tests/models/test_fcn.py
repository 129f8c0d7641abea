"""The baseline against PyTorch."""

import pytest

pytest.importorskip("torch")

from tests.models import torch_reference as reference


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (65, 97)])
def test_logits(size):
    assert reference.eval_error("fcn", reference.randomise(reference.FCN()), size) < 1e-5


@pytest.mark.slow
def test_training():
    module = reference.randomise(reference.FCN(5, 8))
    reference.compare_training("fcn", module, (48, 40), width=8)
