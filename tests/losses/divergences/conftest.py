import pytest
import torch
from torch import Tensor


# Of the session, because hypothesis draws many examples per test.
@pytest.fixture(scope="session")
def gradient():
    """Of the sum of a function's values, at some logits."""

    def at(function, logits: Tensor) -> Tensor:
        leaf = logits.clone().requires_grad_()
        (result,) = torch.autograd.grad(function(leaf).sum(), leaf)
        return result

    return at
